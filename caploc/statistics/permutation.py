"""p values against random draws, and their correction for multiple comparisons."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import (
    StatisticsError,
    finite_array,
    finite_number,
    fraction,
    one_of,
    whole_number,
)


def permutation_p(
    observed: float, null: ArrayLike, alternative: Literal["greater", "less", "two-sided"] = "greater"
) -> float:
    """(1 + k) / (1 + m), where k of the m random draws `null` [m] are at least as extreme as `observed`.

    Never zero, and valid (at or below its level as often as it says) if the observed value would be exchangeable
    with the draws were the null true (Phipson & Smyth 2010). Ties count as at least as extreme, values that agree
    to rounding being ties. Two-sided: twice the smaller of both, at most 1.

    Raises `StatisticsError` if `null` is empty or anything is not finite.
    """
    draws = finite_array("null", null)
    value = finite_number("observed", observed)
    one_of("alternative", alternative, ("greater", "less", "two-sided"))
    rounding = 100 * np.finfo(np.float64).eps * abs(value)
    greater = (1 + int(np.sum(draws >= value - rounding))) / (1 + draws.size)
    less = (1 + int(np.sum(draws <= value + rounding))) / (1 + draws.size)
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


def minimum_draws(level: float, comparisons: int = 1) -> int:
    """The fewest random draws m with which the smallest p, 1 / (1 + m), can stay at or below `level` after `holm`.

    Holm multiplies the smallest of `comparisons` p values by their number. For two-sided p values, whose smallest is
    2 / (1 + m), double the comparisons. Raises `StatisticsError`.
    """
    level = fraction("level", level)
    whole_number("comparisons", comparisons, at_least=1)
    # exact in the decimals the user wrote, so that level 0.05 gives 19 and not 20
    draws = math.ceil(comparisons / Fraction(str(level))) - 1
    while holm([1 / (1 + draws)] + [1.0] * (comparisons - 1))[0] > level:
        draws += 1
    return max(1, draws)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p values [n] in the given order (Holm 1979): reject where at or below the family's level.

    Controls the chance of any false rejection under every dependence. Raises `StatisticsError`.
    """
    p = _p_values(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_yekutieli(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p values [n] in the given order (Benjamini & Yekutieli 2001), by `scipy.stats`.

    Controls the expected share of false rejections under every dependence. Raises `StatisticsError`.
    """
    return np.asarray(stats.false_discovery_control(_p_values(p_values), method="by"))


def _p_values(values: ArrayLike) -> np.ndarray:
    p = finite_array("p_values", values)
    outside = np.flatnonzero((p < 0) | (p > 1))
    if outside.size:
        raise StatisticsError(f"p_values[{outside[0]}] is {p[outside[0]]}: it must lie between 0 and 1")
    return p
