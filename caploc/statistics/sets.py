"""How sets agree: eq. (9) of many pairs of masks at once, what random sets would share, and whether sets of one fact or
one task agree more than others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from caploc.statistics.intervals import defined_mean
from caploc.statistics.permutation import permutation_p
from caploc.streams import Stream, stream

PERMUTATIONS = 999
LAYER_MATCHED_DRAWS = 9999
# drawn as counts, which costs nothing: enough for p to reach any level after correction
RANDOM_SETS = 9999
RANDOM_DRAWS = 199


@dataclass(frozen=True)
class Agreement:
    """How pairs of masks agree over draws: ``overlap`` and ``iou`` ``[draws]``, nan where a mask is empty;
    ``chance [draws]``, the overlap expected of masks with the same counts in each layer, placed at random."""

    overlap: np.ndarray
    iou: np.ndarray
    chance: np.ndarray

    @property
    def defined(self) -> int:
        """Draws in which neither mask is empty."""
        return int(np.isfinite(self.overlap).sum())

    def of(self, draws: slice) -> Agreement:
        """Of some of the draws."""
        return Agreement(self.overlap[draws], self.iou[draws], self.chance[draws])


def agreement(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Eq. (9) between masks ``a[i]`` and ``b[i]``, both ``[draws, layers, neurons]``."""
    both = (a & b).sum((1, 2))
    per_layer_a, per_layer_b = a.sum(2), b.sum(2)
    count_a, count_b = per_layer_a.sum(1), per_layer_b.sum(1)
    by_chance = (per_layer_a * per_layer_b / a.shape[2]).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (1 / count_a + 1 / count_b) / 2
        overlap, chance = both * share, by_chance * share
        iou = both / (count_a + count_b - both)
    undefined = (count_a == 0) | (count_b == 0)
    overlap[undefined] = chance[undefined] = iou[undefined] = np.nan
    return Agreement(overlap, iou, chance)


def matched_overlaps(
    per_layer: np.ndarray, neurons: int, seed: int, quantity: Literal["overlap", "iou"]
) -> np.ndarray:
    """``[RANDOM_SETS]`` ``quantity`` of pairs of random sets, each with ``per_layer [layers]`` of ``neurons`` in every
    layer; nan where that is none.

    Two uniformly random sets of a neurons among N share a hypergeometric number, so the sets need not be drawn.
    """
    generator = stream(Stream.MATCHED_OVERLAP, seed)
    shared = generator.hypergeometric(
        per_layer, neurons - per_layer, per_layer, size=(RANDOM_SETS, len(per_layer))
    ).sum(1)
    count = per_layer.sum()
    if count == 0:
        return np.full(RANDOM_SETS, np.nan)
    return np.asarray(shared / (2 * count - shared) if quantity == "iou" else shared / count)


