"""Tests of monotone trends, as of overlap that grows with the number of samples."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import StatisticsError, finite_array, one_of

ENUMERABLE = 8
EXACT_WITHOUT_TIES = 33


@dataclass(frozen=True)
class Trend:
    """A trend test's statistic, its p value, and how that was found ("exact" or "asymptotic")."""

    statistic: float
    p: float
    method: str


def mann_kendall(
    values: ArrayLike,
    x: ArrayLike | None = None,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> Trend:
    """Mann-Kendall trend of `values` [n] over `x` [n] (default: their order), n >= 3; "greater" is increasing.

    The statistic is Kendall's tau-b. Null: every order of the values is equally likely (so they must be independent;
    points of one cumulative curve are not, see `page_trend`). p is exact without ties up to 33 points
    (`scipy.stats.kendalltau`) and with ties up to 8 (all orders enumerated), beyond that the normal approximation
    corrected for ties. If all values, or all x, are equal there is no trend: tau 0, p 1. Raises `StatisticsError`.
    """
    one_of("alternative", alternative, ("two-sided", "greater", "less"))
    y = finite_array("values", values, at_least=3)
    order = np.arange(y.size, dtype=float) if x is None else finite_array("x", x)
    if order.shape != y.shape:
        raise StatisticsError(f"x has {order.size} points for {y.size} values: give one per value")
    if np.ptp(y) == 0 or np.ptp(order) == 0:
        return Trend(0.0, 1.0, "exact")
    ties = len(np.unique(y)) < y.size or len(np.unique(order)) < y.size
    exact = not ties and y.size <= EXACT_WITHOUT_TIES
    result = stats.kendalltau(order, y, method="exact" if exact else "asymptotic", alternative=alternative)
    if ties and y.size <= ENUMERABLE:
        return Trend(float(result.statistic), _enumerated_p(order, y, alternative), "exact")
    return Trend(float(result.statistic), float(result.pvalue), "exact" if exact else "asymptotic")


def page_trend(curves: ArrayLike, direction: Literal["increasing", "decreasing"] = "increasing") -> Trend:
    """Page's test of a common trend in `curves` [replicates >= 2, sizes >= 3], one-sided (Page 1963).

    Null: within each replicate every order is equally likely; replicates are independent. The statistic is Page's
    L, p by `scipy.stats.page_trend_test` (exact for small tables). Ties get mean ranks, which makes the test
    conservative. Raises `StatisticsError`.
    """
    one_of("direction", direction, ("increasing", "decreasing"))
    table = finite_array("curves", curves, dimensions=2, at_least=2)
    if table.shape[1] < 3:
        raise StatisticsError(f"curves has shape {table.shape}: a trend needs at least 3 sizes (columns)")
    result = stats.page_trend_test(table if direction == "increasing" else table[:, ::-1])
    return Trend(float(result.statistic), float(result.pvalue), str(result.method))


def _enumerated_p(x: np.ndarray, y: np.ndarray, alternative: str) -> float:
    """Share of all orders of y whose sum of concordances with x is at least as extreme as that of y."""
    pairs = np.array(list(itertools.combinations(range(x.size), 2)))
    concordance = np.sign(x[pairs[:, 1]] - x[pairs[:, 0]])
    shuffled = y[_orders(x.size)]
    sums = np.zeros(len(shuffled))
    for (first, second), sign in zip(pairs, concordance, strict=True):
        sums += sign * np.sign(shuffled[:, second] - shuffled[:, first])
    # the first order is the observed one
    observed = sums[0]
    if alternative == "two-sided":
        return float(np.mean(np.abs(sums) >= abs(observed)))
    return float(np.mean(sums >= observed if alternative == "greater" else sums <= observed))


@lru_cache(maxsize=ENUMERABLE)
def _orders(n: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(n))), dtype=np.intp)
