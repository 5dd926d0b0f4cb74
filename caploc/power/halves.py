"""Designs of examples: how far what two halves of a dataset locate agrees, with the experiments' own statistics.

60 neurons of 500, strong, middling and weak ones, stand above noise; a truth is the size of that noise, on a grid
(`Halves.grid`), so that claims about one dataset judge the same simulated samples. What a size of noise means is known
without sampling error of examples: how far two halves agree of as many examples as there are, and of the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
from scipy import stats as distributions

from caploc import statistics as stats
from caploc.experiments.commonality_halves import Beyond, bound_beyond, difference_of, gained
from caploc.findings import Effect, Measurement, Part, Test
from caploc.power.designs import Design, level_of, seed_of
from caploc.statistics.splits import Subsets
from caploc.streams import Stream, stream

Quantity = Literal["overlap", "iou"]
SPLITS, ORDERS = stats.splits.LEFT_OUT_SPLITS, 20
"""As many as the audit leaves groups of examples out of, since fewer widen intervals."""
LEVELS = np.exp(np.linspace(1, -1, 60))
NEURONS, SIGMA, MOST_SHARDS = 500, 3.0, 128
GRID = tuple(float(one) for one in np.geomspace(0.25, 40, 12))
STRUCTURES = 3
"""Partitions of their own kind that a dataset is tried with, among which the widest interval is corrected."""


@dataclass(frozen=True, eq=False)
class Grown:
    """One sample of a dataset: agreement of its halves, at its size and along the curve to the paper's."""

    halves: stats.Resplit
    curve: stats.Curve
    paper: int
    p: float = 1.0

    def full(self, quantity: Quantity) -> Part:
        """As the experiments' part ``at full size``."""
        return bound_beyond(Beyond.of(self.curve, self.paper, quantity), "simulated")

    def gap(self, other: Grown, quantity: Quantity = "overlap") -> Effect:
        """By how much halves agree more than another sample's."""
        there = other.halves.mean(quantity)
        own = self.halves.mean(quantity)
        return difference_of(own if math.isnan(there.value) else own - there, "simulated")


@dataclass(frozen=True)
class Halves(Design):
    """Examples of one dataset, at the paper's ``paper`` of them by the curve where there are fewer."""

    paper: int = 1600
    draws: int = 100
    unit: ClassVar[str] = "examples"

    def grown(self, size: float, rng: np.random.Generator) -> Grown:
        """A sample under noise of this size."""
        shards, seed = shards_of(_scores(size, self.units, rng)), seed_of(rng)
        counts, found = stats.growing(shards, ORDERS, seed)
        curve = stats.Curve(counts * math.ceil(self.units / MOST_SHARDS), found)
        return Grown(stats.half_split(shards, SPLITS, seed), curve, max(self.paper, self.units))

    def size_for(self, wanted: float, quantity: Quantity, examples: int, below: bool = False) -> float:
        """The noise on the grid under which halves of so many examples agree about as ``wanted``; ``below``: at most
        so much."""
        agree = agreement_by_noise(quantity, examples)
        near = np.abs(agree - wanted) + np.where(below & (agree > wanted + 1e-9), np.inf, 0.0)
        return GRID[int(near.argmin())] if np.isfinite(near).any() else GRID[-1]

    def at(self, size: float, quantity: Quantity, examples: int) -> float:
        """How far halves of so many examples agree under this noise."""
        return float(agreement_by_noise(quantity, examples)[GRID.index(size)])


@dataclass(frozen=True)
class Partitions(Halves):
    """Random halves against structured ones: some neurons belong to one side of a structure alone (`resplit`). The
    truth is by how much structured halves agree less."""

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = self.size_for(0.8, "overlap", self.units) if noise else GRID[0]
        side = rng.permutation(self.units) % 2 == 0
        scores = _scores(size, self.units, rng)
        own = rng.permutation(len(LEVELS))[: round(min(1.0, 1.25 * (truth or 0.0)) * len(LEVELS))]
        for place, neuron in enumerate(own):  # as strong on average, but on one side
            scores[:, neuron] += LEVELS[neuron] * np.where(side == (place % 2 == 0), 1, -1)
        shards, seed = shards_of(scores), seed_of(rng)
        random = stats.half_split(shards, SPLITS, seed).mean()
        shard_side = np.array([group.mean() >= 0.5 for group in np.array_split(side, shards.count)])
        halves = np.flatnonzero(shard_side), np.flatnonzero(~shard_side)
        structured = stats.resplit(shards, [halves[0]], shards, [halves[1]], 1, seed).mean()
        found = random - structured
        wide, narrow = found.interval(1 - 0.05 / STRUCTURES), found.interval(0.90)
        return level_of(found.value, wide, narrow, self.units)