def layer_matched_p(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """p of what masks ``a`` and ``b [layers, neurons]`` share, against random sets with the same counts in every
    layer."""
    counts_a, counts_b, neurons = a.sum(1), b.sum(1), a.shape[1]
    generator = stream(Stream.LAYER_MATCHED, seed)
    null = generator.hypergeometric(
        counts_b, neurons - counts_b, counts_a, size=(LAYER_MATCHED_DRAWS, len(a))
    )
    return permutation_p(float((a & b).sum()), null.sum(1))


@dataclass(frozen=True, eq=False)
class Within:
    """Agreement of the wordings of each fact: ``values [F]`` the mean over its defined pairs, nan if it has none;
    ``pairs`` and ``undefined`` count all pairs and those in which both sets are empty."""

    values: np.ndarray
    pairs: int
    undefined: int

    @property
    def defined(self) -> np.ndarray:
        """``[F]`` bool."""
        return np.isfinite(self.values)


def within_facts(matrix: np.ndarray, fact: np.ndarray, facts: int) -> Within:
    """Means over the pairs of one fact's prompts, of ``matrix [P, P]``; ``fact [P]`` numbers below ``facts``."""
    first, second = same_fact_pairs(fact)
    values, owner = matrix[first, second], fact[first]
    defined = np.isfinite(values)
    count = np.bincount(owner[defined], minlength=facts)
    total = np.bincount(owner[defined], values[defined], minlength=facts)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return Within(means, len(values), int((~defined).sum()))


def across_facts(matrix: np.ndarray, fact: np.ndarray, facts: int) -> np.ndarray:
    """``[F, F]`` means over all pairs of prompts of two facts, nan where none is defined, and on the diagonal."""
    belongs = (np.arange(facts)[:, None] == fact).astype(float)
    total = belongs @ np.nan_to_num(matrix) @ belongs.T
    count = belongs @ np.isfinite(matrix).astype(float) @ belongs.T
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    np.fill_diagonal(means, np.nan)
    return means


def same_fact_pairs(fact: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices i < j of all pairs of prompts of one fact; ``fact [P]`` is in order."""
    starts = np.flatnonzero(np.r_[True, fact[1:] != fact[:-1], True])
    blocks = [
        np.stack(np.triu_indices(int(stop - start), 1)) + start for start, stop in itertools.pairwise(starts)
    ]
    pairs = np.concatenate(blocks, axis=1) if blocks else np.zeros((2, 0), int)
    return pairs[0], pairs[1]


def facts_permuted_p(matrix: np.ndarray, fact: np.ndarray, seed: int, draws: int = PERMUTATIONS) -> float:
    """p of "wordings of one fact agree no more than any", by dealing the prompts out anew among the facts."""
    first, second = same_fact_pairs(fact)
    if not len(first):
        return float("nan")
    generator = stream(Stream.DEALT_PROMPTS, seed)
    orders = [np.arange(len(fact)), *(generator.permutation(len(fact)) for _ in range(draws))]
    statistics = np.array([defined_mean(matrix[order[first], order[second]]) for order in orders])
    if not np.isfinite(statistics).all():
        return float("nan")
    return permutation_p(float(statistics[0]), statistics[1:])


def off_diagonal_mean(matrix: np.ndarray) -> float:
    """The mean over pairs of different prompts, of what is defined."""
    return defined_mean(matrix[~np.eye(len(matrix), dtype=bool)])


def swapped_tasks_p(
    first: np.ndarray, across: np.ndarray, second: np.ndarray, seed: int
) -> tuple[float, float]:
    """p of each task's agreement minus that of two tasks, over different pairs of prompts, by swapping the tasks within
    random pairs.

    Null: the two prompts of a pair could as well belong to each other's task. ``first`` and ``second [P, P]``:
    agreement of every two prompts of one task; ``across [P, P]``: of the first task's prompts with the second's.
    """
    count = len(first)
    whole = np.block([[first, across], [across.T, second]])
    same_sum = np.tile(np.eye(count, dtype=bool), (2, 2))
    defined = np.where(same_sum, 0.0, np.isfinite(whole).astype(float))
    filled = np.where(defined > 0, np.nan_to_num(whole), 0.0)
    swap = stream(Stream.SWAPPED_TASKS, seed).random((1 + PERMUTATIONS, count)) < 0.5
    swap[0] = False
    # which prompts are called the first task's
    labelled = np.concatenate([~swap, swap], axis=1).astype(float)

    def mean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.asarray(((one @ filled) * other).sum(1) / ((one @ defined) * other).sum(1))

    apart = mean(labelled, 1 - labelled)
    gains = [mean(one, one) - apart for one in (labelled, 1 - labelled)]
    first_p, second_p = (permutation_p(float(gain[0]), gain[1:]) for gain in gains)
    return first_p, second_p


def random_sets_p(
    observed: float,
    counts: np.ndarray,
    strata: np.ndarray,
    statistic: Callable[[Sequence[np.ndarray]], float],
    seed: int,
) -> float:
    """p of ``observed`` against ``statistic`` of random sets of places, with ``counts [P, strata]`` of each set's
    places in every stratum; ``strata [places]``: the stratum of each place."""
    generator = stream(Stream.TASK_SETS, seed)
    places = [np.flatnonzero(strata == stratum) for stratum in range(int(strata.max()) + 1)]
    rows, nothing = counts.astype(int), np.zeros(0, np.int64)

    def drawn(row: np.ndarray) -> np.ndarray:
        chosen = [
            among[generator.choice(len(among), count, replace=False, shuffle=False)]
            for among, count in zip(places, row, strict=True)
            if count  # drawing none takes nothing from the stream, and as long as drawing one
        ]
        return np.concatenate([nothing, *chosen])

    return permutation_p(observed, [statistic([drawn(row) for row in rows]) for _ in range(RANDOM_DRAWS)])
