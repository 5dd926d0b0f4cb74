"""Rules over located neurons: on planted shards through the experiments themselves, nothing is seldom SUPPORTED.

80 examples, fewer than by default on a CPU, and 100 draws; about 30 neurons of 1,000 located, as at sigma 3 in the
embedded models. Seeds are the number of the run.
An effect is planted of the size that the claim states as ``detectable``, in the unit of its estimate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pytest

from caploc.experiments import commonality_halves
from caploc.experiments.locating import ShardSums
from caploc.experiments.study import TWINS, Located
from caploc.findings import Outcome, Verdict
from caploc.neurons import ScoreSums
from caploc.rules import Comparison
from caploc.statistics import splits
from caploc.tests.experiments.planted import LAYERS, NEURONS, PAPER, PlantedStudy
from caploc.tests.experiments.verdicts import run
from caploc.tests.papers import rates
from caploc.tests.papers.rates import assert_often, assert_seldom

EXAMPLES, DRAWS, SIGMA = 80, 100, 3.0
TOTAL = LAYERS * NEURONS
# strong, middling and weak ones, so that which of them pass varies
LEVELS = np.exp(np.linspace(1, -1, 60))
NOISE = 1.5
SPREAD_OUT = np.argsort(np.arange(len(LEVELS)) * (np.sqrt(5) - 1) / 2 % 1)
"""An order in which to let neurons differ, so that strong and weak ones do alike."""


def places(rng: np.random.Generator, among: int = TOTAL) -> np.ndarray:
    """Where the neurons sit: as many as there are levels, and as many spare places."""
    return rng.permutation(among)[: 2 * len(LEVELS)].reshape(2, -1)


def partly_moved(first: np.ndarray, spare: np.ndarray, share: float) -> np.ndarray:
    """The same places but for a share of them."""
    moved = SPREAD_OUT[: round(share * len(LEVELS))]
    elsewhere = first.copy()
    elsewhere[moved] = spare[moved]
    return elsewhere


def scores(rng: np.random.Generator, where: np.ndarray | None, noise: float = NOISE) -> np.ndarray:
    """``[examples, layers, neurons]``: noise, in which neurons at these places rise to their levels."""
    drawn = noise * rng.standard_normal((EXAMPLES, TOTAL), dtype=np.float32)
    if where is not None:
        drawn[:, where] += LEVELS
    return drawn.reshape(EXAMPLES, LAYERS, NEURONS)


def shards_of(values: np.ndarray) -> ShardSums:
    """A shard an example, of which the experiments here read only the sums."""
    values, layers = values.astype(float), np.zeros(values.shape[1])
    whole = ScoreSums(values.sum(0), (values**2).sum(0), layers, layers, layers, len(values))
    members = tuple((index,) for index in range(len(values)))
    return ShardSums(values.reshape(len(values), -1), np.ones(len(values), dtype=int), members, whole)


CONTROL = shards_of(scores(np.random.default_rng(1), None))
SAME_EXAMPLES = PlantedStudy({("gsm8k", ""): np.zeros((EXAMPLES, 1, 1))}).located("gsm8k")


class ShardStudy(PlantedStudy):
    """Whatever the dataset, the examples are the same."""

    def located(self, dataset: str) -> Located:
        return SAME_EXAMPLES


def judged(
    claim: str,
    run_number: int,
    data: Mapping[str, np.ndarray],
    untrained: Callable[[], np.ndarray] | None = None,
) -> tuple[float | None, Verdict]:
    """The estimate and the verdict on these datasets; scrambled text and, unless given, the twin locate by accident."""
    located: dict[tuple[str, str], ShardSums] = {}
    for name, values in data.items():
        located |= {(name, ""): shards_of(values), (name, "scrambled"): CONTROL}
        for twin in TWINS:
            located[name, twin] = CONTROL if untrained is None else shards_of(untrained())
    study = ShardStudy(located, draws=DRAWS, seed=run_number)
    finding, verdict = run(claim, study, SIGMA)
    found = finding.measurement.value
    return found.estimate if found is not None else None, verdict


def commonality(number: int, share: float, twin: float | None = None) -> tuple[float | None, Verdict]:
    """The second dataset has a share of its neurons elsewhere; the untrained twin has none, or others in such noise."""
    rng = np.random.default_rng([1, number])
    first, spare = places(rng)
    other = scores(rng, partly_moved(first, spare, share))
    fresh = None if twin is None else partial(scores, rng, spare, twin)
    return judged("table1-commonality", number, {"gsm8k": scores(rng, first), "imdb": other}, fresh)


def overlap(number: int, claim: str, noise: float, twin: float | None = None) -> tuple[float | None, Verdict]:
    """Halves of one dataset in such noise, and the untrained twin's other neurons in its own."""
    rng = np.random.default_rng([7, number])
    first, spare = places(rng)
    fresh = None if twin is None else partial(scores, rng, spare, twin)
    return judged(claim, number, {"gsm8k": scores(rng, first, noise)}, fresh)


