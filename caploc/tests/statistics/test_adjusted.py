"""Items that end alike prove little: intervals of bounded means have a width, less change never shows less of "no
harm", and equivalence is shown by accident in at most 5 % of samples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from caploc.statistics import (
    Change,
    Interval,
    StatisticsError,
    adjusted_interval,
    at_least_adjusted,
    bounded_mean,
    percentile_interval,
)
from caploc.tests.papers.rates import AT_LEAST, AT_MOST, RUNS


def changed(items: int, worse: int) -> np.ndarray:
    return -(np.arange(items) < worse).astype(float)


@pytest.mark.parametrize("level", [0.90, 0.95])
@pytest.mark.parametrize("items", [8, 40, 64, 200])
def test_each_further_change_shows_less_of_no_harm(items: int, level: float) -> None:
    lows = [adjusted_interval(changed(items, worse), level=level).low for worse in range(items + 1)]
    assert all(b < a or a == b == -1 for a, b in itertools.pairwise(lows))
    # a change in one of 100 random sets counts less than a whole one, and more than none
    some = adjusted_interval(changed(items, 1) / 100, level=level).low
    assert lows[1] < some < lows[0] < 0


def test_none_of_many_draws_changed_supports_more_than_one_that_did() -> None:
    """40 items and 100 sets without a flip, and with one in 4,000."""

    def lowest(flips: int) -> float:
        differences = np.zeros((100, 40))
        differences[0, :flips] = -1
        own = differences.mean(0)
        draws = np.random.default_rng(0).choice(own, (500, 40)).mean(1)
        narrow = Change(own.mean(), percentile_interval(draws), percentile_interval(draws, 0.9))
        return at_least_adjusted(narrow, own).interval90.low

    assert lowest(3) < lowest(1) < lowest(0) < -0.05


def test_alike_is_no_point_and_close_to_exact() -> None:
    for items in (16, 48, 150):
        for value in (0.0, 1.0, 0.5):
            one = bounded_mean(np.full(items, value))
            assert one.low < one.high and 0 <= one.low <= value <= one.high <= 1
        for worse in range(4):
            exact = stats.beta.isf(0.05, worse + 1, items - worse)  # Clopper & Pearson, one sided
            own = -adjusted_interval(changed(items, worse), level=0.90).low
            assert own == pytest.approx(exact, rel=0.15)


def test_clusters_are_the_units() -> None:
    values = np.repeat([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0], 5)
    clusters = np.repeat(np.arange(8), 5)
    one, other = adjusted_interval(values, (0, 1)), adjusted_interval(values, (0, 1), clusters=clusters)
    lone = adjusted_interval(values[::5], (0, 1))
    assert other.width > 1.5 * one.width and (other.low, other.high) == pytest.approx((lone.low, lone.high))
    with pytest.raises(StatisticsError, match="limits are 0 and 1"):
        adjusted_interval([0.5, -0.1], (0, 1))


@pytest.mark.parametrize(("items", "margin"), [(16, 0.05), (48, 0.1), (64, 0.05), (90, 0.05), (200, 0.02)])
def test_equivalence_by_accident(items: int, margin: float) -> None:
    """Paired right and wrong, the truth at the margin, with and without changes in the other direction."""
    for both in (0.0, 0.05):
        generator = np.random.default_rng(3)
        found = 0
        for _ in range(RUNS):
            drawn = generator.random(items)
            values = np.where(drawn < margin + both, -1.0, np.where(drawn > 1 - both, 1.0, 0.0))
            found += _change(values).interval90.inside(-margin, margin)
        assert found <= AT_MOST + 4, (items, both, found)  # 5 %, and the error of so many runs
    if margin * items > 5:
        rare = np.random.default_rng(4).random((RUNS, items)) < 0.0025
        assert (
            sum(_change(-row.astype(float)).interval90.inside(-margin, margin) for row in rare)
            >= AT_LEAST / 2
        )


def _change(values: np.ndarray) -> Change:
    mean = float(values.mean())
    point = Change(mean, Interval(mean, mean, 0.95, "point"), Interval(mean, mean, 0.9, "point"))
    return at_least_adjusted(point, values)
