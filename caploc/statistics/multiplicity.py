"""Several tests of one family: their p values corrected, and the effect that could have been found: what a test that
found nothing can still say."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from caploc.statistics.checks import (
    StatisticsError,
    finite_array,
    finite_number,
    fraction,
    one_of,
    whole_number,
)
from caploc.statistics.permutation import ALTERNATIVES, Alternative


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


def minimum_detectable_effect(
    standard_error: float | None = None,
    *,
    n: int | None = None,
    sd: float | None = None,
    level: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    alternative: Alternative = "two-sided",
) -> float:
    """The true effect, in size, that a test at `level` finds, on its own side, with probability `power`.

    From the `standard_error` of a normal estimate (z_{1-a} + z_{power}) standard_error, with a = level / comparisons
    (Bonferroni, the first step of `holm`), halved if two-sided (Bloom 1995). From the number `n` >= 2 and standard
    deviation `sd` of independent differences that of the one-sample t test, by the noncentral t distribution (Cohen
    1988): the size delta sd / sqrt(n) at which P(T_{n-1}(delta) > t_{1-a}) is `power`. For clusters, give the number
    and standard deviation of their means. `power` must exceed a. Raises `StatisticsError`.
    """
    tail = _tail(level, power, comparisons, alternative)
    if standard_error is not None and n is None and sd is None:
        return float(stats.norm.isf(tail) + stats.norm.ppf(power)) * _spread("standard_error", standard_error)
    if standard_error is not None or n is None or sd is None:
        raise StatisticsError("give either standard_error, or n and sd")
    freedom = whole_number("n", n, at_least=2) - 1
    critical = stats.t.isf(tail, freedom)

    def missing(delta: float) -> float:
        return float(stats.nct.sf(critical, freedom, delta)) - power

    # above critical + z the power is near 1 however heavy the tail of t
    highest = critical + 10.0
    while missing(highest) < 0:
        highest *= 2
    return float(optimize.brentq(missing, 0.0, highest)) * _spread("sd", sd) / math.sqrt(n)


def minimum_detectable_difference(
    n: int,
    discordant: float,
    *,
    level: float = 0.05,
    power: float = 0.8,
    comparisons: int = 1,
    alternative: Alternative = "two-sided",
) -> float:
    """The true difference of two paired proportions that exact `mcnemar` finds with probability `power`.

    `discordant` is the share of the `n` items that are expected to be right in one of the two only. Exact: the power
    of the binomial test, averaged over the number of such items (Duffy 1984). Infinite if even a difference of
    `discordant` itself, all of them on one side, is found less often. Raises `StatisticsError`.
    """
    whole_number("n", n, at_least=1)
    discordant = 1.0 if discordant == 1 else fraction("discordant", discordant)
    tail = _tail(level, power, comparisons, alternative)
    items = np.arange(n + 1)
    chances = stats.binom.pmf(items, n, discordant)
    # the most successes that are not significant; all of them where none is
    bound = stats.binom.isf(tail, items, 0.5)

    def missing(difference: float) -> float:
        found = stats.binom.sf(bound, items, min(1.0, (1 + difference / discordant) / 2))
        return float(chances @ found) - power

    if missing(discordant) < 0:
        return math.inf
    return float(optimize.brentq(missing, 0.0, discordant))


def _tail(level: float, power: float, comparisons: int, alternative: str) -> float:
    """The level of one tail of one test."""
    one_of("alternative", alternative, ALTERNATIVES)
    tail = fraction("level", level) / whole_number("comparisons", comparisons, at_least=1)
    tail /= 2 if alternative == "two-sided" else 1
    if not tail < fraction("power", power):
        raise StatisticsError(f"power is {power}: it must exceed the level of one tail, {tail:g}")
    return tail


def _spread(name: str, value: float) -> float:
    if finite_number(name, value) < 0:
        raise StatisticsError(f"{name} is {value}: it must not be negative")
    return float(value)
