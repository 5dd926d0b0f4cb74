"""Differences between two arms of training: paired over items, averaged over seeds and draws, pooled over datasets.

A run is one training, of one seed and one set of neurons. Its luck is not averaged out by items, so the intervals join
two kinds of luck, in the way of Zou & Donner (2008), as `caploc.comparisons.compare_with_random` does: that with items
(BCa of the mean difference, dataset by dataset) and that with runs (Student's t with the between-run variance, that of
the runs' means less what items explain of it; Welch's degrees of freedom).

Where the second arm was *drawn*, as random neurons are, the interval is of the first arm minus a further draw: located
must do better than another random set would. Five draws give a rank p of 1/6 at best, so p asks about items, as the
claims' entries say (sign flips of an item's differences, all its seeds together), and luck with sets is in the interval
alone: an interval above 0 rejects "located is a further draw" at level .025, if draws are about normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from caploc.comparisons import FLIPS, RESAMPLES, Effect
from caploc.experiments.erasure.changes import if_nothing_changed
from caploc.statistics import Interval, bootstrap_mean, paired_permutation, permutation_p


@dataclass(frozen=True, eq=False)
class Pair:
    """Outcomes of two arms trained on one dataset and tested on one: ``first [runs, items]``, ``second [runs, items]``.

    What was not trained, such as the base, has one run.
    """

    trained: str
    tested: str
    first: np.ndarray
    second: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """``[items]`` means over runs, first minus second."""
        return np.asarray(self.first.mean(0) - self.second.mean(0))


def effect_of(
    pairs: Sequence[Pair],
    *,
    drawn: bool = False,
    scores: bool = True,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> Effect:
    """The mean over ``pairs`` (at least one) of their differences.

    Items of one tested dataset are the same in all its pairs and are resampled and flipped together; runs of one
    trained dataset likewise. Where no score differs at all, intervals are as wide as so many items allow;
    ``scores`` False for losses, which are not between 0 and 1. ``p_sets`` of
    the result is None: see `rank_p`.
    """
    tested = _by_tested(pairs)
    error, freedom = _luck(pairs, drawn)
    mean = sum(float(values.mean()) for values in tested)

    def joined(level: float) -> Interval:
        items = [bootstrap_mean(values, level, resamples, seed) for values in tested]
        centres = [float(values.mean()) for values in tested]
        runs = error * float(stats.t.isf((1 - level) / 2, freedom)) if error > 0 else 0.0
        below = [centre - one.low for centre, one in zip(centres, items, strict=True)]
        above = [one.high - centre for centre, one in zip(centres, items, strict=True)]
        kind = f"{items[0].kind} over items" + (", joined with t over runs" if error > 0 else "")
        return Interval(mean - math.hypot(runs, *below), mean + math.hypot(runs, *above), level, kind)

    pooled = np.concatenate([values / len(values) for values in tested])
    pooled *= len(pooled)  # whose mean is the estimate
    spread = float(pooled.std(ddof=1)) if np.ptp(pooled) > 0 else 0.0
    test = paired_permutation(pooled, alternative="greater", draws=flips, seed=seed)
    size = mean / spread if spread > 0 else None
    draws = sum(len(one.second) for one in pairs) if drawn else 0
    effect = Effect(mean, joined(0.95), joined(0.90), test.p, None, size, len(pooled), draws)
    return if_nothing_changed(effect, len(pooled)) if scores else effect


def rank_p(pairs: Sequence[Pair]) -> float:
    """(1 + k) / (1 + m): the rank of the first arm among m draws of the second, all pairs' draws by their number."""
    fewest = min(len(one.second) for one in pairs)
    drawn = np.mean([one.second[:fewest].mean(1) for one in pairs], axis=0)
    return permutation_p(float(np.mean([one.first.mean() for one in pairs])), drawn)


def between_runs(outcomes: Sequence[np.ndarray]) -> float:
    """The variance of runs' true means over datasets, of ``outcomes [runs, items]`` each; 0 where runs do not differ.

    A run's mean is the sum over datasets of its items' means; what items explain of the means' variance is taken away.
    """
    runs = len(outcomes[0])
    if runs < 2:
        return 0.0
    means = sum(one.mean(1) for one in outcomes)
    noise = 0.0
    for one in outcomes:
        own = one - one.mean(0)
        own -= own.mean(1, keepdims=True)
        items = own.shape[1]
        # subtracting the runs' mean took 1/runs of each run's own variance away
        noise += (own**2).sum(1).mean() / items / max(1, items - 1) * runs / (runs - 1)
    return max(0.0, float(np.var(means, ddof=1)) - noise)


def _by_tested(pairs: Sequence[Pair]) -> list[np.ndarray]:
    """For each tested dataset the sum of its items' differences over the number of all pairs."""
    names = list(dict.fromkeys(one.tested for one in pairs))
    return [
        np.sum([one.differences for one in pairs if one.tested == name], axis=0) / len(pairs)
        for name in names
    ]


def _luck(pairs: Sequence[Pair], drawn: bool) -> tuple[float, float]:
    """The standard error that runs add, and its degrees of freedom."""
    terms: list[tuple[float, int]] = []
    for name in dict.fromkeys(one.trained for one in pairs):
        own = [one for one in pairs if one.trained == name]
        for arm, further in (("first", False), ("second", drawn)):
            outcomes = [getattr(one, arm) / len(pairs) for one in own]
            runs = len(outcomes[0])
            terms.append((between_runs(outcomes) * (1 / runs + further), runs - 1))
    total = sum(variance for variance, _ in terms)
    if total <= 0:
        return 0.0, math.inf
    return math.sqrt(total), total**2 / sum(
        variance**2 / freedom for variance, freedom in terms if variance > 0
    )
