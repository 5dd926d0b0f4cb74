"""Exact arithmetic on printed digits: what a number may have been before it was rounded, and what follows from that."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction


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
