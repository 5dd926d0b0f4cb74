"""p values against random draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from caploc.statistics.checks import finite_array, finite_number, one_of

Alternative = Literal["greater", "less", "two-sided"]
ALTERNATIVES = ("greater", "less", "two-sided")

ROUNDING = 1e-12
"""Sums that differ by less than this share of their terms' total size are ties."""


@dataclass(frozen=True)
class PermutationTest:
    """A permutation test of `units` exchangeable units.

    `p` comes from all arrangements ("exact", `draws` 0) or from so many random ones ("Monte Carlo"). `least_p` bounds
    it from below whatever the effect: where it is above the level, the test could not have rejected.
    """

    estimate: float
    p: float
    least_p: float
    method: Literal["exact", "Monte Carlo"]
    draws: int
    units: int


def permutation_p(observed: float, null: ArrayLike, alternative: Alternative = "greater") -> float:
    """(1 + k) / (1 + m), where k of the m random draws `null` [m] are at least as extreme as `observed`.

    Never zero, and valid (at or below its level as often as it says) if the observed value would be exchangeable
    with the draws were the null true (Phipson & Smyth 2010). Ties count as at least as extreme, values that agree
    to rounding being ties. Two-sided: twice the smaller of both, at most 1.

    Raises `StatisticsError` if `null` is empty or anything is not finite.
    """
    draws = finite_array("null", null)
    value = finite_number("observed", observed)
    one_of("alternative", alternative, ALTERNATIVES)
    rounding = 100 * np.finfo(np.float64).eps * abs(value)
    greater = (1 + int(np.sum(draws >= value - rounding))) / (1 + draws.size)
    less = (1 + int(np.sum(draws <= value + rounding))) / (1 + draws.size)
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]
