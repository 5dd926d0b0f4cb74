"""Facts in several wordings: resampling subjects and templates at once.

Prompts of one subject depend on each other, and so do prompts of one template: resampling both, crossed (the pigeonhole
bootstrap of Owen 2007), covers statistics of pairs of prompts, on the wide side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from caploc.statistics.checks import StatisticsError
from caploc.statistics.comparisons import Effect, effect_of_draws
from caploc.statistics.intervals import Interval
from caploc.streams import Stream, stream

CROSSED_DRAWS = 999
"""Of the crossed bootstrap: enough for a p value of 0.001."""


def crossed_weights(
    subjects: np.ndarray, templates: np.ndarray, relations: np.ndarray, seed: int, draws: int = CROSSED_DRAWS
) -> np.ndarray:
    """``[draws, P]`` how often each prompt is in a bootstrap sample of subjects crossed with one of templates.

    Both are drawn within relations (``relations [P]``), which are taken as they are. ``subjects [P]`` and ``templates
    [P]`` are numbers from 0; a subject with facts in several relations is drawn once, for all of them alike.
    """
    generator = stream(Stream.CROSSED, seed)
    units = int(subjects.max()) + 1
    drawn = generator.integers(0, units, (draws, units))
    by_subject = np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(float)
    by_template = np.zeros((draws, int(templates.max()) + 1))
    for relation in np.unique(relations):
        own = np.unique(templates[relations == relation])
        chosen = generator.integers(0, len(own), (draws, len(own)))
        for draw, row in enumerate(chosen):
            by_template[draw, own] += np.bincount(row, minlength=len(own))
    return np.asarray(by_subject[:, subjects] * by_template[:, templates])


def crossed_effect(estimate: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, units: int) -> Effect:
    """The effect that ``estimate`` gives for the prompts as they are, with percentile intervals and p from resamples.

    ``estimate`` maps weights ``[draws, P]`` to ``[draws]`` differences, nan where a resample defines none. p is
    one-sided, the share of resamples at or below 0. ``units``: how many facts the number rests on.
    """
    observed = float(estimate(np.ones((1, weights.shape[1])))[0])
    drawn = estimate(weights)
    drawn = drawn[np.isfinite(drawn)]
    if not math.isfinite(observed) or 2 * len(drawn) < len(weights):
        raise StatisticsError("too few resamples have pairs of the kinds that are compared")
    p = (1 + int((drawn <= 0).sum())) / (1 + len(drawn))
    return effect_of_draws(observed, drawn, p, units)


def pair_means(matrix: np.ndarray, pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``[draws]`` means of ``matrix [P, P]`` over the ``pairs [P, P]`` that are marked, each as often as both prompts
    are drawn (``weights [draws, P]``); nan where none is."""
    marked = pairs & np.isfinite(matrix)
    total = ((weights @ np.where(marked, matrix, 0.0)) * weights).sum(1)
    count = ((weights @ marked.astype(float)) * weights).sum(1)
    return np.asarray(np.where(count > 0, total / np.where(count > 0, count, 1), np.nan))


def ratio_of_sums(part: np.ndarray, whole: np.ndarray, weights: np.ndarray) -> tuple[float, Interval]:
    """Sum of ``part [P]`` over that of ``whole [P]``, and its percentile interval over the resamples ``weights``."""
    sums = np.stack([weights @ part, weights @ whole])
    usable = weights.any(1)
    low, high = np.quantile(sums[0, usable] / sums[1, usable], [0.025, 0.975])
    return float(part.sum() / whole.sum()), Interval(float(low), float(high), 0.95, "percentile")
