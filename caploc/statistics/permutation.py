"""Permutation tests: random draws, swapped pairs, labels dealt anew within strata, and exact tests of counts.

Under the null of each, what was observed is one of many arrangements that were equally likely; p is the share of them
that are at least as extreme.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from caploc.statistics.checks import (
    Clusters,
    StatisticsError,
    cluster_codes,
    finite_array,
    finite_number,
    fraction,
    one_of,
    truth_array,
    whole_number,
)
from caploc.statistics.intervals import Interval
from caploc.streams import Stream, stream

Alternative = Literal["greater", "less", "two-sided"]
ALTERNATIVES = ("greater", "less", "two-sided")

ROUNDING = 1e-12
"""Sums that differ by less than this share of their terms' total size are ties."""

ENUMERABLE_CLUSTERS = 18
LATTICE_STEPS = 1 << 27
BITS_AT_ONCE = 1 << 20
"""Of the paired test: up to how many clusters all flips are enumerated, how much work a convolution may be, and how
many random flips are in memory together."""

ENUMERABLE_DEALS = 1 << 16
VALUES_AT_ONCE = 1 << 20
"""Of the stratified test: up to how many arrangements all are enumerated, and how many values are dealt together."""

MOST_DEALS = 5040
RANDOM_DEALS = 1999
"""Of `dealt_labels_p`: up to how many permutations of the labels all are tried, and how many random ones of more."""


@dataclass(frozen=True)
class PermutationTest:
    """A permutation test of `units` exchangeable units.

    `p` comes from all arrangements ("exact", `draws` 0) or from so many random ones ("Monte Carlo"). `least_p` bounds
    it from below whatever the effect: where it is above the level, the test could not have rejected.
    """

    estimate: float
    p: float
    least_p: float
    method: Literal["exact", "Monte Carlo"]
    draws: int
    units: int


def permutation_p(observed: float, null: ArrayLike, alternative: Alternative = "greater") -> float:
    """(1 + k) / (1 + m), where k of the m random draws `null` [m] are at least as extreme as `observed`.

    Never zero, and valid (at or below its level as often as it says) if the observed value would be exchangeable
    with the draws were the null true (Phipson & Smyth 2010). Ties count as at least as extreme, values that agree
    to rounding being ties. Two-sided: twice the smaller of both, at most 1.

    Raises `StatisticsError` if `null` is empty or anything is not finite.
    """
    draws = finite_array("null", null)
    value = finite_number("observed", observed)
    one_of("alternative", alternative, ALTERNATIVES)
    rounding = 100 * np.finfo(np.float64).eps * abs(value)
    greater = (1 + int(np.sum(draws >= value - rounding))) / (1 + draws.size)
    less = (1 + int(np.sum(draws <= value + rounding))) / (1 + draws.size)
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


def rank_p(statistics: np.ndarray) -> float:
    """The p value of the first of ``statistics [1 + draws]`` among them all.

    Draws without a statistic, nan, are left out; nan where the first has none, or no draw has.
    """
    null = statistics[1:][np.isfinite(statistics[1:])]
    if not np.isfinite(statistics[0]) or not len(null):
        return float("nan")
    return permutation_p(float(statistics[0]), null)


