"""McNemar's test and its interval against enumerations and published numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.tests.statistics.samples import alternatives, levels

counts = st.integers(0, 40)


@settings(deadline=None)
@given(counts, counts, alternatives)
def test_p_by_counting(b: int, c: int, alternative: str) -> None:
    m = b + c
    greater = sum(math.comb(m, k) for k in range(b, m + 1)) / 2**m
    less = sum(math.comb(m, k) for k in range(b + 1)) / 2**m
    expected = {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}[alternative]
    result = statistics.mcnemar_from_counts(b, c, m + 3, alternative=alternative)
    assert result.p == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(counts, counts, counts, levels)
def test_interval_holds_the_estimate_and_is_symmetric(b: int, c: int, rest: int, level: float) -> None:
    n = b + c + rest + 1
    result = statistics.mcnemar_from_counts(b, c, n, level=level)
    assert result.estimate == (b - c) / n
    assert result.interval.contains(result.estimate)
    assert -1 <= result.interval.low < result.interval.high <= 1
    other = statistics.mcnemar_from_counts(c, b, n, level=level).interval
    assert (other.low, other.high) == pytest.approx((-result.interval.high, -result.interval.low))


def test_published_example() -> None:
    """Airway reactivity before and after stem cell transplantation (Fagerland, Lydersen & Laake 2014)."""
    result = statistics.mcnemar_from_counts(1, 7, 21)
    assert (result.interval.low, result.interval.high) == pytest.approx((-0.508, -0.013), abs=5e-4)
    assert result.p == pytest.approx(0.0703, abs=5e-5)


def test_vectors_are_counted() -> None:
    first = [True, True, True, False, False, True]
    second = np.array([1, 0, 0, 1, 0, 0])
    result = statistics.mcnemar(first, second)
    assert (result.first_only, result.second_only, result.n) == (3, 1, 6)
    assert result == statistics.mcnemar_from_counts(3, 1, 6)
    assert statistics.mcnemar([1, 0], [1, 0]).p == 1


@pytest.mark.parametrize(("n", "least", "mean"), [(10, 0.890, 0.966), (20, 0.928, 0.960), (40, 0.930, 0.955)])
def test_coverage_enumerated(n: int, least: float, mean: float) -> None:
    """The docstring's figures, over every pair of discordant counts and a grid of proportions."""
    pairs = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    intervals = [statistics.mcnemar_from_counts(int(b), int(c), n).interval for b, c in pairs]
    low, high = (np.array([getattr(interval, end) for interval in intervals]) for end in ("low", "high"))
    outcomes = np.column_stack([pairs, n - pairs.sum(axis=1)])
    covered = []
    for p in range(41):
        for q in range(min(p, 40 - p) + 1):
            chances = stats.multinomial.pmf(outcomes, n, [p / 40, q / 40, (40 - p - q) / 40])
            truth = (p - q) / 40
            covered.append(chances[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum())
    assert len(covered) == 441
    assert min(covered) == pytest.approx(least, abs=0.001)
    assert np.mean(covered) == pytest.approx(mean, abs=0.001)
