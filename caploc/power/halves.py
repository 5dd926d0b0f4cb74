"""Designs of examples: how far what two halves of a dataset locate agrees, with the experiments' own statistics.

A few neurons score high on average, many low, and each varies from example to example the more, the higher it scores;
so halves agree the better, the more examples there are, as those of models do. A truth is the size of that noise, on a
grid (`GRID`), so that claims about one dataset judge the same simulated samples. What a size of noise means is known
without sampling error of examples: how far two halves agree of as many examples as there are, and of the paper's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, TypeGuard

import numpy as np
from scipy import special
from scipy import stats as distributions

from caploc import statistics as stats
from caploc.experiments.commonality_halves import (
    ORDERS,
    Beyond,
    beyond_twins,
    bound_beyond,
    bound_of,
    difference_of,
    gained,
)
from caploc.experiments.locating import control_examples
from caploc.experiments.study import TWINS
from caploc.findings import Effect, Measurement, Part, Test
from caploc.power.designs import Design, level_of, seed_of
from caploc.statistics.one_more import log_odds
from caploc.statistics.splits import Subsets
from caploc.streams import Stream, stream

Quantity = Literal["overlap", "iou"]
ALL_NEURONS, LISTED, LIMIT = 8192, 320, 6.0
"""Of which only those listed can pass; the others add to the standard deviation. ``LIMIT``: eq. (8)'s sigma."""
SCORES = 30 / (1 + np.arange(ALL_NEURONS) / 2.5) ** 0.56
"""Mean scores by rank, in standard deviations of all: as those of the embedded models and of random weights on five
datasets, ranked on half of 80 examples and measured on the others: mostly 9 to 21 for the first, 4 to 9 from the 20th
to the 40th, 2 to 4 beyond the 80th."""
UNIT = SCORES + 1
"""Of noise: there an example varies by .4 to 3 times the score and one standard deviation more."""
TAILS = 0.3
"""Of the noise of a shard of five examples, a normal mixture with a kurtosis of 4.5, that of one example being 10."""
GRID = tuple(float(one) for one in np.geomspace(0.3, 60, 24))
SHARDS = 64
"""Shards of a simulated dataset: as many sizes of subsamples as the curve is drawn through, and one more."""
TWIN_SPREAD, OF_WEIGHTS = 0.45, 0.35
"""Log odds: how far the overlaps of twins lie apart on 40 examples (.29 and .46 of both architectures, seeds 0 to 4),
and how far without what the examples do."""
FAR = 6.0
"""Log odds above twins that share nothing."""
STRUCTURES = 3
"""Kinds of partitions that a dataset is tried with, each of which has an interval that holds for all together."""
OF_ONE_SIDE = 0.87
"""The share of neurons of one side alone, for a point that structured halves agree less."""
LEVELS = np.exp(np.linspace(1, -1, 60))
NEURONS, SIGMA, MOST_SHARDS = 500, 3.0, 128
"""Of several datasets, whose masks need not depend on their number of examples as one dataset's do."""


@dataclass(frozen=True, eq=False)
class Grown:
    """One sample of a dataset: agreement of its halves along the curve to the paper's size; ``few``, ``scrambled``: as
    many examples as twins and scrambled text have."""

    curve: stats.Curve
    paper: int
    few: int
    scrambled: int

    @property
    def halves(self) -> stats.Resplit:
        """Of all examples."""
        return self.curve.found[-1]

    def full(self, quantity: Quantity) -> Part:
        """As the experiments' part ``at full size``."""
        return bound_beyond(Beyond.of(self.curve, self.paper, quantity), "simulated")

    def gap(self, other: Grown) -> Effect:
        """By how much halves overlap more than another sample's."""
        return difference_of(self.halves.mean() - other.halves.mean(), "simulated")


