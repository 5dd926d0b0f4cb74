"""Comparisons per item: what is exact is exact, what is paired is paired, and a rule finds the numbers it reads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.experiments.evidence import effects
from caploc.findings import Cell, Count, Finding, Measurement, Outcome, Test
from caploc.rules import judge
from caploc.statistics import (
    Effect,
    Interval,
    StatisticsError,
    against_the_best,
    between_variance,
    bootstrap_mean,
    compare_doses,
    compare_pairs,
    compare_with_random,
    holm,
    holm_parts,
)
from caploc.tests.papers.examples import claim_of

FEW: dict[str, Any] = {"resamples": 200, "flips": 199}
seeds = st.integers(0, 2**32)


def world(
    seed: int, items: int = 60, draws: int = 30, shift: float = 0.0, between: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Located and random outcomes of the same items, of differing difficulty; sets differ by ``between``."""
    rng = np.random.default_rng(seed)
    sets = rng.normal(0, between, draws + 1)
    sets[0] += shift
    outcomes = rng.normal(0, 2, items) + sets[:, None] + rng.normal(0, 1, (draws + 1, items))
    return outcomes[0], outcomes[1:]


def rounded(effect: Effect) -> tuple[float, ...]:
    ends = (effect.interval.low, effect.interval.high, effect.interval90.low, effect.interval90.high)
    numbers = (effect.estimate, *ends, effect.p_items, effect.p_sets or 0, effect.effect_size or 0)
    return tuple(round(number, 9) for number in numbers)


@given(seeds, st.integers(2, 20))
@settings(max_examples=20, deadline=None)
def test_each_set_in_the_place_of_the_located_one_has_its_rank_as_p(seed: int, draws: int) -> None:
    """Among m + 1 exchangeable sets the p values are exactly 1/(m+1), 2/(m+1), ... 1: the test is exact."""
    located, random = world(seed, items=12, draws=draws)
    sets = np.vstack([located, random])
    found = [
        compare_with_random(sets[place], np.delete(sets, place, 0), **FEW).p_sets
        for place in range(draws + 1)
    ]
    assert sorted(p or 0 for p in found) == pytest.approx(
        [(1 + rank) / (draws + 1) for rank in range(draws + 1)]
    )


def test_sets_that_tie_with_the_located_one_count_against_it() -> None:
    one = np.array([1, 0, 1, 1, 0, 1.0])
    effect = compare_with_random(one, np.stack([one, 1 - one, one]), **FEW)
    assert effect.p_sets == 3 / 4


@given(seeds, st.floats(-100, 100))
@settings(max_examples=20, deadline=None)
def test_only_differences_on_the_same_item_count(seed: int, shift: float) -> None:
    """A shift, or a difficulty of each item, that all sets share changes nothing: items are paired."""
    located, random = world(seed)
    difficulty = shift + np.random.default_rng(seed).normal(0, 10, located.size)
    first = compare_with_random(located, random, **FEW)
    second = compare_with_random(located + difficulty, random + difficulty, **FEW)
    assert rounded(first) == pytest.approx(rounded(second), abs=1e-6)
    pair = compare_pairs(located, random[0], **FEW)
    assert rounded(pair) == pytest.approx(
        rounded(compare_pairs(located + difficulty, random[0] + difficulty, **FEW)), abs=1e-6
    )


def test_many_items_do_not_make_a_random_set_special() -> None:
    """Of 4,000 items: over items alone most sets are told from the mean of the others, though of their kind."""
    items, sets, covered = 0, 0, 0
    for seed in range(40):
        located, random = world(seed, items=4000)
        effect = compare_with_random(located, random, **FEW)
        items += effect.p_items < 0.05
        sets += effect.p < 0.05
        covered += effect.interval.contains(0)
    # about half, as the test is one-sided; 5 of 40 would come with probability .014 of a level of .05
    assert items >= 15 and sets <= 4 and covered >= 35


def test_one_lucky_item_is_no_effect() -> None:
    """Ahead of all random sets by one item alone."""
    random = np.zeros((40, 50))
    located = np.eye(50)[0]
    effect = compare_with_random(located, random, **FEW)
    assert effect.p_sets == pytest.approx(1 / 41) and effect.p_items == effect.p == 0.5


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_where_sets_do_not_differ_the_interval_is_that_of_the_items(seed: int) -> None:
    located, random = world(seed, between=0)
    alike = np.repeat(random[:1], 5, axis=0)
    effect = compare_with_random(located, alike, **FEW)
    expected = bootstrap_mean(located - alike[0], 0.95, 200)
    assert (effect.interval.low, effect.interval.high) == pytest.approx((expected.low, expected.high))
    pair = compare_pairs(located, alike[0], **FEW)
    assert pair.interval == dataclasses.replace(expected, low=pair.interval.low, high=pair.interval.high)
    assert (pair.interval.low, pair.interval.high) == pytest.approx((expected.low, expected.high))


