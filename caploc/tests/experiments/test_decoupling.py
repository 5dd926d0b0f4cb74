"""Decoupling on planted sets: sums and tasks that have places of their own, or do not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from caploc.experiments import decoupling
from caploc.experiments.decoupling import (
    SumPairs,
    decay,
    joint_counts,
    known_pairs,
    one_task,
    two_tasks,
)
from caploc.experiments.facts import Answered, FactPrompts, FirstFacts
from caploc.experiments.locating_facts import LocatedFacts, LocatedSets
from caploc.experiments.specs import NotRunError
from caploc.experiments.study import Study
from caploc.findings import Effect, Finding, Outcome, Reading, Verdict
from caploc.metrics import overlap
from caploc.statistics import swapped_tasks_p
from caploc.tests.experiments.planted_facts import (
    PLACES,
    aside,
    ends,
    estimate,
    fact_set,
    locations_of,
    planted_study,
    run,
    sets_of,
)

PAIRS, SIZE = 40, 20


def planted(of_sum: int, of_task: int, of_all: int = 0, seed: int = 0, pairs: int = PAIRS):
    """Sets of 20 places for the two prompts of each pair: some the sum's, some the task's, some everyone's."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(PLACES)
    everyone, order = order[:of_all], order[of_all:]
    tasks, free = (order[:of_task], order[of_task : 2 * of_task]), order[2 * of_task :]
    found = []
    for _ in range(pairs):
        own = generator.choice(free, of_sum, replace=False)
        for task in tasks:
            rest = np.setdiff1d(free, own)
            others = generator.choice(rest, SIZE - of_sum - of_task - of_all, replace=False)
            found.append(np.concatenate([own, task, everyone, others]))
    return sets_of(found)


