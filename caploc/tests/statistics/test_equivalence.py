"""Equivalence against pairs of t tests, and three-sided answers against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.statistics import Interval, Side


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0.05, 3), st.sampled_from([0.01, 0.05, 0.1]))
def test_tost_agrees_with_two_t_tests(seed: int, n: int, margin: float, alpha: float) -> None:
    values = np.random.default_rng(seed).normal(0.2, 1, n)
    result = statistics.tost(values, margin, alpha)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert result.p == pytest.approx(max(above, below), rel=1e-9)
    reference = stats.ttest_1samp(values, 0).confidence_interval(1 - 2 * alpha)
    assert (result.interval.low, result.interval.high) == pytest.approx(tuple(reference), rel=1e-9, abs=1e-12)
    assert result.equivalent == (result.p < alpha)


def test_tost_at_its_edges() -> None:
    normal = statistics.tost_from_summary(0.5, 0.25, math.inf, 1.0)
    assert normal.p == pytest.approx(stats.norm.sf(2))
    assert (statistics.tost([0.1] * 3, 0.2).p, statistics.tost([0.1] * 3, 0.2).equivalent) == (0, True)
    assert (statistics.tost([0.2] * 3, 0.2).p, statistics.tost([0.2] * 3, 0.2).equivalent) == (1, False)


# Three-sided answers

bounds = st.integers(-4, 4).map(float)


@settings(deadline=None)
@given(st.tuples(bounds, bounds).map(sorted), st.tuples(bounds, bounds).map(sorted))
def test_three_sided_by_definition(ends: list[float], margin: list[float]) -> None:
    answer = statistics.three_sided(Interval(*ends, 0.95, "t"), *margin)
    where = {
        Side.ABOVE: ends[0] > margin[1],
        Side.BELOW: ends[1] < margin[0],
        Side.WITHIN: margin[0] < ends[0] and ends[1] < margin[1],
    }
    assert sum(where.values()) <= 1
    assert answer == next((side for side, holds in where.items() if holds), Side.UNDECIDED)
    mirrored = statistics.three_sided(Interval(-ends[1], -ends[0], 0.95, "t"), -margin[1], -margin[0])
    swapped = {Side.ABOVE: Side.BELOW, Side.BELOW: Side.ABOVE}
    assert mirrored == swapped.get(answer, answer)


def test_three_sided_takes_the_narrower_interval_for_equivalence_only() -> None:
    outer, inner = Interval(-1.1, 0.5, 0.95, "t"), Interval(-0.9, 0.4, 0.9, "t")
    assert statistics.three_sided(outer, -1, 1) == "undecided"
    assert statistics.three_sided(outer, -1, 1, inner) == "within"
    assert statistics.three_sided(outer, -9, -1, inner) == "undecided"
    assert statistics.three_sided(outer, -1.5, math.inf) == "within"


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 30), st.floats(0.05, 2))
def test_three_sided_within_is_tost(seed: int, n: int, margin: float) -> None:
    values = np.random.default_rng(seed).normal(0.2, 1, n)
    equivalence = statistics.tost(values, margin)
    outer = statistics.tost(values, margin, alpha=0.025).interval
    answer = statistics.three_sided(outer, -margin, margin, equivalence.interval)
    assert (answer is Side.WITHIN) == equivalence.equivalent
