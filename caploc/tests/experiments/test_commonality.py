"""Each experiment of group D on scores with known neurons planted in them: the known answer, and the known verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from caploc.examples import Exclusion
from caploc.experiments import commonality as experiments
from caploc.experiments.commonality.across import PERMUTATIONS
from caploc.experiments.commonality.convergence import convergence_curve
from caploc.experiments.commonality.partition import halves_by, ranks
from caploc.findings import Cell, Finding, Outcome, Verdict
from caploc.papers import judge, load_paper
from caploc.tests.experiments.planted import (
    CONTROLS,
    LAYERS,
    NEURONS,
    PlantedStudy,
    noise,
    planted,
    sums_of,
)

TOTAL = LAYERS * NEURONS
A = [(0, 3), (0, 77), (1, 5), (1, 200), (2, 9), (2, 130), (3, 4), (3, 249)]
B = [(layer, neuron + 1) for layer, neuron in A[:-1]] + [(3, 0)]
HALF_A = A[::2] + B[1::2]
DATASETS = ("gsm8k", "imdb")
PAPER = load_paper("capability_localization")

EXPERIMENTS: Mapping[str, Callable[..., Finding]] = {
    "table1-overlap": experiments.overlap,
    "abstract-gsm8k-overlap": experiments.overlap,
    "table1-iou": experiments.iou,
    "table1-both-high": experiments.both_high,
    "table1-neuron": experiments.neuron_ratio,
    "table1-commonality": experiments.commonality,
    "control-untrained-overlap": experiments.trained_minus_untrained,
    "table1-partition-independence": experiments.independence,
    "convergence-llama2-7b": experiments.convergence,
    "convergence-subset-suffices": experiments.subset_suffices,
    "fig4-dataset-overlap": experiments.dataset_overlap,
    "eq8-literal-variance": lambda *args: experiments.neuron_ratio(*args, dispersion="variance"),
}


def study_of(
    first: np.ndarray,
    second: np.ndarray | None = None,
    controls: Mapping[str, np.ndarray] | None = None,
    **options: object,
) -> PlantedStudy:
    """Two datasets, the second of noise unless given; their controls are noise unless given."""
    data = {("gsm8k", ""): first, ("imdb", ""): noise(90, len(first)) if second is None else second}
    for name in DATASETS:
        for number, control in enumerate(CONTROLS):
            scores = (controls or {}).get(control)
            data[name, control] = noise(91 + number, len(first)) if scores is None else scores
    return PlantedStudy(data, **options)  # type: ignore[arg-type]


def run(claim: str, study: PlantedStudy, sigma: float = 6, dataset: str = "gsm8k") -> tuple[Finding, Verdict]:
    """The finding, which must be complete and strict JSON, and its verdict."""
    overall = claim == "fig4-dataset-overlap"
    cell = Cell("llama2-7b", None if overall else dataset, sigma)
    finding = EXPERIMENTS[claim](study, cell, claim)
    assert (finding.claim, finding.cell) == (claim, cell)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(PAPER.claim(claim), finding)


def test_every_experiment_is_tested() -> None:
    tested = {experiment for experiment in EXPERIMENTS.values() if experiment in vars(experiments).values()}
    assert {getattr(experiments, name) for name in experiments.__all__} == tested


# ------------------------------------------------------------------------------------------------ Table 1


@pytest.mark.parametrize("size", [1, 3])
def test_planted_neurons_are_found_again(size: int) -> None:
    study = study_of(planted(0, 40, A), planted(1, 40, B), size=size)
    for claim in ("table1-overlap", "abstract-gsm8k-overlap", "table1-iou", "table1-both-high"):
        finding, verdict = run(claim, study)
        assert verdict.outcome is Outcome.SUPPORTED
        assert finding.estimate == 1 and finding.interval == (1, 1) and finding.quantities["located"] == 8
        assert finding.p_values == {"matched random sets": 1e-4}
        assert finding.controls["text of imdb"] == 0
        assert math.isnan(finding.controls["untrained twin"]) or finding.controls["untrained twin"] < 0.1
        assert 0 < finding.chance < 0.02  # type: ignore[operator]
        assert finding.published == {"table1-iou": "93.08"}.get(claim, "96.42")
        assert (finding.n, finding.draws) == (40, 40)


def test_noise_is_not_found_again() -> None:
    for claim in ("table1-overlap", "table1-iou", "table1-both-high", "convergence-subset-suffices"):
        finding, verdict = run(claim, study_of(noise(0, 40)), sigma=3)
        assert verdict.outcome is not Outcome.SUPPORTED
        assert finding.estimate < 0.2  # type: ignore[operator]
        assert finding.p_values.get("matched random sets", 1) > 1e-3


def test_a_known_overlap_and_iou() -> None:
    """Eight neurons in all examples; four more in those of one half of the data, four others in the rest."""
    scores = planted(0, 40, A, scale=0.01)
    for index, (layer, neuron) in enumerate(B):
        scores[slice(0, 20) if index < 4 else slice(20, 40), layer, neuron] += 1
    study = study_of(scores, answers={"gsm8k": [" a"] * 20 + [" b"] * 20})
    finding, _ = run("table1-partition-independence", study, sigma=3)
    assert finding.quantities["overlap by answer"] == 8 / 12
    assert run("table1-overlap", study, sigma=3)[0].quantities["located"] == 16


def test_the_neuron_ratio_is_that_of_the_whole_set() -> None:
    finding, verdict = run("table1-neuron", study_of(planted(0, 40, A)))
    assert (finding.estimate, finding.interval) == (8 / TOTAL, (8 / TOTAL, 8 / TOTAL))
    assert finding.quantities == {"located": 8, "neurons": TOTAL, "chebyshev_bound": 1 / 36}
    assert finding.settings["dispersion"] == "std" and verdict.outcome is Outcome.SUPPORTED
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(0, NEURONS, 50)]
    assert run("table1-neuron", study_of(planted(0, 40, many)))[1].outcome is Outcome.REFUTED


def test_the_literal_variance_selects_nearly_all_where_scores_are_small() -> None:
    small, verdict = run("eq8-literal-variance", study_of(planted(0, 40, A) * 1e-4))
    assert small.estimate > 0.99 and verdict.outcome is Outcome.REFUTED  # type: ignore[operator]
    large, verdict = run("eq8-literal-variance", study_of(planted(0, 40, A, level=100)), sigma=0.1)
    assert large.estimate == 8 / TOTAL and verdict.outcome is Outcome.SUPPORTED
    assert large.settings["dispersion"] == "variance" and "chebyshev_bound" not in large.quantities


# ------------------------------------------------------------------------------------------------ commonality


def test_neurons_of_one_dataset_alone_are_its_commonality() -> None:
    finding, verdict = run("table1-commonality", study_of(planted(0, 40, A), planted(1, 40, B)), sigma=3)
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.estimate == 1 and finding.quantities["within"] == 1
    assert finding.controls["text of imdb"] == 0 and finding.settings["nearest"] == "imdb"
    assert finding.p_values["permutation"] == finding.p_values["against imdb"] == 1 / (PERMUTATIONS + 1)


def test_the_nearest_of_the_other_datasets_counts() -> None:
    data = {}
    for name, neurons in (("gsm8k", A), ("imdb", B), ("code25k", HALF_A)):
        data |= {(name, control): noise(5, 40) for control in CONTROLS}
        data[name, ""] = planted(len(data), 40, neurons)
    study = PlantedStudy(data)
    finding, _ = run("table1-commonality", study, sigma=3)
    assert finding.settings["nearest"] == "code25k" and finding.estimate == 0.5
    assert finding.controls["text of imdb"] == 0 and finding.controls["text of code25k"] == 0.5
    assert finding.p_values["permutation"] == 2 / (PERMUTATIONS + 1), "Holm over both others"


def test_scrambled_text_that_overlaps_as_much_refutes() -> None:
    study = study_of(planted(0, 40, A), planted(1, 40, B), {"scrambled": planted(2, 40, B)})
    finding, verdict = run("table1-commonality", study)
    assert verdict.outcome is Outcome.REFUTED and "scrambled text overlaps equally" in verdict.reason
    assert finding.quantities["random_text_gap90_low"] == finding.quantities["random_text_gap90_high"] == 0


# Every neuron at its own level, so that which ones pass varies and the overlap lies well below 1.
WEAK = np.random.default_rng(12).gamma(0.3, 0.5, size=(LAYERS, NEURONS))


def exchangeable(seed: int, examples: int = 24) -> np.ndarray:
    return WEAK + noise(seed, examples, scale=1.5)


def test_datasets_with_the_same_neurons_are_hardly_ever_told_apart() -> None:
    """False positives at level .05: more than 5 of 40 would come with probability .014 were it kept exactly."""
    outcomes, small, overlaps = [], 0, []
    for seed in range(40):
        study = study_of(exchangeable(2 * seed), exchangeable(2 * seed + 1), seed=seed)
        finding, verdict = run("table1-commonality", study, sigma=3)
        outcomes.append(verdict.outcome)
        small += finding.p_values["permutation"] < 0.05
        overlaps.append(finding.quantities["within"])
    assert outcomes.count(Outcome.SUPPORTED) <= 5 and small <= 5
    assert 0.2 < np.mean(overlaps) < 0.9, "else nothing could be told apart anyway"


def test_datasets_with_other_neurons_are_told_apart() -> None:
    """The same with the second dataset's neurons permuted: the test has power."""
    outcomes = []
    for seed in range(8):
        other = np.roll(exchangeable(2 * seed + 1, 48), 77, axis=2)
        study = study_of(exchangeable(2 * seed, 48), other, seed=seed)
        outcomes.append(run("table1-commonality", study, sigma=3)[1].outcome)
    assert outcomes.count(Outcome.SUPPORTED) >= 7


