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

from caploc.experiments.locating import SCORES_AT_ONCE
from caploc.experiments.rivals.samples import Samples
from caploc.experiments.rivals.sets import CNL, located
from caploc.neurons import Threshold
from caploc.statistics import Effect, agreement, effect_of_centred_draws, sample_halves, weighted_halves

RESAMPLES = 1999
"""Six parts in some fifteen cells, which Holm corrects within and across, need 1,799."""

Overlaps = Mapping[str, Float[np.ndarray, " splits"]]


def half_splits(samples: Samples, threshold: Threshold, draws: int, seed: int) -> Overlaps:
    """``[draws]`` overlap of the halves' sets by every method, on the same random splits; nan where CNL locates nothing
    in a half."""
    first = sample_halves(len(samples), draws, seed)
    return _overlaps(samples, threshold, np.ones(first.shape), first)


def resampled(samples: Samples, threshold: Threshold, seed: int) -> Overlaps:
    """``[RESAMPLES]`` the same, each split with the samples weighed anew."""
    return _overlaps(samples, threshold, *weighted_halves(len(samples), RESAMPLES, seed))


def overlap_effect(splits: Overlaps, resamples: Overlaps, method: str, samples: int) -> Effect:
    """CNL's half-split overlap minus that of ``method``: the mean over splits, interval and p over ``samples``
    samples."""
    difference, other = (found[CNL] - found[method] for found in (splits, resamples))
    return effect_of_centred_draws(difference, other, samples)


def _overlaps(samples: Samples, threshold: Threshold, weights: np.ndarray, first: np.ndarray) -> Overlaps:
    """Of each row of ``weights [rows, samples]``, its samples split into the ``first`` half and the other."""
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
