"""Differences of success between two layers, on the same facts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from caploc.comparisons import Effect, compare_pairs
from caploc.statistics import Interval, mcnemar, tost_from_summary


def compare_successes(first: np.ndarray, second: np.ndarray, clusters: np.ndarray, seed: int) -> Effect:
    """`compare_pairs` of outcomes 0 and 1, whose intervals are at least McNemar's (Bonett & Price 2012).

    Where hardly a fact ends differently, a bootstrap has next to no width, however few facts there are: two dozen that
    all agree would pass for equivalence within any margin.
    """
    effect = compare_pairs(first, second, clusters=clusters, seed=seed)
    return replace(
        effect,
        interval=at_least_mcnemar(effect.interval, first, second),
        interval90=at_least_mcnemar(effect.interval90, first, second),
    )


def at_least_mcnemar(interval: Interval, first: np.ndarray, second: np.ndarray) -> Interval:
    """``interval`` of a mean difference, widened where the paired proportions' own one reaches further."""
    own = mcnemar(first > 0, second > 0, level=interval.level).interval
    kind = f"{interval.kind} over facts, at least Bonett-Price"
    return Interval(min(interval.low, own.low), max(interval.high, own.high), interval.level, kind)


def equivalence_p(first: np.ndarray, second: np.ndarray, margin: float) -> float:
    """p of two one-sided tests that the proportions differ by less than ``margin``, with the estimate and the standard
    error of Bonett & Price: one more fact in each kind of disagreement, so that no p is 0."""
    n = len(first) + 2
    only_first, only_second = (first > second).sum() + 1, (second > first).sum() + 1
    centre = (only_first - only_second) / n
    error = np.sqrt(((only_first + only_second) / n - centre**2) / n)
    return tost_from_summary(float(centre), float(error), np.inf, margin).p
