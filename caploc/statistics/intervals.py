"""Confidence intervals from samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from caploc.statistics.checks import finite_array, fraction


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