# ------------------------------------------------------------------------------------------------ trained or not


def test_an_untrained_model_without_common_neurons() -> None:
    finding, verdict = run("control-untrained-overlap", study_of(planted(0, 40, A)), sigma=3)
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.quantities["trained"] == 1 and finding.controls["untrained twin"] < 0.2
    assert finding.estimate == pytest.approx(1 - finding.controls["untrained twin"])


def test_an_untrained_model_that_overlaps_as_much_refutes() -> None:
    study = study_of(planted(0, 40, A), controls={"untrained": planted(1, 40, B)})
    finding, verdict = run("control-untrained-overlap", study)
    assert finding.estimate == 0 and verdict.outcome is Outcome.REFUTED


# ------------------------------------------------------------------------------------------------ partitions


def test_common_neurons_do_not_depend_on_the_partition() -> None:
    finding, verdict = run("table1-partition-independence", study_of(planted(0, 40, A)))
    assert verdict.outcome is Outcome.SUPPORTED and finding.quantities["range_random_structured"] == 0


@pytest.mark.parametrize("kind", ["prompt length", "answer", "source order"])
def test_neurons_that_depend_on_the_partition_refute(kind: str) -> None:
    """The half of the examples that comes first in one order has other neurons than the rest."""
    answers = {"gsm8k": [" ab"[:2] if index % 2 else " b" for index in range(40)]}
    located = study_of(noise(0, 40), answers=answers).located("gsm8k")
    rank = np.array(ranks(located)[kind])
    scores = noise(0, 40, 0.01)
    for first, neurons in ((True, A), (False, B)):
        for example in np.flatnonzero((rank < np.median(rank)) == first):
            for layer, neuron in neurons:
                scores[example, layer, neuron] += 1
    finding, verdict = run("table1-partition-independence", study_of(scores, answers=answers), sigma=3)
    assert verdict.outcome is Outcome.REFUTED
    assert finding.settings["worst"] == kind and finding.quantities[f"overlap by {kind}"] == 0
    assert finding.quantities["worst_structured_gap_low"] > 0.5