def paired_permutation(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    clusters: Clusters | None = None,
    alternative: Alternative = "two-sided",
    draws: int = 9999,
    seed: int = 0,
) -> PermutationTest:
    """Sign-flip test of the mean of paired differences `first` - `second` [n], or `first` alone, n >= 1.

    Null: the differences are distributed symmetrically about 0, as they are where treatment and control could be
    swapped within a pair; with `clusters`, a label per pair, those of one cluster are swapped together and may depend
    on each other. The estimate is the mean over pairs; "greater" means above 0. Booleans count as 0 and 1.

    p is exact (Fisher 1935) up to 18 clusters of non-zero sum, by enumeration, and for any number of whole-numbered
    sums, such as differences of right and wrong, by convolution: without clusters that is the exact `mcnemar`. Else
    it is (1 + k) / (1 + m) with m = `draws` random flips (Phipson & Smyth 2010). Raises `StatisticsError`.
    """
    differences = _differences(first, second)
    one_of("alternative", alternative, ALTERNATIVES)
    whole_number("draws", draws, at_least=1)
    codes = cluster_codes(differences.size, clusters)
    sums = np.bincount(codes, differences)
    sums[np.abs(sums) <= ROUNDING * np.abs(differences).sum()] = 0.0
    sizes = np.abs(sums[sums != 0])
    # the null is symmetric: both tails, or the lower one, follow from the upper
    total = math.fsum(sums.tolist())
    score = {"greater": total, "less": -total, "two-sided": abs(total)}[alternative]
    sides = 2 if alternative == "two-sided" else 1
    whole = bool((sizes == np.rint(sizes)).all())
    estimate, units = total / differences.size, sums.size
    if sizes.size <= ENUMERABLE_CLUSTERS or (whole and sizes.size * sizes.sum() <= LATTICE_STEPS):
        upper = _lattice_tail(sizes, score) if whole else _enumerated_tail(sizes, score)
        least = sides * 0.5**sizes.size
        return PermutationTest(estimate, min(1.0, sides * upper), min(1.0, least), "exact", 0, units)
    extreme = _extreme_flips(sizes, score, alternative == "two-sided", draws, np.random.default_rng(seed))
    p, least = (1 + extreme) / (1 + draws), 1 / (1 + draws)
    return PermutationTest(estimate, p, least, "Monte Carlo", draws, units)


def _differences(first: ArrayLike, second: ArrayLike | None) -> np.ndarray:
    if second is None:
        return finite_array("differences", first)
    a, b = finite_array("first", first), finite_array("second", second)
    if a.shape != b.shape:
        raise StatisticsError(f"first has {a.size} values and second {b.size}: pairs need as many of each")
    return a - b


def _enumerated_tail(sizes: np.ndarray, score: float) -> float:
    """P(sum of randomly signed sizes >= score), from all of them."""
    totals = np.zeros(1)
    for size in sizes:
        totals = np.concatenate([totals - size, totals + size])
    return float(np.mean(totals >= score - ROUNDING * sizes.sum()))


def _lattice_tail(sizes: np.ndarray, score: float) -> float:
    """The same for whole-numbered sizes, from the distribution of the sum of those with a plus."""
    chances = np.zeros(int(sizes.sum()) + 1)
    chances[0] = 1.0
    for size in sizes.astype(int):
        chances[size:] += chances[:-size]
        chances *= 0.5
    return float(chances[math.ceil((sizes.sum() + score) / 2) :].sum())


