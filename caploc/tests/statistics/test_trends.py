"""Trends against enumerations of all orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.tests.statistics.samples import tied_samples


@settings(deadline=None)
@given(tied_samples, st.sampled_from(["two-sided", "greater", "less"]))
def test_mann_kendall_by_enumeration(values: np.ndarray, alternative: str) -> None:
    def score(y: tuple[float, ...]) -> int:
        return sum(np.sign(b - a) for a, b in itertools.combinations(y, 2))

    observed = score(tuple(values))
    orders = [score(order) for order in itertools.permutations(values)]
    extreme = {
        "greater": lambda s: s >= observed,
        "less": lambda s: s <= observed,
        "two-sided": lambda s: abs(s) >= abs(observed),
    }[alternative]
    result = statistics.mann_kendall(values, alternative=alternative)
    assert result.p == pytest.approx(np.mean([extreme(s) for s in orders]))
    assert result.method == "exact"
    assert np.sign(result.statistic) == np.sign(observed)


def test_mann_kendall_over_sizes() -> None:
    sizes, values = [10, 20, 40, 80, 160], [0.2, 0.5, 0.4, 0.7, 0.9]
    assert statistics.mann_kendall(values, sizes) == statistics.mann_kendall(values)
    assert statistics.mann_kendall(values[::-1], sizes[::-1]) == statistics.mann_kendall(values)
    rising = statistics.mann_kendall(range(5), alternative="greater")
    assert (rising.statistic, rising.p) == pytest.approx((1, 1 / 120))
    assert statistics.mann_kendall([1.0, 1, 1]).p == 1
    many = np.random.default_rng(0).integers(0, 4, 40).astype(float)
    assert statistics.mann_kendall(many).method == "asymptotic"
    assert statistics.mann_kendall(many).p == stats.kendalltau(range(40), many).pvalue


def test_page_trend_by_enumeration() -> None:
    curves = np.array([[0.1, 0.5, 0.3], [0.2, 0.4, 0.9]])
    weights = np.array([1, 2, 3])
    observed = (stats.rankdata(curves, axis=1) @ weights).sum()
    totals = [
        np.dot(first, weights) + np.dot(second, weights)
        for first in itertools.permutations([1, 2, 3])
        for second in itertools.permutations([1, 2, 3])
    ]
    result = statistics.page_trend(curves)
    assert result.statistic == observed
    assert result.p == pytest.approx(np.mean([total >= observed for total in totals]))
    assert statistics.page_trend(-curves, "decreasing") == result
    assert statistics.page_trend(curves, "decreasing").p > 0.5
