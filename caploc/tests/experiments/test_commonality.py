"""Scores with known neurons planted in them give Table 1's known numbers, and the known verdicts: within and between
datasets, trained and not, by one partition or another, of growing samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caploc.experiments.commonality import no_trend
from caploc.experiments.commonality_halves import Growth, mean_ranks, ranks
from caploc.experiments.study import TWINS
from caploc.findings import Chance, Count, Effect, Measurement, Outcome, Part, Test
from caploc.statistics import Shards, split_by
from caploc.statistics.splits import BOOTSTRAPS, EXCHANGES, Subsets
from caploc.tests.experiments.planted import (
    CONTROLS,
    LAYERS,
    NEURONS,
    PlantedStudy,
    exchangeable,
    noise,
    planted,
    sums_of,
)
from caploc.tests.experiments.verdicts import DATASETS, HALF_A, A, B, run, study_of

TOTAL = LAYERS * NEURONS


def value(found: Measurement) -> Part:
    assert found.value is not None
    return found.value


def p_of(found: Measurement, name: str) -> float | None:
    part = found.parts.get(name) or found.asides[name]
    assert isinstance(part, Part)
    return part.p


# ------------------------------------------------------------------------------------------ the numbers of Table 1


@pytest.mark.parametrize("size", [1, 3])
def test_planted_neurons_are_found_again(size: int) -> None:
    study = study_of(planted(0, 48, A), planted(1, 48, B), size=size)  # a shard a group that is left out
    for claim in ("table1-overlap", "abstract-gsm8k-overlap", "table1-iou", "table1-both-high"):
        finding, verdict = run(claim, study)
        found = finding.measurement
        assert verdict.outcome is Outcome.SUPPORTED
        assert value(found).estimate == 1 and value(found).interval == (1, 1)
        assert found.asides == {"located": 8, "matched random sets": Test(p=1e-4)}
        assert found.controls["text of imdb"] == 0
        twins = [value for name, value in found.controls.items() if name.startswith("twin")]
        assert len(twins) == len(TWINS) and all(math.isnan(one) or one < 0.1 for one in twins)
        assert 0 < found.chance < 0.02  # type: ignore[operator]
        assert finding.published == {"table1-iou": "93.08"}.get(claim, "96.42")
        assert (found.n, found.draws) == (48, 40)


def test_noise_is_not_found_again() -> None:
    for claim in ("table1-overlap", "table1-iou", "table1-both-high", "convergence-subset-suffices"):
        finding, verdict = run(claim, study_of(noise(0, 40)), sigma=3)
        found = finding.measurement
        assert verdict.outcome is not Outcome.SUPPORTED
        assert value(found).estimate < 0.2  # type: ignore[operator]
        if "matched random sets" in found.asides:
            assert p_of(found, "matched random sets") > 1e-3  # type: ignore[operator]


def test_a_known_overlap_and_iou() -> None:
    """Eight neurons in all examples; four more in those of one half of the data, four others in the rest."""
    scores = planted(0, 40, A, scale=0.01)
    for index, (layer, neuron) in enumerate(B):
        scores[slice(0, 20) if index < 4 else slice(20, 40), layer, neuron] += 1
    study = study_of(scores, answers={"gsm8k": [" a"] * 20 + [" b"] * 20})
    finding, _ = run("table1-partition-independence", study, sigma=3)
    assert finding.measurement.asides["overlap by answer"] == 8 / 12
    assert run("table1-overlap", study, sigma=3)[0].measurement.asides["located"] == 16


def test_the_neuron_ratio_is_that_of_the_whole_set() -> None:
    finding, verdict = run("table1-neuron", study_of(planted(0, 40, A)))
    found = finding.measurement
    assert (value(found).estimate, value(found).interval) == (8 / TOTAL, (8 / TOTAL, 8 / TOTAL))
    assert found.asides == {"located": 8, "neurons": TOTAL}
    assert found.parts == {"Chebyshev bound": Count(1 / 36)}
    assert finding.settings["dispersion"] == "std" and verdict.outcome is Outcome.SUPPORTED
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(0, NEURONS, 50)]
    assert run("table1-neuron", study_of(planted(0, 40, many)))[1].outcome is Outcome.REFUTED


def test_the_literal_variance_selects_nearly_all_where_scores_are_small() -> None:
    small, verdict = run("eq8-literal-variance", study_of(planted(0, 40, A) * 1e-4))
    assert value(small.measurement).estimate > 0.99  # type: ignore[operator]
    assert verdict.outcome is Outcome.REFUTED
    large, verdict = run("eq8-literal-variance", study_of(planted(0, 40, A, level=100)), sigma=0.1)
    assert value(large.measurement).estimate == 8 / TOTAL and verdict.outcome is Outcome.SUPPORTED
    assert large.settings["dispersion"] == "variance" and not large.measurement.parts


def test_which_reading_of_sigma_selects_as_few_as_the_paper_prints() -> None:
    claim = "method-default-sigma6"
    few = planted(0, 40, A[:4])
    # small scores: the literal variance selects nearly all
    finding, verdict = run(claim, study_of(few * 1e-4))
    found = finding.measurement
    assert value(found).estimate == found.parts["std"].estimate == 4 / TOTAL
    assert found.asides["std at sigma 6"] == 4 / TOTAL
    assert found.parts["variance"].estimate > 0.99  # type: ignore[operator]
    assert verdict.outcome is Outcome.SUPPORTED
    assert found.asides["std at sigma 3"] >= 4 / TOTAL >= found.asides["std at sigma 12"]  # type: ignore[operator]
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(0, NEURONS, 50)]
    assert run(claim, study_of(planted(0, 40, many) * 1e-4))[1].outcome is Outcome.REFUTED  # neither does
    alike = few / np.sqrt(few.mean(0).var())  # variance 1: the two readings are one
    finding, verdict = run(claim, study_of(alike))
    assert finding.measurement.parts["variance"].estimate == 4 / TOTAL
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.settings["dispersion"] == "std" and finding.published == "0.14"


# ------------------------------------------------------------------ against other text, and against an untrained model


def test_neurons_of_one_dataset_alone_are_its_commonality() -> None:
    finding, verdict = run("table1-commonality", study_of(planted(0, 40, A), planted(1, 40, B)), sigma=3)
    found = finding.measurement
    assert verdict.outcome is Outcome.SUPPORTED
    assert value(found).estimate == 1 and found.asides["within"] == 1
    assert found.controls["text of imdb"] == 0 and finding.settings["nearest"] == "imdb"
    assert p_of(found, "permutation") == p_of(found, "against imdb") == 1 / (EXCHANGES + 1)


def test_the_nearest_of_the_other_datasets_counts() -> None:
    data = {}
    for name, neurons in (("gsm8k", A), ("imdb", B), ("code25k", HALF_A)):
        data |= {(name, control): noise(5, 40) for control in CONTROLS}
        data[name, ""] = planted(len(data), 40, neurons)
    finding, _ = run("table1-commonality", PlantedStudy(data), sigma=3)
    found = finding.measurement
    assert finding.settings["nearest"] == "code25k" and value(found).estimate == 0.5
    assert found.controls["text of imdb"] == 0 and found.controls["text of code25k"] == 0.5
    assert p_of(found, "permutation") == 1 / (EXCHANGES + 1), "the larger of the two"


def test_a_dataset_of_the_same_kind_is_not_a_different_one() -> None:
    """Emotion and Imdb are both language (section 5.2): they may share all."""
    data = {}
    for name, neurons in (("emotion", A), ("imdb", A), ("code25k", B)):
        data |= {(name, control): noise(5, 40) for control in CONTROLS}
        data[name, ""] = planted(len(data), 40, neurons)
    finding, verdict = run("table1-commonality", PlantedStudy(data), 3, "imdb")
    assert verdict.outcome is Outcome.SUPPORTED and finding.settings["nearest"] == "code25k"
    assert finding.measurement.controls["text of emotion"] == 1
    assert "against emotion" not in finding.measurement.asides


def test_text_of_another_kind_that_overlaps_as_much_refutes() -> None:
    alike = study_of(planted(0, 40, A), planted(1, 40, A), {"scrambled": planted(2, 40, B)})
    verdict = run("table1-commonality", alike)[1]
    assert verdict.outcome is Outcome.REFUTED
    clear = study_of(planted(0, 40, A), planted(1, 40, A), {"untrained": planted(2, 40, B)})
    assert "random weights give as much" in run("table1-overlap", clear)[1].reason


def test_scrambled_text_that_overlaps_as_much_refutes() -> None:
    study = study_of(planted(0, 40, A), planted(1, 40, B), {"scrambled": planted(2, 40, B)})
    finding, verdict = run("table1-commonality", study)
    assert verdict.outcome is Outcome.REFUTED and "scrambled text overlaps equally" in verdict.reason
    assert finding.measurement.parts["scrambled gap"].interval90 == (0, 0)


def test_datasets_with_the_same_neurons_are_hardly_ever_told_apart() -> None:
    """False positives at level .05: more than 5 of 40 would come with probability .014 were it kept exactly."""
    outcomes, small, overlaps = [], 0, []
    for seed in range(40):
        study = study_of(exchangeable(2 * seed), exchangeable(2 * seed + 1), seed=seed)
        finding, verdict = run("table1-commonality", study, sigma=3)
        outcomes.append(verdict.outcome)
        small += p_of(finding.measurement, "permutation") < 0.05  # type: ignore[operator]
        overlaps.append(finding.measurement.asides["within"])
    assert outcomes.count(Outcome.SUPPORTED) <= 5 and small <= 5
    assert 0.2 < np.mean(overlaps) < 0.9, "else nothing could be told apart anyway"  # type: ignore[arg-type]


def test_datasets_with_other_neurons_are_told_apart() -> None:
    """The same with the second dataset's neurons permuted: the test has power."""
    outcomes = []
    for seed in range(8):
        other = np.roll(exchangeable(2 * seed + 1, 48), 77, axis=2)
        study = study_of(exchangeable(2 * seed, 48), other, seed=seed)
        outcomes.append(run("table1-commonality", study, sigma=3)[1].outcome)
    assert outcomes.count(Outcome.SUPPORTED) >= 7