def _extreme_flips(sizes: np.ndarray, score: float, both: bool, draws: int, rng: np.random.Generator) -> int:
    """How many of so many random flips reach the score, on either side if `both`."""
    extreme, bound = 0, score - ROUNDING * sizes.sum()
    at_once = max(1, BITS_AT_ONCE // sizes.size)
    for begin in range(0, draws, at_once):
        rows = min(at_once, draws - begin)
        plus = np.unpackbits(rng.integers(0, 256, (rows, -(-sizes.size // 8)), np.uint8), axis=1)
        totals = 2 * (plus[:, : sizes.size] @ sizes) - sizes.sum()
        extreme += int(np.sum((np.abs(totals) if both else totals) >= bound))
    return extreme


def stratified_permutation(
    values: ArrayLike,
    labels: ArrayLike,
    strata: Clusters | None = None,
    *,
    alternative: Alternative = "two-sided",
    draws: int = 9999,
    seed: int = 0,
) -> PermutationTest:
    """Two-sample permutation test of `values` [n], labelled against not, within `strata` (default: one for all).

    `labels` [n] are true or false; `strata` are a label per value, such as its dataset or seed. Null: within a
    stratum the values are exchangeable; strata may differ in any way. The estimate is the mean of the labelled minus
    the mean of the others, averaged over strata with weights n1 n0 / (n1 + n0) (Cochran, Mantel and Haenszel's, the
    label's coefficient in a least-squares fit with an effect per stratum); a stratum of one kind weighs nothing.

    p is exact where at most 65,536 arrangements exist, else (1 + k) / (1 + m) with m = `draws` random ones. Two-sided:
    twice the smaller of both, at most 1. Values of one cluster must not be split by their labels: test cluster means.
    Raises `StatisticsError`, also if no stratum holds both kinds.
    """
    sample, labelled = finite_array("values", values), truth_array("labels", labels)
    if sample.shape != labelled.shape:
        raise StatisticsError(
            f"labels has {labelled.size} values for {sample.size} values: give one per value"
        )
    one_of("alternative", alternative, ALTERNATIVES)
    whole_number("draws", draws, at_least=1)
    codes = np.zeros(sample.size, int) if strata is None else cluster_codes(sample.size, strata, "strata")
    groups, total, weight = [], 0.0, 0.0
    for code in range(codes.max() + 1):
        here, chosen = sample[codes == code], labelled[codes == code]
        count = int(chosen.sum())
        if 0 < count < here.size:
            centred = here - here.mean()
            groups.append((centred, count))
            total += centred[chosen].sum()
            weight += count * (here.size - count) / here.size
    if not groups:
        raise StatisticsError("labels: no stratum holds both kinds, so there is nothing to exchange")
    arrangements = math.prod(math.comb(group.size, count) for group, count in groups)
    exact = arrangements <= ENUMERABLE_DEALS
    totals = _all_totals(groups) if exact else _random_totals(groups, draws, np.random.default_rng(seed))
    bound = ROUNDING * sum(np.abs(group).sum() for group, _ in groups)
    # the arrangement observed is among all of them, but not among the random ones
    extra, sides = int(not exact), 2 if alternative == "two-sided" else 1
    greater = (extra + int(np.sum(totals >= total - bound))) / (extra + totals.size)
    less = (extra + int(np.sum(totals <= total + bound))) / (extra + totals.size)
    p = {"greater": greater, "less": less, "two-sided": 2 * min(greater, less)}[alternative]
    return PermutationTest(
        float(total / weight),
        min(1.0, p),
        min(1.0, sides / (extra + totals.size)),
        "exact" if exact else "Monte Carlo",
        0 if exact else draws,
        sum(group.size for group, _ in groups),
    )


def _all_totals(groups: list[tuple[np.ndarray, int]]) -> np.ndarray:
    """The sum of the labelled, centred values in every arrangement."""
    totals = np.zeros(1)
    for group, count in groups:
        chosen = np.array(list(itertools.combinations(range(group.size), count)))
        totals = np.add.outer(totals, group[chosen].sum(axis=1)).ravel()
    return totals


def _random_totals(groups: list[tuple[np.ndarray, int]], draws: int, rng: np.random.Generator) -> np.ndarray:
    """The same in so many random arrangements."""
    totals = np.zeros(draws)
    for group, count in groups:
        at_once = max(1, VALUES_AT_ONCE // group.size)
        for begin in range(0, draws, at_once):
            dealt = np.tile(group, (min(at_once, draws - begin), 1))
            rng.permuted(dealt, axis=1, out=dealt)
            totals[begin : begin + at_once] += dealt[:, :count].sum(axis=1)
    return totals


def dealt_labels_p(
    labels: Sequence[str], statistic: Callable[[Sequence[str]], float | None], seed: int = 0
) -> float:
    """p, one-sided, of dealing ``labels`` out anew: the share of all deals whose statistic is at least the observed.

    All deals that differ are tried where they can be enumerated, else ``RANDOM_DEALS`` random ones beside the observed
    one. Deals for which the statistic is None are left out.
    """
    deals = list(dict.fromkeys(itertools.islice(itertools.permutations(labels), MOST_DEALS)))
    if math.factorial(len(labels)) > MOST_DEALS:
        generator = stream(Stream.DATASET_TYPES, seed)
        deals = [tuple(labels), *(tuple(generator.permutation(labels)) for _ in range(RANDOM_DEALS))]
    found = [value for deal in deals if (value := statistic(deal)) is not None]
    return float(np.mean(np.array(found) >= found[0] - ROUNDING))


@dataclass(frozen=True)
class McNemar:
    """The difference of two paired proportions of `n` items, from the items where they disagree."""

    estimate: float
    p: float
    interval: Interval
    first_only: int
    second_only: int
    n: int


def mcnemar(
    first: ArrayLike, second: ArrayLike, *, alternative: Alternative = "two-sided", level: float = 0.95
) -> McNemar:
    """`mcnemar_from_counts` of two vectors [n] of true and false; items must be independent.

    Items in clusters, or answered under several seeds: `paired_permutation`. Raises `StatisticsError`.
    """
    a, b = truth_array("first", first), truth_array("second", second)
    if a.shape != b.shape:
        raise StatisticsError(f"first has {a.size} values and second {b.size}: pairs need as many of each")
    counts = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    return mcnemar_from_counts(*counts, a.size, alternative=alternative, level=level)


def mcnemar_from_counts(
    first_only: int,
    second_only: int,
    n: int,
    *,
    alternative: Alternative = "two-sided",
    level: float = 0.95,
) -> McNemar:
    """Exact McNemar test of `n` pairs of which so many were right in the first (b) or in the second only (c).

    p is that of b in a binomial of b + c trials at 1/2 (`scipy.stats.binomtest`; no mid-p), 1 if there are none;
    "greater" means that the first is right more often. The estimate is (b - c) / n, its interval that of Bonett &
    Price (2012): Wald's after one more item is added to each of b and c, and two to n. At 95 % it covers, enumerated
    over 441 pairs of proportions, .961 on average and .928 at least at 20 items, .953 and .937 at 100 (the score
    interval of Tango 1998: .957 and .912, .950 and .933); at 10 items .966 and .891, the latter where all disagree.
    It may exclude 0 where p is a little above the level. Raises `StatisticsError`.
    """
    whole_number("n", n, at_least=1)
    b = whole_number("first_only", first_only, at_least=0, at_most=n)
    c = whole_number("second_only", second_only, at_least=0, at_most=n - b)
    one_of("alternative", alternative, ALTERNATIVES)
    z = float(stats.norm.isf((1 - fraction("level", level)) / 2))
    p = float(stats.binomtest(b, b + c, alternative=alternative).pvalue) if b + c else 1.0
    centre = (b - c) / (n + 2)
    half_width = z * math.sqrt(((b + c + 2) / (n + 2) - centre**2) / (n + 2))
    interval = Interval(max(-1.0, centre - half_width), min(1.0, centre + half_width), level, "Bonett-Price")
    return McNemar((b - c) / n, p, interval, b, c, n)


def hypergeometric_p(overlap_count: int, size_a: int, size_b: int, total: int) -> float:
    """P(K >= overlap_count) if sets of `size_a` and `size_b` are drawn at random, apart, from `total` elements.

    Every element is equally likely: for neurons that is a weak null, as located ones crowd in few layers; test
    against layer-matched draws too. Raises `StatisticsError` for a count that no two such sets can have.
    """
    whole_number("total", total, at_least=1)
    whole_number("size_a", size_a, at_least=0, at_most=total)
    whole_number("size_b", size_b, at_least=0, at_most=total)
    whole_number(
        "overlap_count", overlap_count, at_least=max(0, size_a + size_b - total), at_most=min(size_a, size_b)
    )
    return float(stats.hypergeom.sf(overlap_count - 1, total, size_a, size_b))


def binomial_p(scores: np.ndarray, chance: float) -> float:
    """Exact p of "no better than guessing", of ``scores [runs, items]`` of 0 and 1; the largest over runs."""
    right, items = scores.sum(1).min(), scores.shape[1]
    return float(stats.binomtest(round(right), items, chance, alternative="greater").pvalue)
