"""The statistics of trained arms, against slower or older ways to the same numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as distributions

from caploc.statistics import (
    Effect,
    Pair,
    best_of,
    between_variance,
    binomial_p,
    compare_pairs,
    compare_with_random,
    effect_of,
    rank_among_draws,
)
from caploc.statistics.arms import _error_of_runs


def answers(seed: int, runs: int, items: int, share: float = 0.5, spread: float = 0.0) -> np.ndarray:
    """``[runs, items]`` right or wrong, each run with a share of its own."""
    generator = np.random.default_rng(seed)
    shares = share + generator.normal(0, spread, (runs, 1))
    return (generator.random((runs, items)) < shares).astype(float)


def test_one_run_against_one_is_the_comparison_of_pairs() -> None:
    first, second = answers(1, 1, 50, 0.7), answers(2, 1, 50)
    ours, theirs = effect_of([Pair("a", "a", first, second)]), compare_pairs(first[0], second[0])
    assert (ours.estimate, ours.p, ours.effect_size) == pytest.approx(
        (theirs.estimate, theirs.p, theirs.effect_size)
    )
    assert (ours.interval.low, ours.interval90.high) == pytest.approx(
        (theirs.interval.low, theirs.interval90.high)
    )


def test_one_run_against_draws_is_the_comparison_with_random_sets() -> None:
    first, second = answers(1, 1, 80, 0.7), answers(2, 5, 80, 0.5, 0.1)
    pair = Pair("a", "a", first, second)
    ours, theirs = effect_of([pair], drawn=True), compare_with_random(first[0], second)
    assert (ours.interval.low, ours.interval.high) == pytest.approx(
        (theirs.interval.low, theirs.interval.high)
    )
    assert ours.p == pytest.approx(theirs.p_items)
    assert rank_among_draws([pair]) == pytest.approx(theirs.p_sets or 0)


def test_independent_datasets_add_up_in_squares() -> None:
    pairs = [
        Pair(name, name, answers(seed, 1, 60, 0.8), answers(seed + 9, 1, 60))
        for seed, name in enumerate("ab")
    ]
    pairs = [replace(one, scores=False) for one in pairs]
    whole, parts = effect_of(pairs), [effect_of([one]) for one in pairs]
    assert whole.estimate == pytest.approx(np.mean([one.estimate for one in parts]))
    below = math.hypot(*(one.estimate - one.interval.low for one in parts)) / 2
    assert whole.interval.low == pytest.approx(whole.estimate - below)


def test_more_change_never_shows_less_of_it() -> None:
    """Of two datasets: no item changed, then one, two, three."""

    def low(changed: int) -> float:
        after = np.ones((3, 100))
        after[:, :changed] = 0
        return effect_of([Pair("x", name, after, np.ones((1, 100))) for name in "ab"]).interval90.low

    ends = [low(changed) for changed in range(4)]
    assert ends == sorted(ends, reverse=True) and -0.05 < ends[0] < 0


def test_items_tested_after_several_trainings_are_not_counted_twice() -> None:
    """The same outcomes under two names of what was trained say no more than once."""
    first, second = answers(3, 1, 60, 0.8), answers(4, 1, 60)
    once = effect_of([Pair("a", "c", first, second)])
    twice = effect_of([Pair("a", "c", first, second), Pair("b", "c", first, second)])
    assert (twice.interval, twice.p) == (once.interval, once.p)


def test_between_runs_finds_the_planted_variance() -> None:
    found = [between_variance([answers(seed, 6, 200, 0.5, 0.1)]) for seed in range(200)]
    assert np.mean(found) == pytest.approx(0.01, rel=0.15)
    assert np.mean([between_variance([answers(seed, 6, 200)]) for seed in range(200)]) < 0.001


@pytest.mark.parametrize(("rows", "runs"), [(1, 3), (3, 3), (3, 2)])
def test_intervals_of_few_runs_hold_as_often_as_they_say(rows: int, runs: int) -> None:
    """Runs alone err: items are alike. Satterthwaite's own degrees of freedom miss 2 % of 3 rows of 2 runs, not 5."""
    generator = np.random.default_rng(3)
    missed = 0
    for _ in range(4000):
        shifts = generator.normal(0, 0.02, (rows, runs))
        pairs = [
            Pair(f"{row}", f"{row}", np.repeat(one[:, None], 2, 1), np.zeros((1, 2)))
            for row, one in enumerate(shifts)
        ]
        error, freedom = _error_of_runs(pairs, False)
        missed += abs(shifts.mean()) > error * distributions.t.isf(0.025, freedom)
    assert 0.03 < missed / 4000 < 0.063