def test_groups_that_follow_each_other_are_told_apart_from_another_dataset_all_the_same() -> None:
    """Two groups of examples with neurons of their own, one after the other: halves in order share none of them."""
    groups = np.concatenate([planted(0, 24, A[:4]), planted(1, 24, A[4:])])
    finding, _ = run("table1-commonality", study_of(groups, planted(2, 48, B)), sigma=3)
    assert finding.measurement.asides["within"] == 1
    assert p_of(finding.measurement, "permutation") == pytest.approx(1 / (1 + EXCHANGES))


def test_an_untrained_model_without_common_neurons() -> None:
    finding, verdict = run("control-untrained-overlap", study_of(planted(0, 40, A)), sigma=3)
    found = finding.measurement
    assert verdict.outcome is Outcome.SUPPORTED
    shown = [found.controls[f"twin {number} at 40 samples"] for number in range(1, 5)]
    assert found.asides["trained"] == 1 and max(shown) < 0.2
    assert 0.99 - max(shown) - 0.3 < value(found).estimate < 0.99 - max(shown)  # type: ignore[operator]


def test_an_untrained_model_that_overlaps_as_much_refutes() -> None:
    study = study_of(planted(0, 40, A), controls={"untrained": planted(1, 40, B)})
    finding, verdict = run("control-untrained-overlap", study)
    assert value(finding.measurement).estimate == 0 and verdict.outcome is Outcome.REFUTED