def test_structured_halves() -> None:
    """Shards in the order of their examples' mean rank, those that tie as they stand."""
    shards = sums_of(np.zeros((6, 1, 2)), 2)
    first, second = halves_by(shards, [5, 5, 1, 2, 3, 1])
    assert (first.tolist(), second.tolist()) == ([1], [2, 0])


# ------------------------------------------------------------------------------------------------ convergence


def test_the_overlap_rises_and_then_stops() -> None:
    study = study_of(planted(3, 192, A, scale=0.5))
    finding, verdict = run("convergence-llama2-7b", study, sigma=3)
    assert verdict.outcome is Outcome.SUPPORTED and finding.p_values["trend"] < 1e-6
    assert finding.settings["sizes"] == [12, 24, 48, 96, 192]
    curve = [finding.quantities[f"overlap at {size}"] for size in (12, 24, 48, 96, 192)]
    assert curve[0] < 0.9 < 0.99 < curve[-1] and curve[0] < curve[1] < curve[2]


def test_an_overlap_that_still_rises_has_not_converged() -> None:
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(15)]
    finding, verdict = run("convergence-llama2-7b", study_of(planted(3, 96, many, scale=2.2)), sigma=2)
    assert verdict.outcome is Outcome.REFUTED and "still rising" in verdict.reason
    assert finding.p_values["trend"] < 0.01


