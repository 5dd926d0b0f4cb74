"""Two printed proportions compared, each of as many independent trials as the print implies.

The print gives no pairs, so the tests are unpaired; with the same items under both conditions a paired test would
usually be sharper. z and p take the standard error under the hypothesis of no difference (the pooled one, which stands
near 0 % too); intervals and equivalence take that of the difference itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

from caploc.statistics import Equivalence, holm, tost_from_summary

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
