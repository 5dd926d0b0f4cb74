"""Confidence intervals from samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import StatisticsError, finite_array, fraction, one_of, whole_number

RESAMPLED_VALUES_AT_ONCE = 1 << 20


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


def bootstrap_interval(
    samples: ArrayLike,
    statistic: Callable[[np.ndarray], float],
    level: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    method: Literal["BCa", "percentile"] = "BCa",
    clusters: Sequence[object] | np.ndarray | None = None,
) -> Interval:
    """Bootstrap interval of `statistic` over the rows of `samples` [n, ...], by `scipy.stats.bootstrap`.

    `statistic` maps an array of rows (as many as are drawn) to a number. With `clusters`, a label per row, whole
    clusters are drawn with replacement and, for BCa, left out one at a time: right where rows of one cluster, such as
    the paraphrases of one fact, depend on each other. BCa (Efron 1987) corrects bias and skewness; where it is not
    defined (all jackknife values equal, or the estimate outside all draws) the percentile interval of the same draws
    is returned and `kind` says so. If all draws agree, the interval is that one point.

    Raises `StatisticsError` if there are fewer than two units to draw from, if `draws` cannot resolve `level`, or if
    the statistic is not finite on the sample or on a draw.
    """
    rows = finite_array("samples", samples, dimensions=max(1, np.ndim(samples)))
    one_of("method", method, ("BCa", "percentile"))
    level = fraction("level", level)
    whole_number("draws", draws, at_least=round(2 / (1 - level)))
    members = None if clusters is None else _members(len(rows), clusters)
    count = len(rows) if members is None else len(members)
    if count < 2:
        raise StatisticsError(f"samples hold {count} independent unit(s): a bootstrap needs at least 2")

    def of_units(units: np.ndarray) -> float:
        units = units.astype(int)
        drawn = units if members is None else np.concatenate([members[unit] for unit in units])
        value = float(statistic(rows[drawn]))
        if not np.isfinite(value):
            raise StatisticsError(f"the statistic is {value} on a resample: define it for every resample")
        return value

    units = np.arange(count)
    with warnings.catch_warnings():
        # the degenerate cases scipy warns of are handled below
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (units,),
            of_units,
            vectorized=False,
            n_resamples=draws,
            confidence_level=level,
            method=method,
            batch=max(1, RESAMPLED_VALUES_AT_ONCE // count),
            rng=np.random.default_rng(seed),
        )
    replicates = result.bootstrap_distribution
    low, high = result.confidence_interval
    if np.ptp(replicates) == 0:
        return Interval(float(replicates[0]), float(replicates[0]), level, method)
    if not np.isfinite([low, high]).all():
        interval = percentile_interval(replicates, level)
        return Interval(interval.low, interval.high, level, "percentile, as BCa is not defined")
    return Interval(float(low), float(high), level, method)


def _members(rows: int, clusters: Sequence[object] | np.ndarray) -> list[np.ndarray]:
    """The row numbers of each unit that is drawn as a whole, in order of first appearance."""
    if len(clusters) != rows:
        raise StatisticsError(f"clusters has {len(clusters)} labels for {rows} samples: give one per sample")
    members: dict[object, list[int]] = {}
    for row, label in enumerate(clusters):
        if label is None or (isinstance(label, float) and math.isnan(label)):
            raise StatisticsError(
                f"clusters[{row}] is {label}: label every sample, a lone one by a name of its own"
            )
        members.setdefault(label, []).append(row)
    return [np.array(indices) for indices in members.values()]
