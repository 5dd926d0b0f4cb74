"""Right or wrong, twice per item: which of the two is right more often?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import StatisticsError, fraction, one_of, truth_array, whole_number
from caploc.statistics.intervals import Interval
from caploc.statistics.permutation import ALTERNATIVES, Alternative


@dataclass(frozen=True)
class McNemar:
    """The difference of two paired proportions of `n` items, from the items where they disagree."""

    estimate: float
    p: float
    interval: Interval
    first_only: int
    second_only: int
    n: int


def mcnemar(
    first: ArrayLike, second: ArrayLike, *, alternative: Alternative = "two-sided", level: float = 0.95
) -> McNemar:
    """`mcnemar_from_counts` of two vectors [n] of true and false; items must be independent.

    Items in clusters, or answered under several seeds: `paired_permutation`. Raises `StatisticsError`.
    """
    a, b = truth_array("first", first), truth_array("second", second)
    if a.shape != b.shape:
        raise StatisticsError(f"first has {a.size} values and second {b.size}: pairs need as many of each")
    counts = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return mcnemar_from_counts(*counts, a.size, alternative=alternative, level=level)


def mcnemar_from_counts(
    first_only: int,
    second_only: int,
    n: int,
    *,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> McNemar:
    """Exact McNemar test of `n` pairs of which so many were right in the first (b) or in the second only (c).

    p is that of b in a binomial of b + c trials at 1/2 (`scipy.stats.binomtest`; no mid-p), 1 if there are none;
    "greater" means that the first is right more often. The estimate is (b - c) / n, its interval that of Bonett &
    Price (2012): Wald's after one more item is added to each of b and c, and two to n. At 95 % it covers, enumerated
    over 441 pairs of proportions, .961 on average and .928 at least at 20 items, .953 and .937 at 100 (the score
    interval of Tango 1998: .957 and .912, .950 and .933); at 10 items .966 and .891, the latter where all disagree.
    It may exclude 0 where p is a little above the level. Raises `StatisticsError`.
    """
    whole_number("n", n, at_least=1)
    b = whole_number("first_only", first_only, at_least=0, at_most=n)
    c = whole_number("second_only", second_only, at_least=0, at_most=n - b)
    one_of("alternative", alternative, ALTERNATIVES)
    z = float(stats.norm.isf((1 - fraction("level", level)) / 2))
    p = float(stats.binomtest(b, b + c, alternative=alternative).pvalue) if b + c else 1.0
    centre = (b - c) / (n + 2)
    half_width = z * math.sqrt(((b + c + 2) / (n + 2) - centre**2) / (n + 2))
    interval = Interval(max(-1.0, centre - half_width), min(1.0, centre + half_width), level, "Bonett-Price")
    return McNemar((b - c) / n, p, interval, b, c, n)