def test_a_new_draw_is_rarely_above() -> None:
    """Located is one of the draws, which differ by 10 points: supported in at most 5 % of 200 studies."""
    above = 0
    for seed in range(200):
        sets = answers(seed, 6, 60, 0.5, 0.1)
        effect = effect_of([Pair("a", "a", sets[:1], sets[1:])], drawn=True, resamples=200, flips=199)
        above += effect.interval.low > 0 and effect.p < 0.05
    assert above <= 10


def test_guessing_is_told_by_the_worst_seed() -> None:
    scores = np.zeros((2, 20))
    scores[0, :18], scores[1, :10] = 1, 1
    assert binomial_p(scores, 0.5) == pytest.approx(0.588, abs=1e-3)


class TestBestOf:
    """Located against the better of two rivals, in columns."""

    def arms(self, located: float, *rivals: float, spread: float = 0.0) -> dict[str, list[np.ndarray]]:
        shares = {"located": located, **{f"rival {index}": share for index, share in enumerate(rivals)}}
        return {
            name: [
                np.repeat(answers(17 * number + dataset, 3, 50, share, spread)[:, None], 3, 1)
                for dataset in range(2)
            ]
            for number, (name, share) in enumerate(shares.items())
        }

    def test_estimates_are_leads_over_the_better_rival(self) -> None:
        arms = self.arms(0.9, 0.5, 0.6)
        means = [np.mean([dataset.mean((0, 2)) for dataset in arm], axis=0) for arm in arms.values()]
        assert best_of(arms).estimates == pytest.approx((means[0] - np.maximum(*means[1:])).tolist())

    def test_the_mean_lead_is_that_over_all_columns(self) -> None:
        found = best_of(self.arms(0.8, 0.3, 0.6), resamples=200, flips=99)
        assert found.mean.estimate == pytest.approx(np.mean(found.estimates))
        # columns that are alike have one interval
        assert found.mean.interval.low == pytest.approx(found.intervals[0].low)
        assert found.mean.interval90.high == pytest.approx(found.intervals90[0].high)

    def test_p_is_small_for_a_lead_and_large_for_none(self) -> None:
        assert best_of(self.arms(0.9, 0.5, 0.6), flips=999).p < 0.01
        assert best_of(self.arms(0.5, 0.5, 0.5), flips=999).p > 0.05

    def test_intervals_are_those_of_a_plain_bootstrap(self) -> None:
        arms = self.arms(0.7, 0.5, 0.6, spread=0.1)
        generator, leads = np.random.default_rng(5), []
        for _ in range(2000):
            scores = []
            chosen = [generator.integers(0, 50, 50) for _ in range(2)]
            for arm in arms.values():
                runs = [generator.integers(0, 3, 2) for _ in range(2)]
                scores.append(
                    np.mean(
                        [
                            one[run][:, 0][:, items].mean()
                            for one, run, items in zip(arm, runs, chosen, strict=True)
                        ]
                    )
                )
            leads.append(scores[0] - max(scores[1:]))
        slow = np.quantile(leads, [0.025, 0.975])
        fast = best_of(arms, flips=99).intervals[1]
        assert (fast.low, fast.high) == pytest.approx(tuple(slow), abs=0.015)


def test_scores_that_agree_on_every_item_are_shown_equal_only_as_far_as_so_many_can() -> None:
    def same(items: int) -> Effect:
        return effect_of([Pair("one", "one", np.ones((3, items)), np.ones((5, items)))])

    assert not same(40).interval90.inside(-0.05, 0.05)
    assert same(80).interval90.inside(-0.05, 0.05)
