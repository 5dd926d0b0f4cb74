"""Evidence that located differs from something else: outcomes per item in, the numbers that a rule reads out.

Every comparison is ordered so that a higher outcome is more of what is claimed: right answers after
enhancement, wrong ones after erasure, nats lost. The rules of `caploc.papers.kinds` that read parts
``effect:*`` are fed by `part_quantities` and `holm_parts`, ``monotone`` by `compare_doses`. Whether an effect
or its absence is claimed is the rule's business: it reads the 95 % interval and p for the one, the 90 %
interval (two one-sided tests) for the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics import (
    Interval,
    StatisticsError,
    bootstrap_mean,
    holm,
    paired_permutation,
    permutation_p,
)
from caploc.statistics.checks import finite_array
from caploc.statistics.clusters import Clusters, cluster_codes

RESAMPLES = 2000
FLIPS = 9999


@dataclass(frozen=True)
class Change:
    """A mean difference, positive where it speaks for the claim. ``interval`` has level .95, ``interval90`` .90."""

    estimate: float
    interval: Interval
    interval90: Interval

    def quantities(self, part: str) -> dict[str, float]:
        """The numbers of a `caploc.findings.Finding` under which a rule finds this part, such as ``effect:emotion``."""
        return {
            f"{part}:estimate": self.estimate,
            f"{part}:low": self.interval.low,
            f"{part}:high": self.interval.high,
            f"{part}:low90": self.interval90.low,
            f"{part}:high90": self.interval90.high,
        }


@dataclass(frozen=True)
class Effect(Change):
    """A mean difference per item that was tested.

    ``p_items`` asks whether it could be luck with the items, ``p_sets`` whether a random set would do as well (None
    where there were none). ``effect_size`` is the difference over the standard deviation of the items' differences
    (Cohen's d_z), None where all items differ equally.
    """

    p_items: float
    p_sets: float | None
    effect_size: float | None
    items: int
    draws: int

    @property
    def p(self) -> float:
        """The larger of the two p values: a claim about this set and these tasks needs both kinds of luck excluded."""
        return self.p_items if self.p_sets is None else max(self.p_items, self.p_sets)


def compare_with_random(
    located: ArrayLike,
    random: ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> Effect:
    """Outcomes ``located [items]`` against those of random sets ``random [draws >= 2, items]`` on the same
    items.

    The question is whether located does better than *another random set would*, so its null is that located is
    one of them. Sets differ in truth (between-set variance), which no number of items averages out: a test over
    items alone, of located against the mean of the random sets, finds nearly every set "significantly"
    different once items are many. Under the null located and the draws are exchangeable, on whatever items, and
    ``p_sets`` = (1 + k) / (1 + m), from the ranks of their means, is exact. ``p_items`` flips the signs of the
    items' (or, with ``clusters``, a label per item, the clusters') differences from the draws' mean. The larger
    counts (an intersection-union test): it cannot reject more often than ``p_sets`` alone does, and an effect
    that a few items make is no effect.

    The intervals are of located minus a further random set. They join two, assumed independent, in the way of
    Zou & Donner (2008): BCa of the mean difference, over items or clusters, and the t interval of a further
    set's deviation, from the between-set variance (that of the draws' means less what items explain of it).
    ``p_sets`` assumes no distribution of sets, the t interval that they are about normal. To stay below a level
    after `holm_parts`, draws must be as many as `caploc.statistics.minimum_draws` says. Raises
    `StatisticsError`.
    """
    sets = finite_array("random", random, dimensions=2, at_least=2)
    one = finite_array("located", located)
    if sets.shape[1] != one.size:
        raise StatisticsError(
            f"random has {sets.shape[1]} items a draw and located {one.size}: compare the same items"
        )
    codes = cluster_codes(one.size, clusters)
    means = sets.mean(1)
    error = math.sqrt(_between_sets(sets, codes) * (1 + 1 / len(sets)))
    p_sets = permutation_p(float(one.mean()), means)
    return _effect(one - sets.mean(0), codes, seed, resamples, flips, error, p_sets, len(sets))


def compare_pairs(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> Effect:
    """Outcomes of two fixed arms on the same ``[items]``, ``first`` minus ``second``: no sets were drawn.

    p flips the signs of differences, cluster by cluster; on right and wrong without clusters it is the exact
    McNemar test. Raises `StatisticsError`.
    """
    a, b = finite_array("first", first), finite_array("second", second)
    if a.size != b.size:
        raise StatisticsError(f"first has {a.size} items and second {b.size}: compare the same items")
    return _effect(a - b, cluster_codes(a.size, clusters), seed, resamples, flips)


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
class DoseResponse:
    """Whether outcomes rise from arm to arm: ``step`` is the mean rise, ``p_values`` those that ``monotone`` reads."""

    step: float
    interval: Interval
    p_values: Mapping[str, float]


def compare_doses(
    arms: ArrayLike,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    flips: int = FLIPS,
) -> DoseResponse:
    """Outcomes ``arms [arms >= 2, items]`` of one item under ever stronger interventions, weakest first.

    ``trend``, two-sided: each item's least-squares slope over the arms, signs flipped. It is valid under the
    null of Page's test, that an item's outcomes could stand in any order, and unlike that test it is not blunted
    by items that never change. ``reversal``: some arm does worse than the one before it, Holm-corrected over the
    neighbours. Raises `StatisticsError`.
    """
    table = finite_array("arms", arms, dimensions=2, at_least=2)
    codes = cluster_codes(table.shape[1], clusters)
    place = np.arange(len(table)) - (len(table) - 1) / 2
    slopes = place @ table / (place @ place)
    falls = [
        paired_permutation(weaker, stronger, clusters=codes, alternative="greater", draws=flips, seed=seed).p
        for weaker, stronger in itertools.pairwise(table)
    ]
    rise = paired_permutation(slopes, clusters=codes, draws=flips, seed=seed)
    return DoseResponse(
        rise.estimate,
        bootstrap_mean(slopes, 0.95, resamples, seed, clusters=codes),
        {"trend": rise.p, "reversal": float(holm(falls).min())},
    )


def part_quantities(parts: Mapping[str, Effect]) -> dict[str, float]:
    """The quantities of a finding of several parts, by names such as ``effect:emotion``."""
    return {name: value for part, effect in parts.items() for name, value in effect.quantities(part).items()}


def holm_parts(parts: Mapping[str, Effect]) -> dict[str, float]:
    """The p values of a finding's parts, Holm-corrected over them."""
    corrected = holm([effect.p for effect in parts.values()])
    return {part: float(p) for part, p in zip(parts, corrected, strict=True)}


