"""Rules over items: a random set in the place of the located one is seldom SUPPORTED, a planted effect mostly is.

The worlds are binary. An item has a difficulty, shared in part with its cluster; a set of neurons shifts all items
(sets differ in truth, whatever the number of items) and each item a little on its own. Seeds are the number of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from caploc.experiments import evidence
from caploc.findings import Cell, Count, Finding, Measurement, Part, Test, Verdict
from caploc.papers import Claim, load_paper
from caploc.rules import judge
from caploc.statistics import (
    Effect,
    against_the_best,
    compare_doses,
    compare_pairs,
    compare_with_random,
)
from caploc.tests.papers.rates import assert_often, assert_seldom

CLAIMS = load_paper("capability_localization").claims
CELL = Cell("tiny-llama", "gsm8k", 6.0)
DRAWS = 100
FEWER = {"resamples": 400, "flips": 399}  # the same procedure, coarser


@dataclass(frozen=True)
class World:
    """Items in clusters of three; ``between`` and ``own`` are the spreads of what a set does to all items and to one.

    Of difficulties with a spread of 1.8 half the items are right, and a shift of 0.1 changes 2.2 points of them.
    """

    items: int = 240
    between: float = 0.1
    own: float = 0.4

    @property
    def clusters(self) -> np.ndarray:
        return np.arange(self.items) // 3

    def arms(self, rng: np.random.Generator, sets: np.ndarray) -> np.ndarray:
        """Outcomes ``[arms, items]`` of the same items under sets that shift them so much ``[arms]``."""
        difficulty = rng.normal(0, 1.5, self.items)[self.clusters] + rng.normal(0, 1, self.items)
        own = self.own * rng.standard_normal((len(sets), self.items), dtype=np.float32)
        return (difficulty + sets[:, None] + own > 0).astype(float)

    def arms_and_random(
        self, rng: np.random.Generator, effects: list[float | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Arms ``[arms, items]`` and random sets ``[DRAWS, items]``.

        An arm without an effect is one more random set; one with an effect (in outcomes, 0.1 being ten points) is on
        average that much above, or below, the mean of all random sets.
        """
        sets = rng.normal(0, self.between, len(effects) + DRAWS)
        sets[: len(effects)] *= [effect is None for effect in effects]
        outcomes = self.arms(rng, sets)
        arms = outcomes[: len(effects)]
        for arm, effect in zip(arms, effects, strict=True):
            if effect:
                # half of the items can change
                changed = (arm == (effect < 0)) & (rng.random(self.items) < 2 * abs(effect))
                arm[changed] = 1 - arm[changed]
        return arms, outcomes[len(effects) :]

    def compared(self, rng: np.random.Generator, effect: float | None) -> Effect:
        """One arm against random sets."""
        (arm,), random = self.arms_and_random(rng, [effect])
        return compare_with_random(arm, random, clusters=self.clusters, **FEWER)


TASK = World()
OTHER_TASK = World(items=750, between=0.02, own=0.1)
"""Where sets matter little: they differ by half a point, and change one item in thirty."""


def judged(claim: Claim, effect: Effect, parts: Mapping[str, Part] | None = None) -> Verdict:
    """The verdict on a finding whose value is one effect."""
    return judge(
        claim, Finding(claim.id, CELL, Measurement("difference", evidence.effect(effect), parts or {}))
    )


def of_parts(claim: Claim, parts: Mapping[str, Effect]) -> Verdict:
    return judged(claim, next(iter(parts.values())), evidence.effects(parts))


def comparison(claim: Claim, effects: list[float | None], run: int) -> Verdict:
    rng = np.random.default_rng([1, run])
    return of_parts(claim, {f"task{i}": TASK.compared(rng, effect) for i, effect in enumerate(effects)})


def plain_difference(claim: Claim, effects: list[float | None], run: int) -> Verdict:
    return judged(claim, TASK.compared(np.random.default_rng([2, run]), effects[0]))


def specificity(claim: Claim, effects: list[float | None], run: int) -> Verdict:
    rng = np.random.default_rng([3, run])
    own, other = effects
    return of_parts(claim, {"own": TASK.compared(rng, own), "other": OTHER_TASK.compared(rng, other)})


def best_of(claim: Claim, effects: list[float | None], run: int) -> Verdict:
    """Located against random sets and all-but-located, after three numbers of epochs."""
    rng = np.random.default_rng([4, run])
    columns = [TASK.arms_and_random(rng, [effects[0], None]) for _ in range(3)]

    def over_rivals(arms: np.ndarray, random: np.ndarray) -> Effect:
        located, rest = arms
        return against_the_best(
            [
                compare_with_random(located, random, clusters=TASK.clusters, **FEWER),
                compare_pairs(located, rest, clusters=TASK.clusters, **FEWER),
            ]
        )

    parts = {str(index): evidence.effect(over_rivals(*column)) for index, column in enumerate(columns)}
    overall = over_rivals(*(np.mean(part, axis=0) for part in zip(*columns, strict=True)))
    narrow = overall.interval90
    lead = evidence.bound(overall.estimate, overall.interval, interval90=(narrow.low, narrow.high))
    return judged(claim, overall, {**parts, "best": Test(p=overall.p), "mean lead": lead})


