"""The stratified permutation test: under the null the labels could as well be dealt otherwise within each stratum."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike

from caploc.statistics.checks import StatisticsError, finite_array, one_of, truth_array, whole_number
from caploc.statistics.clusters import Clusters, cluster_codes
from caploc.statistics.permutation import ALTERNATIVES, ROUNDING, Alternative, PermutationTest

ENUMERABLE = 1 << 16
VALUES_AT_ONCE = 1 << 20


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
    exact = arrangements <= ENUMERABLE
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
