"""The paired permutation test: under the null each pair, or cluster of pairs, could as well be the other way round."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from caploc.statistics.checks import StatisticsError, finite_array, one_of, whole_number
from caploc.statistics.clusters import Clusters, cluster_codes
from caploc.statistics.permutation import ALTERNATIVES, ROUNDING, Alternative, PermutationTest

ENUMERABLE = 18
LATTICE_STEPS = 1 << 27
BITS_AT_ONCE = 1 << 20


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
    if sizes.size <= ENUMERABLE or (whole and sizes.size * sizes.sum() <= LATTICE_STEPS):
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
