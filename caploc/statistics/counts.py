"""Chance levels and intervals of counts."""

from __future__ import annotations

from typing import Literal

from scipy import stats

from caploc.statistics.checks import fraction, one_of, whole_number
from caploc.statistics.intervals import Interval


def hypergeometric_p(overlap_count: int, size_a: int, size_b: int, total: int) -> float:
    """P(K >= overlap_count) if sets of `size_a` and `size_b` are drawn at random, apart, from `total` elements.

    Every element is equally likely: for neurons that is a weak null, as located ones crowd in few layers; test
    against layer-matched draws too. Raises `StatisticsError` for a count that no two such sets can have.
    """
    whole_number("total", total, at_least=1)
    whole_number("size_a", size_a, at_least=0, at_most=total)
    whole_number("size_b", size_b, at_least=0, at_most=total)
    whole_number(
        "overlap_count", overlap_count, at_least=max(0, size_a + size_b - total), at_most=min(size_a, size_b)
    )
    return float(stats.hypergeom.sf(overlap_count - 1, total, size_a, size_b))


def binomial_interval(
    k: int, n: int, level: float = 0.95, method: Literal["exact", "wilson"] = "exact"
) -> Interval:
    """Interval of a proportion from `k` successes in `n` independent trials, by `scipy.stats.binomtest`.

    "exact" (Clopper & Pearson 1934) covers at least with `level`, "wilson" (1927) about so and is shorter. Raises
    `StatisticsError`.
    """
    whole_number("n", n, at_least=1)
    whole_number("k", k, at_least=0, at_most=n)
    one_of("method", method, ("exact", "wilson"))
    level = fraction("level", level)
    interval = stats.binomtest(k, n).proportion_ci(level, method)
    return Interval(float(interval.low), float(interval.high), level, method)
