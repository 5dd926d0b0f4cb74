"""Differences between two arms, of training or of erasing: paired over items, averaged over seeds and draws, pooled
over datasets.

A run is one training, of one seed and one set of neurons. Its sampling error is not averaged out by items, so the
intervals join two kinds of it, in the way of Zou & Donner (2008), as `compare_with_random` does: that of items (BCa of
the mean difference, dataset by dataset) and that of runs (Student's t with the between-run variance, that of the runs'
means less what items explain of it; Welch's degrees of freedom).

Where the second arm was *drawn*, as random neurons are, the interval is of the first arm minus a new draw: located
must do better than another random set would. Five draws give a rank p of 1/6 at best, so p asks about items, as the
claims' entries say (sign flips of an item's differences, all its seeds together), and the sampling error of sets is in
the interval alone: an interval above 0 rejects "located is a new draw" at level .025, if draws are about normal.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from caploc.statistics.comparisons import FLIPS, Effect, between_variance
from caploc.statistics.intervals import (
    RESAMPLES,
    Interval,
    adjusted_interval,
    at_least,
    bootstrap_mean,
    drawn_weights,
)
from caploc.statistics.permutation import paired_permutation, permutation_p, stratified_permutation
from caploc.streams import Stream, stream


@dataclass(frozen=True, eq=False)
class Pair:
    """Outcomes of two arms trained on one dataset and tested on one: ``first [runs, items]``, ``second [runs, items]``.

    What was not trained, such as the base, has one run. ``scores``: whether outcomes differ by 1 at most, as scores do
    and nats do not.
    """

    trained: str
    tested: str
    first: np.ndarray
    second: np.ndarray
    scores: bool = True

    @property
    def differences(self) -> np.ndarray:
        """``[items]`` means over runs, first minus second."""
        return np.asarray(self.first.mean(0) - self.second.mean(0))


def effect_of(
    pairs: Sequence[Pair],
    *,
    drawn: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
    level: float = 0.95,
) -> Effect:
    """The mean over ``pairs`` (at least one) of their differences; ``level``: of the wider interval.

    Items of one tested dataset are the same in all its pairs and are resampled and flipped together; runs of one
    trained dataset likewise. Intervals are at least `adjusted_interval`'s of each tested dataset, joined, so that items
    that all end alike make no point of them; not where outcomes are no scores, since nats have no limits. ``p_sets`` of
    the result is None: see `rank_among_draws`.
    """
    tested = _by_tested(pairs)
    shares = [len(some) / len(pairs) for some in _of_tested(pairs)]
    error, freedom = _error_of_runs(pairs, drawn)
    mean = sum(float(values.mean()) for values in tested)

    def joined(level: float) -> Interval:
        items = [bootstrap_mean(values, level, resamples, seed) for values in tested]
        centres = [float(values.mean()) for values in tested]
        runs = error * float(stats.t.isf((1 - level) / 2, freedom)) if error > 0 else 0.0
        below = [centre - one.low for centre, one in zip(centres, items, strict=True)]
        above = [one.high - centre for centre, one in zip(centres, items, strict=True)]
        kind = f"{items[0].kind} over items" + (", joined with t over runs" if error > 0 else "")
        found = Interval(mean - math.hypot(runs, *below), mean + math.hypot(runs, *above), level, kind)
        bounded = all(pair.scores for pair in pairs)
        return at_least(found, _adjusted(tested, shares, level)) if bounded else found

    pooled = np.concatenate([values / len(values) for values in tested])
    pooled *= len(pooled)  # whose mean is the estimate
    spread = float(pooled.std(ddof=1)) if np.ptp(pooled) > 0 else 0.0
    test = paired_permutation(pooled, alternative="greater", draws=flips, seed=seed)
    size = mean / spread if spread > 0 else None
    draws = sum(len(one.second) for one in pairs) if drawn else 0
    return Effect(mean, joined(level), joined(0.90), test.p, None, size, len(pooled), draws)


def rank_among_draws(pairs: Sequence[Pair]) -> float:
    """(1 + k) / (1 + m): the rank of the first arm among m draws of the second, all pairs' draws by their number."""
    fewest = min(len(one.second) for one in pairs)
    drawn = np.mean([one.second[:fewest].mean(1) for one in pairs], axis=0)
    return permutation_p(float(np.mean([one.first.mean() for one in pairs])), drawn)


