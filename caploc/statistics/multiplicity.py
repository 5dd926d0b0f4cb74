"""Several tests of one family: their p values corrected, and the random draws that a correction asks for."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import StatisticsError, finite_array, fraction, whole_number


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