def untrained(number: int, noise: float) -> tuple[float | None, Verdict]:
    """The twin has the same neurons in more noise."""
    rng = np.random.default_rng([2, number])
    first, _ = places(rng)
    own = scores(rng, first)
    return judged("control-untrained-overlap", number, {"gsm8k": own}, partial(scores, rng, first, noise))


def shared(number: int, share: float, datasets: tuple[str, ...]) -> tuple[float | None, Verdict]:
    """Datasets that have a share of their neurons in common, and the others each in places of its own."""
    rng = np.random.default_rng([3, number])
    first, _ = places(rng)
    rest = np.setdiff1d(np.arange(TOTAL), first)
    data = {name: scores(rng, partly_moved(first, rng.permutation(rest), 1 - share)) for name in datasets}
    return judged("fig4-dataset-overlap", number, data)


def crowded(number: int) -> tuple[float | None, Verdict]:
    """Two datasets whose neurons all sit in one layer, at random there."""
    rng = np.random.default_rng([4, number])
    data = {name: scores(rng, places(rng, NEURONS)[0]) for name in ("gsm8k", "imdb")}
    return judged("fig4-dataset-overlap", number, data)


NOTHING: Mapping[str, tuple[str, Callable[[int], tuple[float | None, Verdict]]]] = {
    "other neurons, as clear, in the twin of the same weights": (
        "table1-commonality",
        lambda number: commonality(number, 0.4, NOISE),
    ),
    "same neurons in both datasets": ("table1-commonality", lambda number: commonality(number, 0)),
    "as little noise in the twin": ("control-untrained-overlap", lambda number: untrained(number, NOISE)),
    "neurons in places of their own": (
        "fig4-dataset-overlap",
        lambda number: shared(number, 0, ("gsm8k", "imdb")),
    ),
    "neurons crowded in one layer": ("fig4-dataset-overlap", crowded),
}
ALL_DATASETS = ("gsm8k", "meta_math", "code25k", "emotion", "imdb")
PLANTED: Mapping[str, Callable[[int], tuple[float | None, Verdict]]] = {
    "table1-commonality": lambda number: commonality(number, 0.18),
    "control-untrained-overlap": lambda number: untrained(number, 2.3 * NOISE),
    "fig4-dataset-overlap": lambda number: shared(number, 0.22, ALL_DATASETS),
}


@pytest.fixture(autouse=True)
def fewer_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as one comparison needs; the audit has more, for the correction over a family. With fewer
    splits of each bootstrap sample intervals are a little wider than the audit's. The same shares of fewer runs."""
    for name, number in (("RUNS", 60), ("AT_MOST", 3), ("AT_LEAST", 48)):
        monkeypatch.setattr(rates, name, number)
    monkeypatch.setattr(splits, "EXCHANGES", 199)
    monkeypatch.setattr(splits, "SPLITS_EACH", 5)
    monkeypatch.setattr(commonality_halves, "ORDERS", 8)


@pytest.mark.parametrize("world", NOTHING)
def test_nothing_is_seldom_supported(world: str) -> None:
    assert_seldom(lambda number: NOTHING[world][1](number)[1])