KINDS = {
    "comparison": comparison,
    "plain_difference": plain_difference,
    "specificity": specificity,
    "best_of": best_of,
}
FROM_SHARDS = ("table1-commonality", "control-untrained-overlap", "fig4-dataset-overlap")
"""These are simulated in ``caploc/tests/papers/test_simulated_verdicts.py``."""
FROM_FACTS = (
    "reliability-kn-double",
    "reliability-kn-zero",
    "reliability-kn-similar-to-random",
    "reliability-rome-layers-equal",
)
"""And these, whose units are facts, beside their experiments."""


def claims_of_different_rules() -> Iterator[Claim]:
    """One claim for every rule, its thresholds and the effect that it is meant to detect."""
    seen = set()
    for claim in CLAIMS.values():
        rule = (claim.rule.kind, *sorted(claim.rule.parameters.items()), claim.rule.detectable)
        if (
            claim.rule.detectable is not None
            and claim.id not in (*FROM_SHARDS, *FROM_FACTS)
            and rule not in seen
        ):
            seen.add(rule)
            yield claim


COMPARED = list(claims_of_different_rules())
EACH = pytest.mark.parametrize("claim", COMPARED, ids=[claim.id for claim in COMPARED])
HARDEST = {
    claim.rule.kind: claim for claim in sorted(COMPARED, key=lambda claim: -(claim.rule.detectable or 0))
}
"""For each kind the claim that is meant to detect the least."""


def test_every_comparison_is_simulated() -> None:
    assert set(HARDEST) == set(KINDS)
    assert {CLAIMS[name].rule.kind for name in FROM_SHARDS} == {
        "difference",
        "beyond_twins",
        "above_chance",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_set_in_the_place_of_the_located_one_is_seldom_supported(kind: str) -> None:
    """With one part, the rule's easiest."""
    nothing = [None, 0.0] if kind == "specificity" else [None]
    assert_seldom(partial(KINDS[kind], HARDEST[kind], nothing))


def test_an_effect_on_one_task_of_two_is_seldom_supported() -> None:
    assert_seldom(partial(comparison, HARDEST["comparison"], [0.3, None]))


@EACH
def test_the_planted_effect_is_mostly_supported(claim: Claim) -> None:
    """In both parts of a comparison; beside another task on which the located set does nothing."""
    size = claim.rule.detectable
    effects = [size, 0.0] if claim.rule.kind == "specificity" else [size, size]
    assert_often(partial(KINDS[claim.rule.kind], claim, effects))


def test_an_effect_on_other_tasks_too_is_seldom_specific() -> None:
    claim = HARDEST["specificity"]
    margin = claim.rule.parameters["other_margin"]
    assert_seldom(partial(specificity, claim, [0.3, margin]))
    assert_seldom(partial(specificity, claim, [0.3, -margin]))


def without_difference(claim: Claim, effects: list[float | None], run: int) -> Verdict:
    rng = np.random.default_rng([5, run])
    return of_parts(claim, {str(i): OTHER_TASK.compared(rng, effect) for i, effect in enumerate(effects)})


OF_NO_DIFFERENCE = list(
    {
        (claim.rule.kind, *sorted(claim.rule.parameters.items())): claim
        for claim in CLAIMS.values()
        if claim.rule.kind in ("equivalence", "non_inferiority") and claim.id not in FROM_FACTS
    }.values()
)


@pytest.mark.parametrize("claim", OF_NO_DIFFERENCE, ids=[claim.id for claim in OF_NO_DIFFERENCE])
def test_equivalence_at_the_margin_is_seldom_supported_and_at_zero_mostly(claim: Claim) -> None:
    margin = -claim.rule.parameters["margin"]
    assert_seldom(partial(without_difference, claim, [margin]))
    assert_often(partial(without_difference, claim, [0.0, 0.0]))


def dose_response(claim: Claim, step: float, run: int) -> Verdict:
    """Three masks, each containing the one before."""
    rng = np.random.default_rng([6, run])
    arms = TASK.arms(rng, np.zeros(3))
    for dose in (1, 2):
        arms[dose][rng.random(TASK.items) < 2 * dose * step] = 1
    doses = compare_doses(arms, clusters=TASK.clusters, **FEWER)
    tests = {name: Test(p=p) for name, p in doses.p_values.items()}
    return judge(claim, Finding(claim.id, CELL, Measurement("rise", Count(doses.step), tests)))


def test_doses_without_a_response_are_seldom_a_trend() -> None:
    claim = CLAIMS["table3-sigma-trend"]
    assert_seldom(partial(dose_response, claim, 0.0))
    assert_often(partial(dose_response, claim, 0.04))