# -------------------------------------------------------------------------------------------------- other partitions


def test_common_neurons_do_not_depend_on_the_partition() -> None:
    finding, verdict = run("table1-partition-independence", study_of(planted(0, 40, A)))
    assert verdict.outcome is Outcome.SUPPORTED
    assert value(finding.measurement).interval90 == (0, 0)


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
    assert finding.measurement.asides[f"overlap by {kind}"] == 0
    gap = finding.measurement.parts[f"by {kind}"]
    # a single example on the other side, as in some bootstrap samples, has its neurons located there as well
    assert isinstance(gap, Effect) and gap.interval[0] > 0.1  # type: ignore[index]


def test_structured_halves() -> None:
    """Shards by their examples' mean rank, those that tie as they stand; bootstrap samples ordered anew."""
    rank = mean_ranks(sums_of(np.zeros((6, 1, 2)), 2), [5, 5, 1, 2, 3, 1])
    assert rank.tolist() == [5, 1.5, 2]
    asked: list[list[int]] = []

    def locate(subsets: Subsets) -> np.ndarray:
        asked.extend(subset.tolist() for subset in subsets)
        return np.ones((len(subsets), 1, 2), bool)

    split_by(Shards(3, locate), rank, 0)
    assert asked == [[1], [2, 0]]
    asked.clear()
    order = np.random.default_rng(0).permutation(16)
    split_by(Shards(16, locate), order, 0)
    assert asked[0] == np.argsort(order)[:8].tolist() and len(asked) == 2 * (1 + BOOTSTRAPS)
    for first, second in zip(asked[2::2], asked[3::2], strict=True):
        assert order[first].max() <= order[second].min()


# --------------------------------------------------------------------------------------------------- growing samples


def test_the_overlap_rises_and_then_stops() -> None:
    study = study_of(planted(3, 192, A, scale=0.5))
    finding, verdict = run("convergence-llama2-7b", study, sigma=3)
    found = finding.measurement
    assert verdict.outcome is Outcome.SUPPORTED and found.parts["rise"].interval[0] > 0  # type: ignore[index]
    assert finding.settings["sizes"] == [12, 24, 48, 96, 192]
    curve = [found.asides[f"overlap at {size}"] for size in (12, 24, 48, 96, 192)]
    assert curve[0] < 0.9 < 0.99 < curve[-1] and curve[0] < curve[1] < curve[2]  # type: ignore[operator]


