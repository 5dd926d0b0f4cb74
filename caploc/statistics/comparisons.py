"""Evidence that one thing differs from another: outcomes per item in, effects out.

Every comparison is ordered so that a higher outcome is more of what is claimed: right answers after enhancement, wrong
ones after erasure, nats lost. `caploc.experiments.evidence` turns effects into the parts of a measurement, their p
values corrected by `holm_parts`; the rule ``monotone`` reads the p values of `compare_doses`. Whether an effect or its
absence is claimed is the rule's business: it reads the 95 % interval and p for the one, the 90 % interval (two
one-sided tests) for the other.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import Clusters, StatisticsError, cluster_codes, finite_array
from caploc.statistics.intervals import (
    RESAMPLES,
    Interval,
    adjusted_interval,
    at_least,
    bootstrap_mean,
    defined_interval,
    multinomial_weights,
    percentile_interval,
)
from caploc.statistics.multiplicity import holm
from caploc.statistics.permutation import mcnemar, paired_permutation, permutation_p
from caploc.streams import Stream, stream

FLIPS = 9999


@dataclass(frozen=True)
class Change:
    """A mean difference, positive where it speaks for the claim. ``interval`` has level .95, ``interval90`` .90."""

    estimate: float
    interval: Interval
    interval90: Interval


AnyChange = TypeVar("AnyChange", bound=Change)


@dataclass(frozen=True)
class Effect(Change):
    """A mean difference per item that was tested.

    ``p_items`` asks whether sampling error of the items could explain it, ``p_sets`` whether a random set would do as
    well (None where there were none). ``effect_size`` is the difference over the standard deviation of the items'
    differences (Cohen's d_z), None where all items differ equally.
    """

    p_items: float
    p_sets: float | None
    effect_size: float | None
    items: int
    draws: int

    @property
    def p(self) -> float:
        """The larger of the two p values: a claim about this set and these tasks must exclude both explanations."""
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

    The intervals are of located minus a new random set. They join two, assumed independent, in the way of
    Zou & Donner (2008): BCa of the mean difference, over items or clusters, and the t interval of a new
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
    error = math.sqrt(between_variance([sets], codes) * (1 + 1 / len(sets)))
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


def compare_successes(
    first: np.ndarray, second: np.ndarray, clusters: np.ndarray, seed: int, level: float | None = None
) -> Effect:
    """`compare_pairs` of outcomes 0 and 1, whose intervals are at least McNemar's (Bonett & Price 2012).

    Where hardly an item ends differently, a bootstrap has next to no width, however few items there are: two dozen that
    all agree would pass for equivalence within any margin. ``level``: of ``interval``, if not 95 %.
    """
    effect = compare_pairs(first, second, clusters=clusters, seed=seed)
    own = effect.interval
    if level is not None:
        own = bootstrap_mean(first - second, level, seed=seed, clusters=clusters)
    return replace(
        effect,
        interval=at_least_mcnemar(own, first, second),
        interval90=at_least_mcnemar(effect.interval90, first, second),
    )


def at_least_mcnemar(interval: Interval, first: np.ndarray, second: np.ndarray) -> Interval:
    """``interval`` of a mean difference, widened where the paired proportions' own one reaches further."""
    own = mcnemar(first > 0, second > 0, level=interval.level).interval
    over_facts = replace(interval, kind=f"{interval.kind} over facts")
    return at_least(over_facts, replace(own, kind="Bonett-Price"))


def change_of_random(
    base: np.ndarray,
    random: np.ndarray,
    clusters: Sequence[str],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Change:
    """Mean over sets of ``random [sets, items]`` minus ``base [items]``.

    The estimand is the mean over all random sets and items, so intervals come from a two-way bootstrap: sets and
    items (whole clusters) are drawn, each with replacement, and crossed (McCullagh 2000, "pigeonhole"; conservative).
    They are at least those of `at_least_adjusted`, for which an item that was not met may change under every second
    set.
    """
    differences = random - base
    codes = cluster_codes(base.size, list(clusters))
    generator = stream(Stream.TWO_WAY, seed)
    sets = multinomial_weights(generator, len(random), resamples)
    units = multinomial_weights(generator, int(codes.max()) + 1, resamples)[:, codes]
    items = units / units.sum(1, keepdims=True)
    drawn = np.einsum("rs,si,ri->r", sets, differences, items, optimize=True)
    found = Change(
        float(differences.mean()), percentile_interval(drawn, 0.95), percentile_interval(drawn, 0.90)
    )
    by_item = differences.mean(0)
    most = max(0.5, float(np.abs(by_item).max()))
    return at_least_adjusted(found, by_item, clusters=codes, limits=(-most, most))


def average_change(changes: Sequence[Change]) -> Change:
    """The mean of independent changes, such as those of several datasets, with their intervals joined in the way of
    Zou & Donner (2008)."""
    mean = float(np.mean([one.estimate for one in changes]))

    def joined(intervals: Sequence[Interval]) -> Interval:
        below = [change.estimate - one.low for change, one in zip(changes, intervals, strict=True)]
        above = [one.high - change.estimate for change, one in zip(changes, intervals, strict=True)]
        reach = math.hypot(*below) / len(changes), math.hypot(*above) / len(changes)
        return Interval(mean - reach[0], mean + reach[1], intervals[0].level, f"{intervals[0].kind}, joined")

    return Change(
        mean, joined([one.interval for one in changes]), joined([one.interval90 for one in changes])
    )


def difference_of(first: Change, second: Change) -> Change:
    """``first`` minus ``second``, of different items, their intervals joined as in `average_change`."""

    def joined(one: Interval, other: Interval) -> Interval:
        below = math.hypot(first.estimate - one.low, other.high - second.estimate)
        above = math.hypot(one.high - first.estimate, second.estimate - other.low)
        return Interval(mean - below, mean + above, one.level, f"{one.kind}, joined")

    mean = first.estimate - second.estimate
    return Change(mean, joined(first.interval, second.interval), joined(first.interval90, second.interval90))


def at_least_adjusted(
    change: AnyChange,
    differences: ArrayLike,
    *,
    clusters: Clusters | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> AnyChange:
    """``change`` of a bounded score, the mean of ``differences [items]``, with intervals that are `adjusted_interval`'s
    at least: items that all end alike show no equivalence by themselves, and less change never shows less of it."""
    return replace(
        change,
        interval=at_least(change.interval, adjusted_interval(differences, limits, 0.95, clusters)),
        interval90=at_least(change.interval90, adjusted_interval(differences, limits, 0.90, clusters)),
    )


def effect_of_draws(estimate: float, draws: np.ndarray, p: float, items: int) -> Effect:
    """An effect whose intervals are the percentiles of ``draws`` of its estimate, such as bootstrap replicates."""
    return Effect(estimate, defined_interval(draws), defined_interval(draws, 0.90), p, None, None, items, 0)


def effect_of_centred_draws(difference: np.ndarray, resampled: np.ndarray, items: int) -> Effect:
    """The mean ``difference [draws]`` over splits of one sample, with interval and p from ``resampled [resamples]``:
    the same difference on one split each of the sample weighed anew (Bayesian bootstrap, Rubin 1981).

    Only the resamples' deviations from their mean are used, and of them those within the range of a difference of
    overlaps. p is one-sided and of the interval's distribution: the share of it at or below 0. Undefined values, nan,
    are left out.
    """
    difference, other = (values[np.isfinite(values)] for values in (difference, resampled))
    estimate = float(difference.mean())
    spread = np.clip(estimate + other - other.mean(), -1, 1)

    def interval(level: float) -> Interval:
        low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high), level, "Bayesian bootstrap over samples, centred")

    p = permutation_p(0.0, spread, "less")
    return Effect(estimate, interval(0.95), interval(0.90), p, None, None, items, len(difference))


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


def holm_parts(parts: Mapping[str, Effect]) -> dict[str, float]:
    """The p values of several effects of one measurement, Holm-corrected over them."""
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
    """``error``: the standard error of a new random set's mean, of ``draws`` - 1 degrees of freedom."""
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


def between_variance(outcomes: Sequence[np.ndarray], codes: np.ndarray | None = None) -> float:
    """The variance of the true means of what was drawn, random sets or runs of training; 0 where they do not differ.

    ``outcomes``: for each dataset ``[draws, items]`` of the same draws, whose mean is the sum over datasets of its
    items' means. That the draws were tried on these items adds to the variance of their means what items explain, which
    is taken away: items are independent, or with ``codes [items]``, numbers of clusters, clusters are.
    """
    draws = len(outcomes[0])
    if draws < 2:
        return 0.0
    means = sum(one.mean(1) for one in outcomes)
    noise = 0.0
    for one in outcomes:
        own = one - one.mean(0)
        own -= own.mean(1, keepdims=True)
        items = own.shape[1]
        if codes is None:
            of_a_mean = (own**2).sum(1).mean() / items / max(1, items - 1)
        else:
            units = int(codes.max()) + 1
            sums = np.stack([np.bincount(codes, row, units) for row in own])  # [draws, units]
            # a lone unit cannot tell its noise from the draws' own differences
            of_a_mean = (sums**2).sum(1).mean() / items**2 * units / (units - 1) if units > 1 else 0.0
        # subtracting the draws' mean took 1/draws of each draw's own variance away
        noise += of_a_mean * draws / (draws - 1)
    return max(0.0, float(np.var(means, ddof=1)) - noise)