@pytest.mark.parametrize("claim", PLANTED)
def test_the_planted_effect_is_mostly_supported(claim: str) -> None:
    estimates = []

    def simulate(number: int) -> Verdict:
        estimate, verdict = PLANTED[claim](number)
        estimates.append(estimate)
        return verdict

    assert_often(simulate)
    detectable = PAPER.claim(claim).rule.detectable or 0
    planted = float(np.mean(np.array(estimates, dtype=float)))
    # one neuron more or less moves the overlap by three points
    assert abs(planted - detectable) < 0.015, (
        f"{planted:.3f} is planted, {detectable} is said to be detectable"
    )


def test_every_comparison_of_this_family_is_simulated() -> None:
    """Those of other families compare outcomes per item: ``caploc/tests/statistics/test_comparisons_simulated.py``."""
    compared = {
        claim.id
        for claim in PAPER.claims.values()
        if claim.group == "D-table1" and isinstance(claim.rule, Comparison)
    }
    assert compared == set(PLANTED) == {claim for claim, _ in NOTHING.values()}


def test_random_weights_support_no_overlap() -> None:
    """Two sets of random weights overlap alike, however highly: the number is true and shows nothing."""
    assert_seldom(lambda number: overlap(number, "table1-overlap", NOISE, NOISE)[1])


def test_a_high_overlap_that_random_weights_lack_is_mostly_supported() -> None:
    assert_often(lambda number: overlap(number, "table1-overlap", NOISE, 8 * NOISE)[1])


@pytest.mark.parametrize(
    ("claim", "noise"),
    [
        ("abstract-gsm8k-overlap", 2 * NOISE),  # .65 at 80 samples, .94 at the paper's 1,600
        ("table1-overlap", 8 * NOISE),  # 0 at 80 samples, .7 at 1,600
    ],
)
def test_few_samples_seldom_refute_what_more_would_show(claim: str, noise: float) -> None:
    """The paper's number of samples decides, where overlap rises with it."""
    verdicts = rates.rates(lambda number: overlap(number, claim, noise)[1])
    assert verdicts[Outcome.REFUTED] <= rates.AT_MOST, dict(verdicts)


def convergence(number: int, values: np.ndarray, sigma: float = SIGMA) -> Verdict:
    """On a dataset of one's own, whose last doubling is measured."""
    shards = shards_of(values)
    data = {("mine", control): shards for control in ("", *TWINS)}
    study = ShardStudy(data, draws=DRAWS, seed=number)
    return run("convergence-llama2-7b", study, sigma, "mine")[1]


def test_a_flat_curve_is_seldom_converging() -> None:
    """Chance overlap of so many neurons that the last step is certain to be small, at every size."""

    def simulate(number: int) -> Verdict:
        rng = np.random.default_rng([5, number])
        return convergence(number, rng.standard_normal((EXAMPLES, LAYERS, 1000), dtype=np.float32), sigma=1)

    found = rates.rates(simulate)
    assert found[Outcome.SUPPORTED] <= rates.AT_MOST and found[Outcome.REFUTED] >= rates.AT_LEAST, dict(found)


@pytest.mark.parametrize(("noise", "supported", "refuted"), [(1.5, False, True), (0.5, True, False)])
def test_a_curve_that_still_rises_is_not_converging_and_one_that_stopped_is(
    noise: float, supported: bool, refuted: bool
) -> None:
    """Of sixty equal neurons; in more noise the last doubling adds far more than five points."""

    def simulate(number: int) -> Verdict:
        rng = np.random.default_rng([6, number])
        values = noise * rng.standard_normal((EXAMPLES, TOTAL), dtype=np.float32)
        values[:, places(rng)[0]] += 1
        return convergence(number, values.reshape(EXAMPLES, LAYERS, NEURONS), sigma=2)

    found = rates.rates(simulate)
    for outcome, often in ((Outcome.SUPPORTED, supported), (Outcome.REFUTED, refuted)):
        enough = found[outcome] >= rates.AT_LEAST if often else found[outcome] <= rates.AT_MOST
        assert enough, (outcome, dict(found))
