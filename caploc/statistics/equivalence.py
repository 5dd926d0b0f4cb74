"""Equivalence: a difference shown to be smaller than a margin set beforehand, never a large p value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import StatisticsError, finite_array, finite_number, fraction
from caploc.statistics.intervals import Interval, percentile_interval


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests of |difference| < `margin` at level `alpha`.

    `p` is the larger of the two p values; `interval` has level 1 - 2 alpha. `equivalent` holds if and only if the
    interval lies strictly within -margin .. margin (for the t test the same as p < alpha).
    """

    estimate: float
    p: float
    interval: Interval
    margin: float
    alpha: float

    @property
    def equivalent(self) -> bool:
        return self.interval.inside(-self.margin, self.margin)


def tost(differences: ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Equivalence of paired measurements from their `differences` [n], n >= 2 (Schuirmann 1987).

    Two one-sided t tests: differences independent, their mean about normal. `margin` is in the unit of the
    differences. A constant sample gives p 0 or 1 and a one-point interval. Raises `StatisticsError`.
    """
    sample = finite_array("differences", differences, at_least=2)
    # rounding of the mean would give a constant sample a spread
    constant = np.ptp(sample) == 0
    mean = sample[0] if constant else sample.mean()
    error = 0.0 if constant else sample.std(ddof=1) / math.sqrt(sample.size)
    return tost_from_summary(float(mean), float(error), sample.size - 1, margin, alpha)


def tost_from_summary(
    mean: float, standard_error: float, degrees_of_freedom: float, margin: float, alpha: float = 0.05
) -> Equivalence:
    """`tost` from an estimate, its standard error and degrees of freedom (infinite for a normal estimate)."""
    mean, standard_error = finite_number("mean", mean), finite_number("standard_error", standard_error)
    if standard_error < 0:
        raise StatisticsError(f"standard_error is {standard_error}: it must not be negative")
    if not degrees_of_freedom > 0:
        raise StatisticsError(f"degrees_of_freedom is {degrees_of_freedom}: it must be positive")
    margin, alpha = _checked_margin(margin, alpha)
    if standard_error == 0:
        p = float(abs(mean) >= margin)
        half_width = 0.0
    else:
        t = stats.t(degrees_of_freedom)
        p = float(max(t.sf((mean + margin) / standard_error), t.cdf((mean - margin) / standard_error)))
        half_width = float(t.isf(alpha)) * standard_error
    interval = Interval(mean - half_width, mean + half_width, 1 - 2 * alpha, "t")
    return Equivalence(mean, p, interval, margin, alpha)


def tost_percentile(samples: ArrayLike, margin: float, alpha: float = 0.05) -> Equivalence:
    """Equivalence from draws of a difference's distribution [m], such as bootstrap replicates or splits.

    Equivalent if and only if the percentile interval of level 1 - 2 alpha lies strictly within the margin; `p` is the
    larger share of draws, (1 + k) / (1 + m), at or beyond either bound; `estimate` is their mean. Assumes that the
    draws are spread as the estimate is (see `percentile_interval`). Raises `StatisticsError`, also when there are
    too few draws for p to reach alpha.
    """
    draws = finite_array("samples", samples, at_least=2)
    margin, alpha = _checked_margin(margin, alpha)
    if 1 / (1 + draws.size) > alpha:
        raise StatisticsError(
            f"samples has {draws.size} draws: alpha {alpha} needs at least {math.ceil(1 / alpha) - 1}"
        )
    beyond = max(np.sum(draws <= -margin), np.sum(draws >= margin))
    p = (1 + int(beyond)) / (1 + draws.size)
    return Equivalence(float(draws.mean()), p, percentile_interval(draws, 1 - 2 * alpha), margin, alpha)


def _checked_margin(margin: float, alpha: float) -> tuple[float, float]:
    margin, alpha = finite_number("margin", margin), fraction("alpha", alpha)
    if not margin > 0:
        raise StatisticsError(f"margin is {margin}: it must be positive, and set before the data are seen")
    if not alpha < 0.5:
        raise StatisticsError(f"alpha is {alpha}: it must be below 0.5")
    return margin, alpha
