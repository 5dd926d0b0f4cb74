"""Against the best of several: rivals that are known, arms of training, or random choices.

The best of several is chosen by what it scored, so that its score is too high: each comparison here chooses anew in
every resample, or on other items than it is scored on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from caploc.statistics.checks import Clusters, StatisticsError, cluster_codes
from caploc.statistics.comparisons import FLIPS, Change, Effect
from caploc.statistics.intervals import RESAMPLES, Interval, percentile_interval
from caploc.statistics.permutation import permutation_p
from caploc.streams import Stream, stream

AT_ONCE = 500


def against_the_best(rivals: Sequence[Effect]) -> Effect:
    """The effect over the best of several rivals, from those over each of them (at least one).

    Located is ahead of the best if it is ahead of all: estimate, bounds and d_z are the smallest, p the
    largest.
    """
    if not rivals:
        raise StatisticsError("rivals is empty: the best of none is nothing")

    def least(intervals: Sequence[Interval]) -> Interval:
        low, high = min(one.low for one in intervals), min(one.high for one in intervals)
        return Interval(low, high, intervals[0].level, "over the best rival")

    sets = [one.p_sets for one in rivals if one.p_sets is not None]
    sizes = [one.effect_size for one in rivals if one.effect_size is not None]
    return Effect(
        min(one.estimate for one in rivals),
        least([one.interval for one in rivals]),
        least([one.interval90 for one in rivals]),
        max(one.p_items for one in rivals),
        max(sets) if sets else None,
        min(sizes) if len(sizes) == len(rivals) else None,
        rivals[0].items,
        max(one.draws for one in rivals),
    )


@dataclass(frozen=True)
class Best:
    """By how much the first arm is ahead of the best other one: in each column and on average over the columns, with
    intervals, and p over all."""

    estimates: Sequence[float]
    intervals: Sequence[Interval]
    intervals90: Sequence[Interval]
    p: float
    mean: Change


def best_of(
    arms: Mapping[str, Sequence[np.ndarray]], seed: int = 0, resamples: int = RESAMPLES, flips: int = FLIPS
) -> Best:
    """The first arm against the better of the others, in every column.

    ``arms``: name -> for each dataset outcomes ``[runs, columns, items]``; a column's score is the mean over datasets
    of the mean over runs and items. Intervals: percentiles of the bootstrap over items, within datasets and the same
    for all arms, and over each arm's runs (one fewer is drawn than there are, which makes the variance of their mean
    right; Rao & Wu 1988); the better rival is chosen anew in every resample. p: the arms of an item are exchanged,
    whole rows of columns, and the statistic is the lead averaged over the columns, since columns are the same runs at
    different times, so that their number says little.
    """
    means = [np.stack(column) for column in zip(*(_means(arm) for arm in arms.values()), strict=True)]
    observed = _lead(sum(one.mean(-1) for one in means)[None] / len(means))[0]
    generator = stream(Stream.BEST_RIVAL, seed)
    drawn = np.concatenate(
        [
            _lead(_resampled(list(arms.values()), generator, min(AT_ONCE, resamples - begin)))
            for begin in range(0, resamples, AT_ONCE)
        ]
    )
    null = np.concatenate(
        [
            _lead(_exchanged(means, generator, min(AT_ONCE, flips - begin))).mean(-1)
            for begin in range(0, flips, AT_ONCE)
        ]
    )
    mean = drawn.mean(1)
    return Best(
        observed.tolist(),
        [percentile_interval(column, 0.95) for column in drawn.T],
        [percentile_interval(column, 0.90) for column in drawn.T],
        permutation_p(float(observed.mean()), null),
        Change(float(observed.mean()), percentile_interval(mean, 0.95), percentile_interval(mean, 0.90)),
    )


def largest_mean_p(values: np.ndarray, clusters: Clusters, seed: int = 0, flips: int = FLIPS) -> float:
    """One-sided p that the largest column mean of ``values [units, columns]`` is above 0 by accident.

    The signs of whole clusters are flipped and the largest column is sought anew, so that no correction for the choice
    is needed. Valid where nothing is there and a cluster's row is as likely with the other sign.
    """
    codes = cluster_codes(len(values), clusters)
    rows = np.zeros((int(codes.max()) + 1, values.shape[1]))
    np.add.at(rows, codes, values)
    signs = stream(Stream.LARGEST_MEAN, seed).choice([-1.0, 1.0], (flips, len(rows)))
    return permutation_p(float(rows.sum(0).max()), (signs @ rows).max(1))


def _means(arm: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each dataset ``[columns, items]``, averaged over runs."""
    return [outcomes.mean(0) for outcomes in arm]