def test_the_spread_of_sets_widens_the_interval() -> None:
    """Of many items the interval is that of a new random set: 1.98 spreads of sets to either side (t, 99 degrees)."""
    located, random = world(1, items=20000, draws=100, between=0.5)
    effect = compare_with_random(located, random, **FEW)
    spread = random.mean(1).std(ddof=1)
    assert effect.interval.width / 2 == pytest.approx(1.984 * spread * math.sqrt(1.01), rel=0.02)
    assert effect.interval90.width / 2 == pytest.approx(1.660 * spread * math.sqrt(1.01), rel=0.02)


def test_the_spread_of_sets_is_told_from_that_of_items() -> None:
    """What items, in clusters, explain of the spread of the sets' means is taken off: on average the truth is left."""
    rng, clusters = np.random.default_rng(2), np.arange(90) // 3
    found = []
    for _ in range(300):
        shared = rng.normal(0, 1, (40, 30))[:, clusters]
        outcomes = rng.normal(0, 0.3, (40, 1)) + shared + rng.normal(0, 1, (40, 90))
        found.append(between_variance([outcomes], clusters))
    # the variance of a set's mean is 0.09 in truth, and 0.13 as observed
    assert np.mean(found) == pytest.approx(0.09, rel=0.05)


def test_the_interval_covers_the_difference_from_a_new_set() -> None:
    """95 % of 200 worlds within its binomial interval (.999), with clusters and few items, where both parts matter."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        clusters = np.arange(60) // 3
        sets = rng.normal(0, 0.3, 42)
        shared = rng.normal(0, 1, (42, 20))[:, clusters]
        outcomes = sets[:, None] + shared + rng.normal(0, 1, (42, 60))
        effect = compare_with_random(outcomes[0], outcomes[1:41], clusters=clusters, **FEW)
        covered += effect.interval.contains(sets[0] - sets[41])
    assert 175 <= covered <= 199, covered


def test_clusters_move_as_a_whole() -> None:
    """Items repeated within their cluster are no further evidence."""
    located, random = world(5, items=20, shift=0.2, between=0)
    once = compare_with_random(located, random, **FEW)
    assert 0.01 < once.p_items < 0.4, "else p could not tell"
    clusters = np.repeat(np.arange(20), 4)
    repeated = compare_with_random(
        np.repeat(located, 4), np.repeat(random, 4, axis=1), clusters=clusters, **FEW
    )
    assert rounded(dataclasses.replace(repeated, effect_size=None)) == pytest.approx(
        rounded(dataclasses.replace(once, effect_size=None))
    )
    pair, other = np.repeat(located, 4), np.repeat(random[0], 4)
    unaware, aware = compare_pairs(pair, other, **FEW), compare_pairs(pair, other, clusters=clusters, **FEW)
    assert unaware.interval.width < 0.7 * aware.interval.width


def test_a_pair_of_right_and_wrong_is_mcnemars_exact_test() -> None:
    first, second = np.array([1] * 9 + [0] * 2 + [1, 0] * 5), np.array([0] * 9 + [1] * 2 + [1, 0] * 5)
    effect = compare_pairs(first, second)
    assert effect.p == pytest.approx(sum(math.comb(11, k) for k in range(9, 12)) / 2**11)
    assert effect.p_sets is None and effect.estimate == pytest.approx(7 / 21) and effect.draws == 0


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_pairs_the_other_way_round(seed: int) -> None:
    located, random = world(seed)
    there, back = compare_pairs(located, random[0], **FEW), compare_pairs(random[0], located, **FEW)
    assert there.estimate == pytest.approx(-back.estimate)
    assert there.effect_size == pytest.approx(-(back.effect_size or 0))
    assert there.effect_size == pytest.approx(there.estimate / np.std(located - random[0], ddof=1))


def test_the_same_seed_gives_the_same_effect() -> None:
    located, random = world(7)
    assert compare_with_random(located, random, **FEW) == compare_with_random(located, random, **FEW)
    assert compare_with_random(located, random, **FEW) != compare_with_random(located, random, seed=1, **FEW)


def test_outcomes_may_be_booleans_and_need_not_differ() -> None:
    always = np.ones(10, dtype=bool)
    effect = compare_with_random(always, np.zeros((3, 10), dtype=bool))
    assert (effect.estimate, effect.interval.low, effect.interval.high) == (1, 1, 1)
    assert effect.effect_size is None and effect.p == 1 / 4
    same = compare_pairs(always, always)
    assert (same.estimate, same.interval.low, same.p) == (0, 0, 1)


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        (lambda: compare_with_random([1, 0, 1], [[1, 0], [0, 1]]), "2 items a draw and located 3"),
        (lambda: compare_with_random([1, 0], [[1, 0]]), "random has shape"),
        (lambda: compare_with_random([1, math.nan], [[1, 0], [1, 1]]), r"located\[1\] is nan"),
        (lambda: compare_pairs([1, 0, 1], [1, 0]), "first has 3 items and second 2"),
        (lambda: compare_pairs([1], [0]), "at least 2"),
        (lambda: compare_pairs([1, 0], [0, 1], clusters=["a"]), "1 labels for 2 samples"),
        (lambda: compare_doses([[1, 0, 1]]), "arms has shape"),
        (lambda: against_the_best([]), "rivals is empty"),
    ],
)
def test_what_cannot_be_compared_is_named(compare: Callable[[], object], message: str) -> None:
    with pytest.raises(StatisticsError, match=message) as caught:
        compare()
    assert "\n" not in str(caught.value)


def effect_of(estimate: float, low: float, high: float, p: float, size: float | None = 0.5) -> Effect:
    wide, narrow = Interval(low, high, 0.95, "BCa"), Interval(low, high, 0.9, "BCa")
    return Effect(estimate, wide, narrow, p, p / 2, size, 10, 100)


def test_over_the_best_of_several_rivals() -> None:
    best = against_the_best([effect_of(0.2, 0.1, 0.5, 0.01), effect_of(0.3, 0.05, 0.4, 0.03, None)])
    assert (best.estimate, best.interval.low, best.interval.high) == (0.2, 0.05, 0.4)
    assert (best.p_items, best.p_sets, best.p, best.effect_size) == (0.03, 0.015, 0.03, None)
    alone = effect_of(0.2, 0.1, 0.5, 0.01)
    over_one = against_the_best([alone])
    assert over_one.estimate == alone.estimate
    for found, own in ((over_one.interval, alone.interval), (over_one.interval90, alone.interval90)):
        assert (found.low, found.high) == (own.low, own.high)


def test_doses() -> None:
    rng = np.random.default_rng(0)
    rising = (rng.random((3, 200)) < np.array([[0.2], [0.5], [0.8]])).astype(float)
    doses = compare_doses(rising, **FEW)
    assert doses.p_values["trend"] < 0.01 and doses.p_values["reversal"] == 1
    assert doses.step == pytest.approx((rising[2].mean() - rising[0].mean()) / 2)
    assert doses.interval.contains(doses.step)
    falling = compare_doses(rising[::-1], **FEW)
    assert falling.step == pytest.approx(-doses.step) and falling.p_values["reversal"] < 0.01
    dip = compare_doses(rising[[1, 0, 2]], **FEW)
    assert dip.step > 0 and dip.p_values["trend"] < 0.05 and dip.p_values["reversal"] < 0.01
    tests = {name: Test(p=p) for name, p in dip.p_values.items()}
    finding = Finding("a-monotone", Cell("m"), Measurement("rise", Count(dip.step), tests))
    assert judge(claim_of("monotone"), finding).outcome is Outcome.REFUTED, "a fall on the way refutes"


def test_a_rule_finds_what_a_comparison_says() -> None:
    """Through a Finding; p values are Holm-corrected over its parts."""
    parts = {}
    for name, seed in (("emotion", 0), ("code25k", 1), ("gsm8k", 2)):
        located, random = world(seed, items=100, draws=100, shift=3)
        parts[name] = compare_with_random(located, random, **FEW)
    p_values = holm_parts(parts)
    assert list(p_values.values()) == pytest.approx(list(holm([part.p for part in parts.values()])))
    assert list(p_values) == list(parts) and max(p_values.values()) == pytest.approx(3 / 101)
    finding = Finding("a-comparison", Cell("m"), Measurement("effect", Count(3.0), effects(parts)))
    verdict = judge(claim_of("comparison"), finding)
    assert verdict.outcome is Outcome.SUPPORTED
    assert all(name in verdict.reason for name in ("emotion", "code25k", "gsm8k"))
    assert finding.to_json()["parts"]["emotion"]["estimate"] == parts["emotion"].estimate
