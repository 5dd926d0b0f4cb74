"""Masks of many subsets at once, recombined from shard sums, and how they agree (eq. 8 and 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caploc.experiments.shards import ShardSums, random_halves
from caploc.experiments.study import Study
from caploc.neurons import Threshold
from caploc.statistics import Interval, percentile_interval
from caploc.streams import Stream, stream

SCORES_AT_ONCE = 1 << 24  # float64: bounds the memory that many subsets of a large model would take


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


def draw_halves(shards: ShardSums, draws: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``draws`` random splits of the shards into two disjoint halves."""
    generator = stream(Stream.HALVES, seed)
    split = [tuple(random_halves(generator, len(shards.counts))) for _ in range(draws)]
    return [first for first, _ in split], [second for _, second in split]


def half_split(shards: ShardSums, threshold: Threshold, draws: int, seed: int) -> Agreement:
    """The paper's measurement, over many random splits instead of one."""
    first, second = draw_halves(shards, draws, seed)
    return agreement(masks(shards, first, threshold), masks(shards, second, threshold))


def across(a: ShardSums, b: ShardSums, threshold: Threshold, draws: int, seed: int) -> Agreement:
    """A random half of ``a`` against a random half of ``b``: what ``half_split`` must be compared with."""
    return agreement(
        masks(a, draw_halves(a, draws, seed)[0], threshold),
        masks(b, draw_halves(b, draws, seed)[1], threshold),
    )


def halves_of(study: Study, dataset: str, sigma: float, control: str = "") -> Agreement:
    """``half_split`` of a study's dataset or control, made once."""
    settings = study.settings
    return study.once(
        ("halves", dataset, sigma, control),
        lambda: half_split(
            study.shards(dataset, control), settings.threshold(sigma), settings.draws, settings.seed
        ),
    )


def across_of(study: Study, dataset: str, other: str, sigma: float) -> Agreement:
    """``across`` of two of a study's datasets, made once."""
    settings = study.settings
    return study.once(
        ("across", dataset, other, sigma),
        lambda: across(
            study.shards(dataset),
            study.shards(other),
            settings.threshold(sigma),
            settings.draws,
            settings.seed,
        ),
    )


def interval(values: np.ndarray, level: float = 0.95) -> Interval:
    """The central share of the defined values; nan ends where fewer than half of them are defined."""
    defined = values[np.isfinite(values)]
    if len(defined) < max(2, len(values) / 2):
        return Interval(float("nan"), float("nan"), level, "percentile")
    return percentile_interval(defined, level)


def mean(values: np.ndarray) -> float:
    """The mean of the defined values, nan where fewer than half are defined."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) >= max(1, len(values) / 2) else float("nan")


def floor_effect(result: Agreement, sigma: float) -> str | None:
    """The reason why an overlap says nothing: too few masks with any neuron in them."""
    draws = len(result.overlap)
    if result.defined * 2 >= draws:
        return None
    return f"floor effect: no neuron passes sigma {sigma:g} in {draws - result.defined} of {draws} splits"