def sets_p(pairs: Sequence[Pair], seed: int, flips: int = FLIPS) -> float:
    """p of the null that in each row (trained or located on one dataset) located is a new random set."""
    values: list[float] = []
    located: list[bool] = []
    strata: list[str] = []
    for row in dict.fromkeys(pair.trained for pair in pairs):
        own = [pair for pair in pairs if pair.trained == row]
        fewest = min(len(pair.second) for pair in own)
        draws = np.mean([pair.second[:fewest].mean(1) for pair in own], axis=0)
        values += [float(np.mean([pair.first.mean() for pair in own])), *draws.tolist()]
        located += [True] + [False] * fewest
        strata += [row] * (1 + fewest)
    return stratified_permutation(values, located, strata, alternative="greater", draws=flips, seed=seed).p


def resampled_changes(
    cells: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], resamples: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """``[resamples]`` mean changes of every cell of a matrix on bootstrap samples of items and, where there are
    several, runs.

    ``cells``: (intervened on, tested on) -> outcomes ``[items]`` before and ``[runs, items]`` after. Items of one
    tested dataset are drawn together in all cells, in other matrices too if they have as many; runs together in all
    cells of a row, one fewer than there are.
    """
    often = {
        row: drawn_weights(
            stream(Stream.RUNS, seed, zlib.crc32(row.encode())), len(after), resamples, fewer=1
        )
        for (row, _), (_, after) in cells.items()
    }
    weights = {
        column: drawn_weights(stream(Stream.ITEMS, seed, zlib.crc32(column.encode())), len(before), resamples)
        for (_, column), (before, _) in cells.items()
    }
    return {
        (row, column): (often[row] * (weights[column] @ (after - before).T)).sum(1)
        for (row, column), (before, after) in cells.items()
    }


def _of_tested(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs of each tested dataset."""
    return [
        [one for one in pairs if one.tested == name] for name in dict.fromkeys(one.tested for one in pairs)
    ]


def _by_tested(pairs: Sequence[Pair]) -> list[np.ndarray]:
    """For each tested dataset the sum of its items' differences over the number of all pairs."""
    return [np.sum([one.differences for one in some], axis=0) / len(pairs) for some in _of_tested(pairs)]


def _adjusted(tested: Sequence[np.ndarray], shares: Sequence[float], level: float) -> Interval:
    """`adjusted_interval` of the sum over tested datasets, each of which counts for its share."""
    found = [
        adjusted_interval(values, (-share, share), level)
        for values, share in zip(tested, shares, strict=True)
    ]
    centre = sum((one.low + one.high) / 2 for one in found)
    reach = math.hypot(*((one.high - one.low) / 2 for one in found))
    return Interval(centre - reach, centre + reach, level, found[0].kind)


def _error_of_runs(pairs: Sequence[Pair], drawn: bool) -> tuple[float, float]:
    """The standard error that runs add, and its degrees of freedom, by Welch's second approximation (1947, Biometrika
    34), which allows for the variances' own error: with few runs an arm the first has too few. Never more than all
    variances have together."""
    terms: list[tuple[float, int]] = []
    for name in dict.fromkeys(one.trained for one in pairs):
        own = [one for one in pairs if one.trained == name]
        for arm, new in (("first", False), ("second", drawn)):
            outcomes = [getattr(one, arm) / len(pairs) for one in own]
            runs = len(outcomes[0])
            terms.append((between_variance(outcomes) * (1 / runs + new), runs - 1))
    total = sum(variance for variance, _ in terms)
    if total <= 0:
        return 0.0, math.inf
    found = [(variance, freedom) for variance, freedom in terms if variance > 0]
    freedom = total**2 / sum(variance**2 / (own + 2) for variance, own in found) - 2
    return math.sqrt(total), min(freedom, sum(own for _, own in found))
