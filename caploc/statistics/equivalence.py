"""Equivalence: a difference shown to be smaller than a margin set beforehand, never a large p value; and on which side
of a margin an effect lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import StatisticsError, finite_array, finite_number, fraction
from caploc.statistics.intervals import Interval


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


def equivalence_p(first: np.ndarray, second: np.ndarray, margin: float) -> float:
    """p of two one-sided tests that the shares of ``first > 0`` and ``second > 0``, 0 or 1 ``[items]``, differ by less
    than ``margin``, with the estimate and the standard error of Bonett & Price: one more item in each kind of
    disagreement, so that no p is 0."""
    n = len(first) + 2
    only_first, only_second = (first > second).sum() + 1, (second > first).sum() + 1
    centre = (only_first - only_second) / n
    error = np.sqrt(((only_first + only_second) / n - centre**2) / n)
    return tost_from_summary(float(centre), float(error), np.inf, margin).p


def free_level(parts: int, share: float, alpha: float = 0.05) -> float:
    """The level of intervals by which a ``share`` of so many parts is shown to lie within a margin, or shown not to.

    That fewer than k of m parts are equal is rejected if k of them are, each at alpha / (m - k + 1): of the parts that
    are not equal, one at least is among any k (a partial conjunction; Benjamini & Heller 2008). That k are equal, in
    the same way, if m - k + 1 lie outside at alpha / k. For all of the parts this is the 90 % interval of two one-sided
    tests.
    """
    needed = math.ceil(share * parts - 1e-9)
    free = parts - needed + 1
    return 1 - 2 * alpha / (max(free, needed) if needed < parts else free)


def _checked_margin(margin: float, alpha: float) -> tuple[float, float]:
    margin, alpha = finite_number("margin", margin), fraction("alpha", alpha)
    if not margin > 0:
        raise StatisticsError(f"margin is {margin}: it must be positive, and set before the data are seen")
    if not alpha < 0.5:
        raise StatisticsError(f"alpha is {alpha}: it must be below 0.5")
    return margin, alpha


class Side(StrEnum):
    """Where an effect was shown to lie; UNDECIDED if it was not."""

    ABOVE = "above"
    BELOW = "below"
    WITHIN = "within"
    UNDECIDED = "undecided"


def three_sided(interval: Interval, low: float, high: float, inner: Interval | None = None) -> Side:
    """Above, below or within the margin `low` .. `high`, if the whole interval is (Goeman, Solari & Stijnen 2010).

    ABOVE and BELOW ask it of `interval`, of level 1 - a, WITHIN of `inner`, the same effect's interval of level 1 - 2a
    as in `tost`, or of `interval` itself if none is given, which is stricter. Exactly one of the three regions holds
    the truth, so each wrong answer has probability a at most, and so have all together, without a correction for
    making three tests: seen from any true effect, every wrong answer means that `interval`, or one end of `inner`,
    missed it. That holds for intervals with equal tails of a / 2 and a. The margin may be infinite on one side, and
    an interval that touches it is undecided. Raises `StatisticsError` for a margin or a pair of levels without
    meaning.
    """
    if math.isnan(low) or math.isnan(high) or low > high:
        raise StatisticsError(f"the margin {low} .. {high} is empty: low must not exceed high")
    if inner is not None and not 2 * interval.level - 1 - 1e-9 <= inner.level <= interval.level:
        raise StatisticsError(
            f"inner has level {inner.level:g}: beside an interval of level {interval.level:g} it must have "
            f"{max(0.0, 2 * interval.level - 1):g} at least, and at most as much"
        )
    if interval.low > high:
        return Side.ABOVE
    if interval.high < low:
        return Side.BELOW
    return Side.WITHIN if (inner or interval).inside(low, high) else Side.UNDECIDED