def _lead(scores: np.ndarray) -> np.ndarray:
    """``[draws, columns]`` the first arm's lead, from ``scores [draws, arms, columns]``."""
    return np.asarray(scores[:, 0] - scores[:, 1:].max(1))


def _resampled(
    arms: Sequence[Sequence[np.ndarray]], generator: np.random.Generator, draws: int
) -> np.ndarray:
    """``[draws, arms, columns]`` scores of bootstrap samples of items and runs."""
    datasets = len(arms[0])
    total = np.zeros((draws, len(arms), arms[0][0].shape[1]))
    for dataset in range(datasets):
        items = arms[0][dataset].shape[-1]
        weights = generator.multinomial(items, np.full(items, 1 / items), draws) / items
        for index, arm in enumerate(arms):
            outcomes = arm[dataset]
            runs = len(outcomes)
            taken = max(1, runs - 1)
            often = generator.multinomial(taken, np.full(runs, 1 / runs), draws) / taken
            total[:, index] += np.einsum("dr,rci,di->dc", often, outcomes, weights, optimize=True)
    return total / datasets


def _exchanged(means: Sequence[np.ndarray], generator: np.random.Generator, draws: int) -> np.ndarray:
    """``[draws, arms, columns]`` scores with the arms of every item permuted; ``means``: ``[arms, columns, items]``."""
    total = np.zeros((draws, *means[0].shape[:2]))
    for one in means:
        arms, _, items = one.shape
        order = generator.permuted(
            np.broadcast_to(np.arange(arms), (draws, items, arms)), axis=-1
        )  # (draws, items, arms)
        for arm in range(arms):
            chosen = order == arm  # which place of each item gets this arm
            total += np.einsum("dip,ci->dpc", chosen, one[arm], optimize=True) / items
    return total / len(means)


@dataclass(frozen=True)
class Ipp:
    """``estimate``: the best random choice is found on one half of the items and scored on the other, both ways, over
    many halvings. ``same_items``: found and scored on all items, which is biased downward, the more so the more choices
    there are. ``mean_choice``: against their mean, without any choosing."""

    estimate: float
    interval: Interval
    same_items: float
    mean_choice: float


def ipp(
    located: ArrayLike,
    random: ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Ipp:
    """IPP of outcomes ``located [items]`` over random choices ``random [choices, items]`` on the same items.

    The interval is of level .95, by bootstrap: every resample halves the items (or, with ``clusters``, the clusters)
    anew, draws with replacement inside each half, and chooses anew. Random in the place of located gives 0 on average.

    Raises:
        StatisticsError: fewer than four clusters, or shapes that do not go together.
    """
    one, sets = np.asarray(located, float), np.asarray(random, float)
    if sets.ndim != 2 or sets.shape[1:] != one.shape:
        raise StatisticsError(
            f"random has shape {sets.shape} and located {one.shape}: give [choices, items] and [items]"
        )
    codes = cluster_codes(one.size, clusters)
    units = int(codes.max(initial=-1)) + 1
    if units < 4:
        raise StatisticsError(
            f"located has {units} independent item(s): choosing and scoring apart needs at least 4"
        )
    sums = np.stack([np.bincount(codes, row, units) for row in (one, *sets)])  # [1 + choices, units]
    sizes = np.bincount(codes).astype(float)
    generator = stream(Stream.CHOICES, seed)
    halved, resampled = np.empty(resamples), np.empty(resamples)
    for draw in range(resamples):
        order = generator.permutation(units)
        halves = order[: units // 2], order[units // 2 :]
        drawn = tuple(half[generator.integers(0, len(half), len(half))] for half in halves)
        halved[draw], resampled[draw] = _both_ways(sums, sizes, *halves), _both_ways(sums, sizes, *drawn)
    interval = percentile_interval(resampled)
    return Ipp(
        float(halved.mean()),
        interval,
        float(one.mean() - sets.mean(1).max()),
        float(one.mean() - sets.mean()),
    )


def _both_ways(sums: np.ndarray, sizes: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Chosen on one and scored on the other, mean over both ways."""
    means = [sums[:, half].sum(1) / sizes[half].sum() for half in (first, second)]
    gains = [scored[0] - scored[1 + chosen[1:].argmax()] for chosen, scored in (means, means[::-1])]
    return float(np.mean(gains))
