"""How sets agree within facts and across them, with intervals that resample facts (or their subjects) as a whole."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from caploc.statistics import Interval, percentile_interval, permutation_p
from caploc.streams import Stream, stream

RESAMPLES = 2000
PERMUTATIONS = 999


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


def mean_of(values: np.ndarray) -> float:
    """The mean of what is defined, nan where nothing is."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def resampled_weights(clusters: np.ndarray, seed: int, draws: int = RESAMPLES) -> np.ndarray:
    """``[draws, F]`` how often each fact is in each bootstrap sample of clusters; row after row from one stream."""
    generator = stream(Stream.FACTS, seed)
    units = int(clusters.max()) + 1
    drawn = generator.integers(0, units, (draws, units))
    counts = np.stack([np.bincount(row, minlength=units) for row in drawn])
    return counts[:, clusters].astype(float)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``[draws]`` means of ``values [F]`` where they are defined."""
    defined = np.isfinite(values).astype(float)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ np.nan_to_num(values)) / (weights @ defined))


def weighted_pair_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``[draws]`` means of ``values [F, F]`` over pairs of different facts, each pair as often as both are drawn.

    A fact is never paired with itself: where it is drawn twice, the two copies make no pair.
    """
    defined = np.isfinite(values).astype(float)
    np.fill_diagonal(defined, 0)
    filled = np.where(defined > 0, np.nan_to_num(values), 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(((weights @ filled) * weights).sum(1) / ((weights @ defined) * weights).sum(1))


def percentile(draws: np.ndarray, level: float = 0.95) -> Interval:
    """The interval of bootstrap draws; nan ends where fewer than half of them are defined."""
    defined = draws[np.isfinite(draws)]
    if len(defined) < max(2, len(draws) / 2):
        return Interval(float("nan"), float("nan"), level, "percentile")
    return percentile_interval(defined, level)


def facts_permuted_p(matrix: np.ndarray, fact: np.ndarray, seed: int, draws: int = PERMUTATIONS) -> float:
    """p of "wordings of one fact agree no more than any", by dealing the prompts out anew among the facts."""
    first, second = same_fact_pairs(fact)
    if not len(first):
        return float("nan")
    generator = stream(Stream.DEALT_PROMPTS, seed)
    orders = [np.arange(len(fact)), *(generator.permutation(len(fact)) for _ in range(draws))]
    statistics = np.array([mean_of(matrix[order[first], order[second]]) for order in orders])
    if not np.isfinite(statistics).all():
        return float("nan")
    return permutation_p(float(statistics[0]), statistics[1:])