def _effect(
    differences: np.ndarray,
    codes: np.ndarray,
    seed: int,
    resamples: int,
    flips: int,
    error: float = 0.0,
    p_sets: float | None = None,
    draws: int = 0,
) -> Effect:
    """``error``: the standard error of a further set's mean, of ``draws`` - 1 degrees of freedom."""
    test = paired_permutation(differences, clusters=codes, alternative="greater", draws=flips, seed=seed)
    spread = float(differences.std(ddof=1)) if np.ptp(differences) > 0 else 0.0
    mean = float(differences.mean())

    def joined(level: float) -> Interval:
        items = bootstrap_mean(differences, level, resamples, seed, clusters=codes)
        if error == 0:
            return items
        sets = error * float(stats.t.isf((1 - level) / 2, draws - 1))
        low, high = math.hypot(mean - items.low, sets), math.hypot(items.high - mean, sets)
        return Interval(mean - low, mean + high, level, f"{items.kind} over items, joined with t over sets")

    size = mean / spread if spread > 0 else None
    return Effect(mean, joined(0.95), joined(0.90), test.p, p_sets, size, differences.size, draws)


def _between_sets(sets: np.ndarray, codes: np.ndarray) -> float:
    """The variance of the true means of ``sets [draws, items]``: that of their means less what items explain."""
    draws, items = sets.shape
    own = sets - sets.mean(0)
    own -= own.mean(1, keepdims=True)
    units = int(codes.max()) + 1
    sums = np.stack([np.bincount(codes, row, units) for row in own])  # [draws, units]
    if units < 2:
        return float(sets.mean(1).var(ddof=1))
    # subtracting the draws' mean took 1/draws of each draw's own variance away
    noise = (sums**2).sum(1).mean() / items**2 * units / (units - 1) * draws / (draws - 1)
    return max(0.0, float(sets.mean(1).var(ddof=1) - noise))