def test_an_overlap_that_still_rises_has_not_converged() -> None:
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(15)]
    study = study_of(noise(0, 96), planted(3, 96, many, scale=2.2))
    finding, verdict = run(
        "convergence-llama2-7b", study, sigma=2, dataset="imdb"
    )  # the paper has half as many
    assert verdict.outcome is Outcome.REFUTED and "still rising" in verdict.reason
    assert finding.measurement.parts["rise"].interval[0] > 0  # type: ignore[index]


def test_an_overlap_of_noise_does_not_converge() -> None:
    assert run("convergence-llama2-7b", study_of(noise(3, 96)), sigma=3)[1].outcome is not Outcome.SUPPORTED


@pytest.mark.parametrize(
    ("defined", "why"),
    [
        ([True] * 3, None),
        ([False, True, True, True], None),
        ([True] * 2, "a trend takes 3 sample sizes, and these data give 8, 16; give more data"),
        ([True], "a trend takes 3 sample sizes, and these data give 8; give more data"),
        ([False, True], "floor effect: masks are empty at 8 of the sample sizes 8, 16"),
        ([True, True, True, False], "floor effect: masks are empty at 64 of the sample sizes 8, 16, 32, 64"),
        ([False] * 2, "floor effect: masks are empty at every one of the sample sizes 8, 16"),
    ],
)
def test_why_there_is_no_trend(defined: list[bool], why: str | None) -> None:
    sizes = 8 * 2 ** np.arange(len(defined))
    assert no_trend(sizes, np.array(defined)) == why


def test_the_curve_against_the_examples_themselves() -> None:
    """The last point halves all shards; sizes double up to it and count examples."""
    scores = planted(0, 70, A, scale=0.7)
    study = study_of(scores, size=2, seed=5)
    curve, shards = study.result(Growth("gsm8k", 3)), sums_of(scores, 2)
    assert curve.sizes.tolist() == [16, 34, 70] and curve.gathered().shape == (20, 3)
    order = np.random.default_rng([5, 8]).permutation(35)
    for column, count in enumerate((8, 17, 35)):
        sets = []
        for begin in (0, 1):
            chosen = [example for shard in order[begin:count:2] for example in shards.members[shard]]
            mean = scores[chosen].mean(0)
            sets.append(np.abs(mean - mean.mean()) > 3 * mean.std())
        both = (sets[0] & sets[1]).sum()
        expected = (both / sets[0].sum() + both / sets[1].sum()) / 2
        assert curve.gathered()[0, column] == pytest.approx(expected)


def test_half_of_the_data_suffices_where_neurons_are_common() -> None:
    finding, verdict = run("convergence-subset-suffices", study_of(planted(0, 64, A)))
    assert verdict.outcome is Outcome.SUPPORTED and value(finding.measurement).estimate == 1
    assert finding.measurement.asides == {"a share of 0.125": 1, "a share of 0.25": 1}


# --------------------------------------------------------------------------------------------------- across datasets


def test_datasets_that_share_neurons() -> None:
    finding, verdict = run("fig4-dataset-overlap", study_of(planted(0, 40, A), planted(1, 40, HALF_A)))
    found = finding.measurement
    assert verdict.outcome is Outcome.SUPPORTED
    assert value(found).estimate == 0.5 and value(found).interval == (0.5, 0.5)
    assert list(found.parts) == ["gsm8k~imdb"]
    pair = found.parts["gsm8k~imdb"]
    assert isinstance(pair, Chance) and pair.estimate == 0.5
    assert found.chance == pytest.approx(2 * 2 / NEURONS * LAYERS / 8)
    tail = sum(math.comb(8, k) * math.comb(TOTAL - 8, 8 - k) for k in range(4, 9)) / math.comb(TOTAL, 8)
    assert pair.p == pytest.approx(tail)
    assert pair.p_by_layer <= 2e-4  # type: ignore[operator]
    kinds = [plot.kind for plot in found.plots]
    assert kinds == ["heatmap", "matrix", "splits", "convergence", "completeness"]
    assert found.plots[1].data["values"] == [[1, 0.5], [0.5, 1]]
    assert found.plots[2].data["published"] == pytest.approx({"gsm8k": 0.9642, "imdb": 0.9581})
    assert found.plots[4].data["errors"] == {name: [0.25] * LAYERS for name in DATASETS}
    assert found.n == 80 and finding.published is None


def test_datasets_that_share_none() -> None:
    finding, verdict = run("fig4-dataset-overlap", study_of(planted(0, 40, A), planted(1, 40, B)))
    assert verdict.outcome is Outcome.REFUTED and value(finding.measurement).estimate == 0


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
    pair = finding.measurement.of(Chance)["gsm8k~imdb"]
    assert pair.p < 0.01 and pair.p_by_layer > 0.3  # type: ignore[operator]
    assert verdict.outcome is Outcome.INCONCLUSIVE