@dataclass(frozen=True)
class Halves(Design):
    """Examples of one dataset, at the paper's ``paper`` of them by the curve where there are fewer; twins' spread is
    that on ``datasets``."""

    paper: int = 1600
    draws: int = 100
    datasets: int = 5
    unit: ClassVar[str] = "examples"

    @property
    def few(self) -> int:
        """As many examples as twins have."""
        return control_examples(self.units, TWINS[0])

    def grown(self, size: float, rng: np.random.Generator) -> Grown:
        """A sample under noise of this size."""
        shards, seed = self.shards(size, rng), seed_of(rng)
        counts, found = stats.growing(shards, ORDERS, seed)
        sizes = counts * self.units / shards.count
        scrambled = control_examples(self.units, "scrambled")
        return Grown(stats.Curve(sizes, found), max(self.paper, self.units), self.few, scrambled)

    def shards(self, size: float, rng: np.random.Generator) -> stats.Shards:
        """Shards of a sample, their masks by eq. (8)."""
        count = min(SHARDS, self.units)
        return self._located(SCORES[:LISTED] + self._noise(size, count, rng), size)

    def _noise(self, size: float, count: int, rng: np.random.Generator) -> np.ndarray:
        normal = rng.standard_normal((2, count, LISTED), dtype=np.float32)
        mixed = normal[0] * np.exp(TAILS * normal[1] - TAILS**2)  # variance 1
        return np.asarray(size * UNIT[:LISTED] * math.sqrt(count / self.units) * mixed)

    def _located(self, means: np.ndarray, size: float) -> stats.Shards:
        count, each = len(means), self.units / len(means)
        means = means.astype(np.float32)

        def locate(subsets: Subsets) -> np.ndarray:
            length = len(subsets[0])
            rows = np.repeat(np.arange(len(subsets)), length) * count
            weights = np.bincount(rows + np.concatenate(subsets), minlength=len(subsets) * count)
            shares = weights.reshape(-1, count).astype(np.float32) / np.float32(length)
            return _passed(shares @ means, size, length * each)[:, None]

        return stats.Shards(count, locate)

    def size_for(self, wanted: float, quantity: Quantity, examples: int, below: bool = False) -> float:
        """The noise on the grid under which halves of so many examples agree about as ``wanted``; ``below``: at most
        so much."""
        agree = agreement_by_noise(quantity, examples)
        near = np.abs(agree - wanted) + np.where(below & (agree > wanted + 1e-9), np.inf, 0.0)
        return GRID[int(near.argmin())] if np.isfinite(near).any() else GRID[-1]

    def at(self, size: float, quantity: Quantity, examples: int) -> float:
        """How far halves of so many examples agree under this noise."""
        return float(agreement_by_noise(quantity, examples)[GRID.index(size)])

    def beyond(
        self,
        own: Grown,
        size: float,
        gap: float | None,
        rng: np.random.Generator,
        quantity: Quantity = "overlap",
    ) -> Effect:
        """As the experiments' part ``beyond twins``: the sample ``own`` under noise of this size against twins that lie
        ``gap`` log odds lower on average; None: of which the model is one more."""
        there = float(log_odds(self.at(size, quantity, self.few)))
        mean = there - (OF_WEIGHTS * rng.standard_normal() if gap is None else gap)
        drawn = TWIN_SPREAD * rng.standard_normal((self.datasets, len(TWINS)))
        drawn[0] += mean
        unbounded = Beyond.of(own.curve, own.paper, quantity).unbounded
        twins = stats.OneMore.of(list(special.expit(drawn)), 0)
        return beyond_twins(own.curve.at(own.few, quantity), twins, unbounded, "simulated")