@dataclass(frozen=True)
class DatasetPairs(Halves):
    """Three datasets' masks: what the first two share minus the larger share with the third, by bootstrap over examples
    (`resampled_pair_overlaps`)."""

    resamples: int = 99
    low: float = -1.0

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        shards = []
        for number, share in enumerate((1.0, 0.3 + max(0.0, size), 0.3 + max(0.0, -size))):
            # shared neurons are spread over the strengths, so that as large a share of those that are located is shared
            kept = np.floor(np.arange(len(LEVELS)) * share) < np.floor((np.arange(len(LEVELS)) + 1) * share)
            places = np.where(kept, 0, 100 * number) + np.arange(len(LEVELS))
            scores = 0.8 * noise * rng.standard_normal((self.units, NEURONS), dtype=np.float32)
            scores[:, places] += LEVELS.astype(np.float32)
            shards.append(shards_of(scores))
        drawn = stats.resampled_pair_overlaps(shards, self.resamples, seed_of(rng))
        whole = [one.locate([np.arange(one.count)]) for one in shards]
        overlaps = [stats.agreement(whole[a], whole[b]).overlap for a, b in ((0, 1), (0, 2), (1, 2))]
        lead = drawn[0] - drawn[1:].max(0)
        wide, narrow = (stats.defined_interval(lead, level) for level in (0.95, 0.90))
        return level_of(float((overlaps[0] - np.maximum(*overlaps[1:]))[0]), wide, narrow, self.units)


def draws_grown(design: Design) -> bool:
    """Whether its samples are `Grown`, of which measurements are made, and not effects."""
    return type(design) is Halves


def shards_of(scores: np.ndarray) -> stats.Shards:
    """Shards of neighbouring examples, located by eq. (8) with the standard deviation."""
    groups = np.array_split(np.arange(len(scores)), min(MOST_SHARDS, len(scores)))
    means = np.stack([scores[group].mean(0) for group in groups])

    def locate(subsets: Subsets) -> np.ndarray:
        weights = np.zeros((len(subsets), len(means)), np.float32)
        for row, subset in enumerate(subsets):
            weights[row] = np.bincount(subset, minlength=len(means)) / max(1, len(subset))
        return _masks(weights @ means)[:, None]

    return stats.Shards(len(means), locate)


@lru_cache
def agreement_by_noise(quantity: Quantity, examples: int) -> np.ndarray:
    """How far the halves of so many examples agree under every noise of the grid; falling."""
    rng = stream(Stream.SIMULATED_NOISE, 0)
    found = []
    for size in GRID:
        means = size / math.sqrt(examples / 2) * rng.standard_normal((2, 60, NEURONS))
        means[..., : len(LEVELS)] += LEVELS
        agree = stats.agreement(_masks(means[0])[:, None], _masks(means[1])[:, None])
        found.append(float(np.nan_to_num(getattr(agree, quantity)).mean()))
    return np.minimum.accumulate(np.array(found))


def _masks(means: np.ndarray) -> np.ndarray:
    centre = means.mean(1, keepdims=True)
    away = means - centre
    limit = SIGMA * np.sqrt(np.einsum("ij,ij->i", away, away) / means.shape[1])[:, None]
    return np.asarray((away > limit) | (away < -limit))


def _scores(size: float, examples: int, rng: np.random.Generator) -> np.ndarray:
    scores = size * rng.standard_normal((examples, NEURONS), dtype=np.float32)
    scores[:, : len(LEVELS)] += LEVELS.astype(np.float32)
    return scores


def above_twin(own: Grown, twin: Grown, quantity: Quantity = "overlap", before: str = "") -> dict[str, Part]:
    """Parts of `caploc.experiments.commonality.at_full_size`."""
    return {f"{before}at full size": own.full(quantity), f"{before}twin gap": own.gap(twin, quantity)}


def from_other_text(own: Grown, other: Grown, scrambled: Grown, twin: Grown) -> Measurement:
    """As `caploc.experiments.commonality.commonality`; p of the exchanged shards by the jackknife's own t."""
    gap = own.gap(other)
    found = own.halves.mean() - other.halves.mean()
    p = (
        float(distributions.t.sf(found.value / found.error, stats.splits.LEFT_OUT - 1))
        if found.error
        else 0.0
    )
    parts: dict[str, Part] = {
        "scrambled gap": own.gap(scrambled),
        "twin gap": own.gap(twin),
        "permutation": Test(p=p),
    }
    return Measurement("difference", gap, parts)


def growth(own: Grown) -> Measurement:
    """As `caploc.experiments.commonality.convergence`."""
    curve, later = own.curve, Beyond.of(own.curve, own.paper)
    last = gained(later, Beyond.of(curve, own.paper / 2), "simulated")
    rise = difference_of(curve.at(curve.sizes[-1]) - curve.at(curve.sizes[0]), "simulated")
    floor = "nothing bounds the curve from above" if later.unbounded else None
    return Measurement("gain", last, {"rise": rise, "last increment": last}, floor=floor)
