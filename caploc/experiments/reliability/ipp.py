"""The poster's IPP: performance with what was located minus performance with the best random choice of as much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from caploc.statistics import Interval, StatisticsError, percentile_interval
from caploc.statistics.clusters import Clusters, cluster_codes
from caploc.streams import Stream, stream

RESAMPLES = 2000


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
