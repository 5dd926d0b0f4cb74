"""Masks of many subsets at once, recombined from shard sums (eq. 8), and how halves of a study's datasets agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caploc.experiments.locating import ShardSums
from caploc.experiments.study import Study
from caploc.neurons import Threshold
from caploc.statistics import Agreement, Shards, across, defined_mean, half_split

SCORES_AT_ONCE = 1 << 24  # float64: bounds the memory that many subsets of a large model would take


def mean_scores(shards: ShardSums, chosen: Sequence[np.ndarray]) -> np.ndarray:
    """``[subsets, layers * neurons]`` mean scores over each subset of shards; repeats count as often as they stand."""
    weights = np.zeros((len(chosen), len(shards.counts)))
    for row, subset in zip(weights, chosen, strict=True):
        np.add.at(row, subset, 1.0)
    return (weights @ shards.totals) / (weights @ shards.counts)[:, None]


def masks(shards: ShardSums, chosen: Sequence[np.ndarray], threshold: Threshold) -> np.ndarray:
    """``[subsets, layers, neurons]`` bool: eq. (8) on each subset's mean scores."""
    at_once = max(1, SCORES_AT_ONCE // shards.totals.shape[1])
    parts = []
    for begin in range(0, len(chosen), at_once):
        scores = mean_scores(shards, chosen[begin : begin + at_once])
        parts.append(threshold.locate(scores.reshape(-1, shards.layers, shards.neurons)))
    return np.concatenate(parts)


def whole_mask(shards: ShardSums, threshold: Threshold) -> np.ndarray:
    """``[layers, neurons]`` bool: eq. (8) on all examples."""
    mask: np.ndarray = masks(shards, [np.arange(len(shards.counts))], threshold)[0]
    return mask


def whole_ratio(shards: ShardSums, threshold: Threshold) -> float:
    """The neuron ratio (eq. 9) on all examples: located over all neurons."""
    return float(whole_mask(shards, threshold).mean())


def to_split(shards: ShardSums, threshold: Threshold) -> Shards:
    """The shards as what splits and resamples are made of, with eq. (8) as the way to locate."""
    return Shards(len(shards.counts), lambda chosen: masks(shards, chosen, threshold))


def halves_of(study: Study, dataset: str, sigma: float, control: str = "") -> Agreement:
    """``half_split`` of a study's dataset or control, made once."""
    settings = study.settings
    return study.once(
        ("halves", dataset, sigma, control),
        lambda: half_split(
            to_split(study.shards(dataset, control), settings.threshold(sigma)), settings.draws, settings.seed
        ),
    )


def across_of(study: Study, dataset: str, other: str, sigma: float) -> Agreement:
    """``across`` of two of a study's datasets, made once."""
    settings = study.settings
    threshold = settings.threshold(sigma)
    return study.once(
        ("across", dataset, other, sigma),
        lambda: across(
            to_split(study.shards(dataset), threshold),
            to_split(study.shards(other), threshold),
            settings.draws,
            settings.seed,
        ),
    )


def mean(values: np.ndarray) -> float:
    """The mean of the defined values, nan where fewer than half are defined."""
    return defined_mean(values, least=0.5)


def floor_effect(result: Agreement, sigma: float) -> str | None:
    """The reason why an overlap says nothing: too few masks with any neuron in them."""
    draws = len(result.overlap)
    if result.defined * 2 >= draws:
        return None
    return f"floor effect: no neuron passes sigma {sigma:g} in {draws - result.defined} of {draws} splits"
