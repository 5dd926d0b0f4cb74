"""Monotone relations: trends, as of overlap that grows with the number of samples, and rank correlations."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import Clusters, StatisticsError, finite_array, one_of
from caploc.statistics.intervals import Interval, bootstrap_interval
from caploc.statistics.permutation import permutation_p
from caploc.streams import Stream, stream

ENUMERABLE = 8
EXACT_WITHOUT_TIES = 33
CORRELATION_RESAMPLES = 1000
MANTEL_DEALS = 999

Key = tuple[str, str]
"""A cell of a matrix: the names of its row and its column."""

Values = Mapping[Key, np.ndarray]
"""A matrix by its cells, each ``[]`` or, of resamples, ``[resamples]``."""


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


def rank_correlations(rows: np.ndarray) -> list[float]:
    """Spearman's rho of the first part of ``rows [F, parts, sets]`` with each other part, over all facts and sets; nan
    where a part is constant."""
    first, *others = (stats.rankdata(rows[:, part].ravel()) for part in range(rows.shape[1]))
    with np.errstate(invalid="ignore", divide="ignore"):
        return [float(np.corrcoef(first, other)[0, 1]) for other in others]


def largest_rank_correlation(
    rows: np.ndarray, clusters: Clusters, seed: int
) -> tuple[float, Interval | None]:
    """The largest of `rank_correlations` in size, with a bootstrap interval over facts, those of one cluster together;
    which is the largest is found anew in every resample. Without an interval where one of them is nan."""

    def largest(drawn: np.ndarray) -> float:
        return float(np.max(np.abs(rank_correlations(drawn))))

    estimate = largest(rows)
    if not np.isfinite(estimate):
        return estimate, None
    return estimate, bootstrap_interval(
        rows, largest, draws=CORRELATION_RESAMPLES, seed=seed, clusters=clusters
    )


def row_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """``[F]`` Spearman's rho of every row of ``first`` and ``second [F, n]``, nan where one of the two is constant."""
    return np.array(
        [
            float(stats.spearmanr(a, b).statistic) if np.ptp(a) > 0 and np.ptp(b) > 0 else np.nan
            for a, b in zip(first, second, strict=True)
        ]
    )


def mean_rho(matrices: Sequence[Values]) -> np.ndarray:
    """The mean over pairs of matrices of `rho`, ``[...]``."""
    return np.mean([rho(a, b) for a, b in itertools.combinations(matrices, 2)], axis=0)


def rho(first: Values, second: Values) -> np.ndarray:
    """Spearman's rho of two matrices over the cells that both have, ``[...]`` as their values; ties are ranked in the
    middle. nan where a matrix is constant."""
    keys = shared_keys([first, second])
    x, y = (
        stats.rankdata(np.stack([values[key] for key in keys], axis=-1), axis=-1) - (len(keys) + 1) / 2
        for values in (first, second)
    )
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def shared_keys(matrices: Sequence[Values]) -> list[Key]:
    """The cells that all matrices have, in the order of the first."""
    return [key for key in matrices[0] if all(key in other for other in matrices)]


def mantel_p(matrices: Sequence[Values], seed: int) -> float:
    """p, one-sided, of `mean_rho` under dealing out the names of every matrix but the first anew, rows and columns
    together (Mantel 1967); nan where no deal has a correlation."""
    names = sorted({name for key in shared_keys(matrices) for name in key})
    generator = stream(Stream.DATASETS, seed)
    observed, null = float(mean_rho(matrices)), []
    for _ in range(MANTEL_DEALS):
        dealt = [matrices[0]]
        for other in matrices[1:]:
            to = dict(zip(names, generator.permutation(names).tolist(), strict=True))
            dealt.append({(to[a], to[b]): value for (a, b), value in other.items() if a in to and b in to})
        null.append(mean_rho(dealt))
    finite = np.array(null)[np.isfinite(null)]
    return permutation_p(observed, finite) if len(finite) else float("nan")


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
