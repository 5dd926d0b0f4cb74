"""Confidence intervals from samples, draws and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import finite_array, fraction, one_of, whole_number


@dataclass(frozen=True)
class Interval:
    """A closed interval that covers with probability `level`; `kind` says how it was made."""

    low: float
    high: float
    level: float
    kind: str

    @property
    def width(self) -> float:
        return self.high - self.low

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high

    def inside(self, low: float, high: float) -> bool:
        """Whether it lies strictly between two bounds."""
        return low < self.low and self.high < high


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> Interval:
    """The central interval that holds the fraction `level` of `samples` [n], n >= 2 (linear interpolation).

    It describes the samples. It is a confidence interval only where they are draws of an estimator's distribution,
    such as bootstrap replicates (Efron & Tibshirani 1993, section 13.3); random splits of one sample overlap, so
    theirs describes the splits. Raises `StatisticsError`.
    """
    array = finite_array("samples", samples, at_least=2)
    level = fraction("level", level)
    tail = (1 - level) / 2
    low, high = np.quantile(array, [tail, 1 - tail])
    return Interval(float(low), float(high), level, "percentile")


def defined_interval(draws: np.ndarray, level: float = 0.95) -> Interval:
    """`percentile_interval` of the draws that are not nan; nan ends where fewer than half of them are."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < max(2, len(draws) / 2):
        return Interval(float("nan"), float("nan"), level, "percentile")
    return percentile_interval(defined, level)


def defined_mean(values: np.ndarray, least: float = 0.0) -> float:
    """The mean of the values that are not nan; nan where none is, or less than the share ``least`` of them."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size >= max(1, least * values.size) else float("nan")


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
    kind = "Wilson" if method == "wilson" else method
    return Interval(float(interval.low), float(interval.high), level, kind)


def no_change(units: int, level: float) -> Interval:
    """The interval of a change of score that none of ``units`` items shows.

    A bootstrap of equal numbers is a point, as if 40 items could prove that no item changes. Exact (Clopper & Pearson
    1934): none of n changed leaves a share of up to 1 - (alpha / 2)^(1 / n) that does, in either direction.
    """
    most = binomial_interval(0, units, level).high
    return Interval(-most, most, level, "exact, as no item changes,")