def test_an_overlap_of_noise_does_not_converge() -> None:
    assert run("convergence-llama2-7b", study_of(noise(3, 96)), sigma=3)[1].outcome is not Outcome.SUPPORTED


def test_the_curve_against_the_examples_themselves() -> None:
    """The last point halves all shards; sizes double up to it and count examples."""
    scores = planted(0, 70, A, scale=0.7)
    shards = sums_of(scores, 2)
    curve = convergence_curve(shards, 3, seed=5)
    assert curve.sizes.tolist() == [16, 34, 70] and curve.overlap.shape == (20, 3)
    order = np.random.default_rng([5, 8]).permutation(35)
    for column, count in enumerate((8, 17, 35)):
        sets = []
        for begin in (0, 1):
            chosen = [example for shard in order[begin:count:2] for example in shards.members[shard]]
            mean = scores[chosen].mean(0)
            sets.append(np.abs(mean - mean.mean()) > 3 * mean.std())
        both = (sets[0] & sets[1]).sum()
        expected = (both / sets[0].sum() + both / sets[1].sum()) / 2
        assert curve.overlap[0, column] == pytest.approx(expected)


def test_half_of_the_data_suffices_where_neurons_are_common() -> None:
    finding, verdict = run("convergence-subset-suffices", study_of(planted(0, 64, A)))
    assert verdict.outcome is Outcome.SUPPORTED and finding.estimate == 1
    assert finding.quantities == {"a share of 0.125": 1, "a share of 0.25": 1}


# ------------------------------------------------------------------------------------------------ Fig. 4


def test_datasets_that_share_neurons() -> None:
    finding, verdict = run("fig4-dataset-overlap", study_of(planted(0, 40, A), planted(1, 40, HALF_A)))
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.estimate == 0.5 and finding.interval == (0.5, 0.5)
    assert finding.quantities == {"gsm8k~imdb": 0.5}
    assert finding.chance == pytest.approx(2 * 2 / NEURONS * LAYERS / 8)
    tail = sum(math.comb(8, k) * math.comb(TOTAL - 8, 8 - k) for k in range(4, 9)) / math.comb(TOTAL, 8)
    assert finding.p_values["pair:gsm8k~imdb"] == pytest.approx(tail)
    assert finding.p_values["layer:gsm8k~imdb"] <= 2e-4
    kinds = [plot.kind for plot in finding.plots]
    assert kinds == ["heatmap", "matrix", "splits", "convergence", "completeness"]
    assert finding.plots[1].data["values"] == [[1, 0.5], [0.5, 1]]
    assert finding.plots[4].data["errors"] == {name: [0.25] * LAYERS for name in DATASETS}
    assert finding.n == 80


def test_datasets_that_share_none() -> None:
    finding, verdict = run("fig4-dataset-overlap", study_of(planted(0, 40, A), planted(1, 40, B)))
    assert verdict.outcome is Outcome.REFUTED and finding.estimate == 0


def test_meeting_in_one_layer_is_not_enough() -> None:
    """Forty neurons each, all in layer 0, sharing what chance gives there."""
    generator = np.random.default_rng(0)
    first = generator.choice(NEURONS, 40, replace=False)
    rest = np.setdiff1d(np.arange(NEURONS), first)
    second = [*first[:7], *generator.choice(rest, 33, replace=False)]
    study = study_of(
        planted(0, 40, [(0, int(n)) for n in first], scale=0.01),
        planted(1, 40, [(0, int(n)) for n in second], scale=0.01),
    )
    finding, verdict = run("fig4-dataset-overlap", study, sigma=3)
    assert finding.p_values["pair:gsm8k~imdb"] < 0.01 and finding.p_values["layer:gsm8k~imdb"] > 0.3
    assert verdict.outcome is Outcome.INCONCLUSIVE