def study_of(sets: LocatedSets, rank: np.ndarray | None = None) -> Study:
    facts = fact_set(len(sets) // 2, 2, "decoupling", rank=rank, all_wordings=True)
    spec = known_pairs("decoupling")
    return planted_study(
        {
            Answered(SumPairs("decoupling")): facts,
            LocatedFacts("kn", spec): locations_of(sets),
            LocatedFacts("kn", FirstFacts(spec, 12), "untrained"): locations_of(sets[np.arange(24)]),
            FactPrompts("zsre", 1): NotRunError("zsre cannot be had here"),
        }
    )


CLAIMS = {
    "decoupling-cr12": decoupling.rate_of_two_tasks,
    "decoupling-cr11": decoupling.rate_of_a_task.with_options(task="result"),
    "decoupling-cr22": decoupling.rate_of_a_task.with_options(task="program"),
    "decoupling-individual-low": decoupling.individual_low,
    "decoupling-commonality": decoupling.commonality,
}


def judged(
    claim: str, sets: LocatedSets, model: str = "gptj-6b", rank: np.ndarray | None = None
) -> tuple[Finding, Verdict]:
    return run(CLAIMS[claim], study_of(sets, rank), claim, model, "decoupling")


@pytest.mark.parametrize(
    ("of_sum", "of_task", "outcome"),
    [
        (0, 6, Outcome.SUPPORTED),
        (8, 0, Outcome.REFUTED),
        (8, 6, Outcome.REFUTED),
        (2, 6, Outcome.INCONCLUSIVE),
        (0, 0, Outcome.INCONCLUSIVE),
    ],
)
def test_whether_sums_have_a_place(of_sum: int, of_task: int, outcome: Outcome) -> None:
    """What the sum adds to the overlap decides, and random sets, which share nothing, say nothing."""
    finding, verdict = judged("decoupling-individual-low", planted(of_sum, of_task))
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(of_sum / SIZE, abs=0.05)
    assert aside(found, "different sums") < 0.08
    gap = found.parts["more"]
    assert isinstance(gap, Effect) and gap.p is not None and (gap.p < 0.001) == (of_sum > 0)


def test_sums_without_a_place_are_no_different_from_others() -> None:
    found = judged("decoupling-individual-low", planted(0, 6))[0].measurement
    gap = found.parts["more"]
    assert isinstance(gap, Effect) and gap.p is not None and gap.p > 0.01
    low, high = ends(gap)
    assert low < 0.01 and high > -0.01


@pytest.mark.parametrize(
    ("of_task", "of_all", "outcome"),
    [(5, 0, Outcome.SUPPORTED), (0, 0, Outcome.REFUTED), (0, 5, Outcome.REFUTED)],
)
def test_whether_tasks_have_a_place(of_task: int, of_all: int, outcome: Outcome) -> None:
    """Their own, none, or one that every prompt has: above chance, but no more within a task than across."""
    finding, verdict = judged("decoupling-commonality", planted(0, of_task, of_all))
    assert verdict.outcome is outcome, verdict.reason
    effects = finding.measurement.of(Effect)
    assert len(effects) == 4 and all(one.p is not None for one in effects.values())
    p = effects["result minus chance"].p
    assert p is not None and (p < 0.05) == (of_task + of_all > 0)
    across = estimate(effects["program minus two tasks"])
    assert across == pytest.approx(of_task / SIZE, abs=0.03)


def test_rates_where_every_reading_gives_the_printed_one_or_none() -> None:
    """Every reading of C(1, 2): the poster's divides by all neurons, so that no set that is small can give 15.6 %."""
    some = [np.sort(np.random.default_rng(0).permutation(PLACES)[:94]) for _ in range(2 * PAIRS)]  # one set
    finding, verdict = judged("decoupling-cr12", sets_of(some))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.startswith("the reading that decides, overlap, lies outside, and not every")
    assert judged("decoupling-cr12", planted(3, 0))[1].outcome is Outcome.SUPPORTED
    assert estimate(finding.measurement.of(Reading)["poster"]) == pytest.approx(94 / PLACES)
    finding, verdict = judged("decoupling-cr12", planted(19, 0))
    assert verdict.outcome is Outcome.REFUTED, verdict.reason
    assert judged("decoupling-cr12", planted(19, 0), model="tiny-llama")[1].outcome is Outcome.MEASURED


@pytest.mark.parametrize("claim", ["decoupling-cr11", "decoupling-cr22"])
def test_rates_of_one_task(claim: str) -> None:
    """The overlap decides; eq. (6) as printed, which compares a set with itself, is no evidence."""
    finding, _ = judged(claim, planted(0, 2))
    found, readings = finding.measurement, finding.measurement.of(Reading)
    assert "paper" not in readings and aside(found, "eq. (6) as printed, each set with itself") == 1
    assert estimate(readings["poster"]) == pytest.approx(2 / PLACES, abs=1 / PLACES)
    assert judged(claim, planted(0, 1))[1].outcome is Outcome.SUPPORTED
    alike = [np.arange(94)] * (2 * PAIRS)
    assert judged(claim, sets_of(alike))[1].outcome is Outcome.REFUTED
    assert aside(found, "in common to 2 prompts, of a prompt's own") > 0.1
    assert aside(found, "in common to 40 prompts, of a prompt's own") == pytest.approx(0.1)


@pytest.mark.parametrize("claim", CLAIMS)
def test_floors_and_pairs_that_are_not_known(claim: str) -> None:
    rank = np.ones((PAIRS, 2), int)
    rank[:30, 1] = 4
    _, verdict = judged(claim, planted(3, 3), rank=rank.ravel())
    assert verdict.reason == "the model does not know the facts (10 of 40)"
    empty = sets_of([np.zeros(0, int)] * 60 + [np.arange(20)] * 20)
    _, verdict = judged(claim, empty)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "floor effect: KN locates nothing for 60 of 80 prompts"
    rank[:] = 1
    rank[:5, 0] = 2
    finding, _ = judged(claim, planted(3, 3), rank=rank.ravel())
    assert (
        finding.measurement.n == 35
        and "5 of 40 facts left out: the model does not know them" in finding.notes
    )


def test_readings_against_plain_loops() -> None:
    sets = planted(4, 4, 2, seed=3, pairs=12)
    first, second = sets[np.arange(0, 24, 2)], sets[np.arange(1, 24, 2)]
    members = [set(row.indices.tolist()) for row in first.members]
    others = [set(row.indices.tolist()) for row in second.members]
    found = two_tasks(first, second, 0)
    same = list(zip(members, others, strict=True))
    assert found["overlap"][0] == pytest.approx(np.mean([overlap(a, b) for a, b in same]))
    assert found["iou"][0] == pytest.approx(np.mean([len(a & b) / len(a | b) for a, b in same]))
    assert found["smaller"][0] == pytest.approx(np.mean([len(a & b) / min(len(a), len(b)) for a, b in same]))
    assert found["poster"][0] == pytest.approx(np.mean([len(a & b) / PLACES for a, b in same]))
    within = one_task(first, 0)
    pairs = list(itertools.combinations(members, 2))
    assert within["overlap"][0] == pytest.approx(np.mean([overlap(a, b) for a, b in pairs]))
    common, union = set.intersection(*members), set.union(*members)
    assert within["poster"][0] == pytest.approx(len(common) / PLACES)
    assert within["joint"][0] == pytest.approx(len(common) / len(union))
    assert joint_counts(first, np.arange(12) < 3) == (
        len(set.intersection(*members[:3])),
        len(set.union(*members[:3])),
    )
    for _, interval in [*found.values(), *within.values()]:
        assert interval.low <= interval.high
    curve = decay(first, 0)
    assert curve["x"] == [1, 2, 5, 10, 12] and curve["mean"][0] == 1
    assert all(a >= b for a, b in itertools.pairwise(curve["mean"]))
    assert curve["mean"][1] == pytest.approx(within["overlap"][0], abs=0.03)


def test_swapped_tasks_are_exchangeable_without_a_commonality() -> None:
    """p is about uniform where tasks make no difference; Wilson's interval of its share below .2 holds .2."""
    low = 0
    for seed in range(40):
        sets = planted(2, 0, 4, seed=seed, pairs=12)
        one, other = sets[np.arange(0, 24, 2)], sets[np.arange(1, 24, 2)]
        low += swapped_tasks_p(one.overlap(), one.overlap(other), other.overlap(), seed)[0] <= 0.2
    assert 2 <= low <= 16