@dataclass(frozen=True)
class Partitions(Halves):
    """Random halves against structured ones, of `STRUCTURES` kinds: some neurons belong to one side of a structure
    alone (`split_by`). The truth is by how much structured halves agree less, of every kind. The interval of 95 % is
    that of one kind, which holds for all together."""

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = self.size_for(0.8, "overlap", self.units) if noise else GRID[0]
        count = min(SHARDS, self.units)
        ranks = [rng.permutation(count) for _ in range(STRUCTURES)]
        share = min(1 / STRUCTURES, OF_ONE_SIDE * (truth or 0.0))
        kind = np.floor(rng.random(LISTED) / share) if share else np.full(LISTED, np.inf)
        signs, scores = rng.choice([-1.0, 1.0], LISTED), np.tile(SCORES[:LISTED], (count, 1))
        for number, rank in enumerate(ranks):
            # on one side twice as strong, on the other not at all: as strong on average
            scores *= 1 + (kind == number) * signs * np.where(rank < count // 2, 1.0, -1.0)[:, None]
        shards, seed = self._located(scores + self._noise(size, count, rng), size), seed_of(rng)
        random = stats.half_split(shards, self.draws, seed).mean()
        found = [random - stats.split_by(shards, rank, seed).mean() for rank in ranks]
        mean = stats.Bootstrapped.mean(found)
        return level_of(mean.value, found[0].interval(1 - 0.05 / STRUCTURES), mean.interval(0.90), self.units)


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


def draws_grown(design: Design) -> TypeGuard[Halves]:
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
        spread = size / math.sqrt(examples / 2) * UNIT[:LISTED]
        means = SCORES[:LISTED] + spread * rng.standard_normal((2, 60, LISTED))
        masks = [_passed(one, size, examples / 2)[:, None] for one in means]
        found.append(float(np.nan_to_num(getattr(stats.agreement(*masks), quantity)).mean()))
    return np.minimum.accumulate(np.array(found))


def _passed(means: np.ndarray, size: float, examples: float) -> np.ndarray:
    """Eq. (8) on ``[subsets, LISTED]`` mean scores of so many examples each, two-sided; the mean of all is 0, as signs
    are as often negative."""
    rest = (SCORES[LISTED:] ** 2).sum() + size**2 / examples * (UNIT[LISTED:] ** 2).sum()
    variance = (np.einsum("ij,ij->i", means, means) + rest) / ALL_NEURONS
    return np.asarray(np.abs(means) > LIMIT * np.sqrt(variance)[:, None])


def _masks(means: np.ndarray) -> np.ndarray:
    centre = means.mean(1, keepdims=True)
    away = means - centre
    limit = SIGMA * np.sqrt(np.einsum("ij,ij->i", away, away) / means.shape[1])[:, None]
    return np.asarray((away > limit) | (away < -limit))


def above_twins(
    design: Halves, own: Grown, size: float, gap: float | None, rng: np.random.Generator, quantity: Quantity
) -> dict[str, Part]:
    """Parts of `caploc.experiments.commonality.at_full_size`."""
    return {"at full size": own.full(quantity), "beyond twins": design.beyond(own, size, gap, rng, quantity)}


def from_other_text(own: Grown, other: Grown, scrambled: Grown, beyond: Effect) -> Measurement:
    """As `caploc.experiments.commonality.commonality`; p of the exchanged shards by the bootstrap's own t."""
    found = own.halves.mean() - other.halves.mean()
    freedom = len(found.again) - 1
    p = float(distributions.t.sf(found.value / found.error, freedom)) if found.error else 0.0
    few = own.curve.at(own.scrambled) - scrambled.curve.at(own.scrambled)
    parts: dict[str, Part] = {
        "scrambled gap": difference_of(few, "simulated"),
        "beyond twins": beyond,
        "permutation": Test(p=p),
    }
    return Measurement("difference", own.gap(other), parts)


def growth(own: Grown) -> Measurement:
    """As `caploc.experiments.commonality.convergence`."""
    curve, later = own.curve, Beyond.of(own.curve, own.paper)
    last = gained(later, Beyond.of(curve, own.paper / 2), "simulated")
    first = curve.at(curve.sizes[0])
    rise = difference_of(curve.at(curve.sizes[-1]) - first, "simulated")
    floor = "nothing bounds the curve from above" if later.unbounded else None
    parts: dict[str, Part] = {"rise": rise, "last increment": last, "smallest": bound_of(first, "simulated")}
    return Measurement("gain", last, parts, floor=floor)