# ------------------------------------------------------------------------------------------------ nothing to measure


@pytest.mark.parametrize("claim", EXPERIMENTS)
@pytest.mark.parametrize("examples", [16, 40])
def test_empty_masks_are_a_floor_effect(claim: str, examples: int) -> None:
    """Scores all equal, and noise of which nothing passes."""
    for scores in (np.zeros((examples, LAYERS, NEURONS)), noise(0, examples)):
        study = study_of(scores, scores, dict.fromkeys(CONTROLS, scores))
        if claim == "eq8-literal-variance" and scores.any():
            continue  # the variance of noise as small as a mean's selects nearly all
        finding, verdict = run(claim, study, sigma=12)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reason.startswith("floor effect: ") and finding.floor == verdict.reason


@pytest.mark.parametrize("control", ["untrained", "scrambled"])
def test_a_control_that_locates_nothing_says_nothing(control: str) -> None:
    empty = {control: np.zeros((40, LAYERS, NEURONS))}
    study = study_of(planted(0, 40, A), planted(1, 40, B), empty)
    claim = {"untrained": "control-untrained-overlap", "scrambled": "table1-commonality"}[control]
    verdict = run(claim, study)[1]
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.startswith("floor effect: ") and verdict.reason.endswith(" of the control")
    assert run("table1-overlap", study)[1].outcome is Outcome.SUPPORTED


@pytest.mark.parametrize("claim", EXPERIMENTS)
def test_the_fewest_samples_are_enough_to_run(claim: str) -> None:
    study = study_of(planted(0, 16, A), planted(1, 16, HALF_A))
    finding, verdict = run(claim, study)
    assert finding.estimate is not None or finding.floor is not None
    if claim == "convergence-llama2-7b":
        assert verdict.outcome is Outcome.INCONCLUSIVE, "two sizes make no trend"


@pytest.mark.parametrize("claim", [claim for claim in EXPERIMENTS if claim != "fig4-dataset-overlap"])
def test_a_dataset_that_cannot_be_had_is_not_run(claim: str) -> None:
    study = study_of(planted(0, 40, A))
    finding, verdict = run(claim, study, dataset="meta_math")
    assert verdict == Verdict(Outcome.NOT_RUN, "meta_math cannot be had here; give it")
    assert finding.estimate is None


@pytest.mark.parametrize("claim", ["table1-commonality", "fig4-dataset-overlap"])
def test_one_dataset_is_not_enough_to_compare(claim: str) -> None:
    data = {("gsm8k", control): planted(0, 40, A) for control in ("", *CONTROLS)}
    verdict = run(claim, PlantedStudy(data))[1]
    assert verdict.outcome is Outcome.NOT_RUN and verdict.reason.endswith("give another --dataset")


# ------------------------------------------------------------------------------------------------ the finding


def test_a_finding_says_what_was_left_out() -> None:
    study = study_of(planted(0, 40, A))
    study.excluded["gsm8k"] = [Exclusion("q1", "too long"), Exclusion("q2", "too long")]
    finding, _ = run("table1-overlap", study)
    assert "2 examples of gsm8k left out: longer than the model's context" in finding.notes
    assert finding.settings["sigma"] == 6 and finding.settings["dataset"] == "gsm8k"


@pytest.mark.parametrize("claim", EXPERIMENTS)
def test_the_same_seed_gives_the_same_finding(claim: str) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002

    def once(seed: int) -> str:
        study = study_of(exchangeable(0, 32), exchangeable(1, 32), seed=seed, draws=20)
        return json.dumps(run(claim, study, sigma=2)[0].to_json())

    assert once(0) == once(0)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    if claim not in ("fig4-dataset-overlap",):
        assert once(0) != once(1)


@pytest.mark.parametrize(("sigmas", "with_figures"), [((3, 6, 12), 6), ((3, 12), 3), ((2,), 2)])
def test_figures_come_with_one_sigma(sigmas: tuple[float, ...], with_figures: float) -> None:
    """The paper's where it is asked for, or else the first."""
    study = study_of(planted(0, 40, A), planted(1, 40, B), sigmas=sigmas)
    for claim in ("fig4-dataset-overlap", "table1-partition-independence"):
        for sigma in sigmas:
            assert bool(run(claim, study, sigma)[0].plots) == (sigma == with_figures)
