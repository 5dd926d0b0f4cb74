"""Half-split overlap of every method on the same splits, and what another draw of samples could make of a difference.

Splits of one set of samples share their samples: they are no independent repetitions, and a sign-flip test over them
rejects ever more often the more of them are drawn. What is independent is the samples. So interval and p come from a
Bayesian bootstrap over samples (Rubin 1981): each resample weighs the samples anew (Dirichlet) and splits them once, so
that no sample stands in both halves, as one drawn twice in the ordinary bootstrap would. A resample's halves hold less
information than real ones and overlap less, whatever the method: only its deviation from the mean of all is used.

With one split a resample the spread is that of a single split, wider than that of the mean over splits: of two methods
that are equally good, the 95 % interval leaves out 0 in fewer than 5 % of samples
(``test_equal_methods_are_seldom_told_apart``). Taking the splits' part out would make it too narrow by a third.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from caploc.comparisons import Effect
from caploc.experiments.commonality.splits import SCORES_AT_ONCE, agreement
from caploc.experiments.rivals.samples import Samples
from caploc.experiments.rivals.sets import CNL, located
from caploc.experiments.shards import random_halves
from caploc.neurons import Threshold
from caploc.statistics import Interval, permutation_p
from caploc.streams import Stream, stream

RESAMPLES = 1999
"""Six parts in some fifteen cells, which Holm corrects within and across, need 1,799."""

Overlaps = Mapping[str, Float[np.ndarray, " splits"]]


def half_splits(samples: Samples, threshold: Threshold, draws: int, seed: int) -> Overlaps:
    """``[draws]`` overlap of the halves' sets by every method, on the same random splits; nan where CNL locates nothing
    in a half."""
    generator = stream(Stream.SAMPLE_HALVES, seed)
    return _overlaps(samples, threshold, np.ones((draws, len(samples))), generator)


def resampled(samples: Samples, threshold: Threshold, seed: int) -> Overlaps:
    """``[RESAMPLES]`` the same, each split with the samples weighed anew."""
    generator = stream(Stream.SAMPLE_WEIGHTS, seed)
    weights = generator.standard_exponential((RESAMPLES, len(samples)))
    return _overlaps(samples, threshold, weights, generator)


def overlap_effect(splits: Overlaps, resamples: Overlaps, method: str, samples: int) -> Effect:
    """CNL's half-split overlap minus that of ``method``: the mean over splits, interval and p over ``samples`` samples.

    p is one-sided and of the interval's distribution: the share of it at or below 0.
    """
    difference, other = (_defined(found[CNL] - found[method]) for found in (splits, resamples))
    estimate = float(difference.mean())
    spread = np.clip(estimate + other - other.mean(), -1, 1)  # where differences of overlaps lie

    def interval(level: float) -> Interval:
        low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high), level, "Bayesian bootstrap over samples, centred")

    p = permutation_p(0.0, spread, "less")
    return Effect(estimate, interval(0.95), interval(0.90), p, None, None, samples, len(difference))


def _defined(values: np.ndarray) -> np.ndarray:
    found: np.ndarray = values[np.isfinite(values)]
    return found


def _overlaps(
    samples: Samples, threshold: Threshold, weights: np.ndarray, generator: np.random.Generator
) -> Overlaps:
    """Each row of ``weights [rows, samples]`` with its samples split into two halves at random."""
    first = np.zeros(weights.shape, dtype=bool)
    for row in first:
        row[next(random_halves(generator, len(samples)))] = True
    at_once = max(1, SCORES_AT_ONCE // samples.magnitude[0].size)
    parts: dict[str, list[np.ndarray]] = {}
    for begin in range(0, len(weights), at_once):
        rows = slice(begin, begin + at_once)
        one, other = (
            located(samples, weights[rows] * half, threshold) for half in (first[rows], ~first[rows])
        )
        for method in one:
            parts.setdefault(method, []).append(agreement(one[method], other[method]).overlap)
    return {method: np.concatenate(values) for method, values in parts.items()}
