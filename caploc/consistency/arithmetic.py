"""Exact arithmetic on printed digits, what a number may have been before it was rounded; tests of printed proportions.

Two printed proportions are compared as of as many independent trials as the print implies. The print gives no pairs, so
the tests are unpaired; with the same items under both conditions a paired test would usually be sharper. z and p take
the standard error under the hypothesis of no difference (the pooled one, which stands near 0 % too); intervals and
equivalence take that of the difference itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from statistics import NormalDist

from caploc.statistics import Equivalence, holm, tost_from_summary


@dataclass(frozen=True)
class Span:
    """A closed interval of exact numbers."""

    low: Fraction
    high: Fraction

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Span) -> Span:
        return Span(self.low - other.high, self.high - other.low)

    def __truediv__(self, divisor: int) -> Span:
        return Span(self.low / divisor, self.high / divisor)

    def meets(self, other: Span) -> bool:
        """Whether the two have a number in common."""
        return self.low <= other.high and other.low <= self.high

    def contains(self, value: Fraction) -> bool:
        """Whether ``value`` lies in it, its ends included."""
        return self.low <= value <= self.high


class Explanation(StrEnum):
    """How a printed number can come from the terms it is computed of."""

    ROUNDING = "it is the result rounded to the nearest"
    TRUNCATION = "it is the result with its further digits cut off"
    HIDDEN_DIGITS = "the terms, before they were rounded, can give it"


def last_place(printed: str) -> Fraction:
    """One unit in the last printed place: 1/100 for ``"28.95"``."""
    exponent = Decimal(printed).as_tuple().exponent
    assert isinstance(exponent, int)  # printed numbers are finite
    return Fraction(10) ** exponent


def rounding(printed: str) -> Span:
    """The numbers that rounding to the nearest prints so: half a unit in the last place on either side."""
    value, half = Fraction(printed), last_place(printed) / 2
    return Span(value - half, value + half)


def truncated(value: Fraction, unit: Fraction) -> Fraction:
    """``value`` without its digits below ``unit``, towards zero."""
    return math.trunc(value / unit) * unit


def explanations(printed: str, value: Fraction, reach: Span) -> list[Explanation]:
    """All ways in which ``printed`` can stand for a result; none if it cannot.

    ``value`` is the result computed from the printed terms, ``reach`` what it can be before these were rounded.
    """
    unit = last_place(printed)
    found = {
        Explanation.ROUNDING: rounding(printed).contains(value),
        Explanation.TRUNCATION: truncated(value, unit) == Fraction(printed),
        Explanation.HIDDEN_DIGITS: rounding(printed).meets(reach) or _cut_off_meets(printed, reach),
    }
    return [explanation for explanation, holds in found.items() if holds]


def _cut_off_meets(printed: str, reach: Span) -> bool:
    """Whether a number in ``reach`` becomes ``printed`` when its further digits are cut off."""
    value, unit = Fraction(printed), last_place(printed)
    above = reach.high >= value and reach.low < value + unit
    below = reach.low <= value and reach.high > value - unit
    return (above and value >= 0) or (below and value <= 0)


def mean_of(terms: Iterable[str]) -> tuple[Fraction, Span]:
    """The mean of printed numbers, and what it can be before they were rounded."""
    terms = list(terms)
    value = sum(map(Fraction, terms), Fraction(0)) / len(terms)
    reach = sum(map(rounding, terms), Span(Fraction(0), Fraction(0))) / len(terms)
    return value, reach


def is_share_of(percent: str, count: int) -> bool:
    """The GRIM test: whether a printed percentage is k of ``count`` items for a whole k, rounded to the nearest."""
    return _some_share(rounding(percent), count)


def _some_share(span: Span, count: int) -> bool:
    # in whole numbers, as a search over counts asks often; k is the least whose share is not below the span
    k = -(-span.low.numerator * count // (100 * span.low.denominator))
    return 100 * k * span.high.denominator <= span.high.numerator * count


def is_truncated_share_of(percent: str, count: int) -> bool:
    """As `is_share_of`, for a percentage whose further digits were cut off."""
    unit = last_place(percent)
    k = math.ceil(Fraction(percent) * count / 100)
    return truncated(Fraction(100 * k, count), unit) == Fraction(percent)


def smallest_count(percents: Iterable[str], at_most: int) -> int | None:
    """The fewest items that all these percentages can be shares of; None if more than ``at_most`` are needed."""
    spans = [
        rounding(percent) for percent in set(percents) if Fraction(percent)
    ]  # 0 is a share of any number
    return next((n for n in range(1, at_most + 1) if all(_some_share(span, n) for span in spans)), None)


_NORMAL = NormalDist()


@dataclass(frozen=True)
class Difference:
    """First minus second proportion, its standard error, and what that would be if there were no difference."""

    value: float
    error: float
    error_if_equal: float

    @property
    def z(self) -> float:
        """In standard errors; 0 where both proportions are 0 or both are 1."""
        return self.value / self.error_if_equal if self.value else 0.0

    @property
    def p(self) -> float:
        """Two-sided p value of no difference."""
        return 2 * _NORMAL.cdf(-abs(self.z))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        half = _NORMAL.inv_cdf(0.975) * self.error
        return self.value - half, self.value + half

    def equivalence(self, margin: float) -> Equivalence:
        """Two one-sided tests of a difference smaller than ``margin``."""
        return tost_from_summary(self.value, self.error, math.inf, margin)


def difference(first: Fraction, second: Fraction, n: int) -> Difference:
    """The difference of two shares, each a fraction of ``n`` trials."""
    pooled = (first + second) / 2
    return Difference(
        float(first - second),
        math.sqrt((first * (1 - first) + second * (1 - second)) / n),
        math.sqrt(2 * pooled * (1 - pooled) / n),
    )


def from_known(share: Fraction, known: Fraction, n: int) -> Difference:
    """The difference of a share of ``n`` trials from a probability that is known, such as that of guessing."""
    own, if_equal = (math.sqrt(p * (1 - p) / n) for p in (share, known))
    return Difference(float(share - known), own, if_equal)


def fewest_trials(first: Fraction, second: Fraction, level: float) -> int | None:
    """The fewest trials of each at which the two-sided interval of this difference leaves out 0; None if it is 0."""
    if first == second:
        return None
    needed = _NORMAL.inv_cdf(1 - level / 2) * difference(first, second, 1).error / float(first - second)
    return math.ceil(needed**2)


def significant(differences: Sequence[Difference], level: float) -> list[bool]:
    """Which of a family are significant after Holm's correction."""
    return [bool(p < level) for p in holm([item.p for item in differences])]
