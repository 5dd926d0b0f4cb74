"""How a cell's numbers arise: the kind of statistic, its sizes, and a simple model that data are drawn from.

A design draws one comparison, or one level, of a given true size and returns what the experiment would have made of it:
the same function of `caploc.statistics` is called, with coarser resampling (`RESAMPLES`). The models are kept simple
and, where a size is unknown before a run, on the difficult side: half of the items right, sets that differ in truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np

from caploc import statistics as stats
from caploc.statistics.splits import Subsets

RESAMPLES = FLIPS = 399
"""Of a bootstrap and of a permutation test: the audit's procedure, coarser."""


@dataclass(frozen=True)
class Design:
    """Subclasses are frozen dataclasses of plain numbers, whose hash is the key of simulated rates.

    Attributes:
        units: what is resampled: items, facts or examples.
        comparisons: parts of one measurement, among which p values are corrected (Holm).
        by_samples: whether ``--samples`` sets the number of units.
    """

    units: int
    comparisons: int = 1
    by_samples: bool = True

    unit: ClassVar[str] = "facts"
    random_null: ClassVar[bool] = False
    """Whether nothing means one more random set, rather than a difference of exactly 0."""
    low: float = 0.0
    high: float = 1.0

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        """One estimate with its intervals and p value. ``truth`` None: the null of designs with random sets; ``noise``
        0: data that agree perfectly."""
        raise NotImplementedError

    def with_units(self, units: int) -> Self:
        """The same with another number of units."""
        return replace(self, units=units)

    @property
    def shown(self) -> str:
        """Its sizes in words, such as ``64 items, 100 draws``."""
        draws = getattr(self, "draws", 0)
        return f"{self.units} {self.unit}" + (f", {draws} draws" if draws else "")


@dataclass(frozen=True)
class SetsDrawn(Design):
    """Right and wrong per item under a located set against ``draws`` random ones (`compare_with_random`).

    An item has a difficulty; a set shifts all items (``between``: sets differ in truth, whatever the number of items)
    and each item a little on its own (``own``).
    """

    draws: int = 100
    between: float = 0.1
    own: float = 0.4
    unit: ClassVar[str] = "items"
    random_null: ClassVar[bool] = True

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        sets = rng.normal(0, self.between * noise, 1 + self.draws)
        if truth is not None:
            sets[0] = 0.0
        difficulty = rng.normal(0, 1.8, self.units)
        own = self.own * noise * rng.standard_normal((1 + self.draws, self.units), dtype=np.float32)
        outcomes = (difficulty + sets[:, None] + own > 0).astype(float)
        arm = outcomes[0]
        if truth:  # half of the items can change; beyond that, all of them
            can = arm == (truth < 0)
            arm[can & (rng.random(self.units) < 2 * abs(truth))] = float(truth > 0)
        found = stats.compare_with_random(
            arm, outcomes[1:], seed=_seed(rng), resamples=RESAMPLES, flips=FLIPS
        )
        return stats.if_nothing_changed(found, self.units)


@dataclass(frozen=True)
class Paired(Design):
    """A difference a fact, of two fixed arms on the same facts (`compare_pairs`), about normal with ``spread``;
    ``binary``: of right and wrong, of which at least ``discordant`` differ (`compare_successes`)."""

    spread: float = 0.3
    binary: bool = False
    discordant: float = 0.1

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size, seed = truth or 0.0, _seed(rng)
        if self.binary:
            differ = min(1.0, max(self.discordant * noise, abs(size)))
            kind = rng.choice(3, self.units, p=[(differ + size) / 2, (differ - size) / 2, 1 - differ])
            both = (rng.random(self.units) < 0.5).astype(float)
            first = np.choose(kind, [1.0, 0.0, both])
            second = np.choose(kind, [0.0, 1.0, both])
            return stats.compare_successes(first, second, np.arange(self.units), seed)
        values = size + self.spread * noise * rng.standard_normal(self.units)
        return stats.compare_pairs(values, np.zeros(self.units), seed=seed, resamples=RESAMPLES, flips=FLIPS)


@dataclass(frozen=True)
class Level(Design):
    """The mean over facts of a number between ``low`` and ``high`` (`bootstrap_mean`): a beta distribution, which
    spreads the more, the smaller its ``concentration``."""

    concentration: float = 3.0

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        scale = self.high - self.low
        mean = float(np.clip(((truth or 0.0) - self.low) / scale, 0, 1))
        values = np.full(self.units, mean)
        if noise and 0 < mean < 1:
            values = rng.beta(mean * self.concentration, (1 - mean) * self.concentration, self.units)
        values, seed = self.low + scale * values, _seed(rng)
        wide, narrow = (stats.bootstrap_mean(values, level, RESAMPLES, seed) for level in (0.95, 0.90))
        return stats.Effect(float(values.mean()), wide, narrow, 1.0, None, None, self.units, 0)


@dataclass(frozen=True)
class Proportion(Design):
    """The share of items that are right, with its exact binomial interval (`score_interval`)."""

    unit: ClassVar[str] = "items"

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        share = float(np.clip(truth or 0.0, 0, 1))
        right = int(rng.binomial(self.units, share)) if noise else round(share * self.units)
        wide, narrow = (stats.binomial_interval(right, self.units, level) for level in (0.95, 0.90))
        return stats.Effect(right / self.units, wide, narrow, 1.0, None, None, self.units, 0)


@dataclass(frozen=True)
class Halves(Design):
    """Overlap of what two random halves of the examples locate, over many splits (`half_split`): 60 neurons of 1,000,
    strong, middling and weak ones, above as much noise as gives the overlap that is asked for."""

    draws: int = 100
    unit: ClassVar[str] = "examples"
    levels: ClassVar[np.ndarray] = np.exp(np.linspace(1, -1, 60))
    neurons: ClassVar[int] = 1000
    sigma: ClassVar[float] = 3.0

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        wanted = truth if truth is not None else 0.0
        sizes, overlaps = _noise_curve(self.units)
        size = 0.0 if not noise else float(np.interp(-wanted, -overlaps, sizes))
        found = self.overlaps(size, rng, self.draws)
        wide, narrow = (stats.defined_interval(found, level) for level in (0.95, 0.90))
        return stats.Effect(stats.defined_mean(found), wide, narrow, 1.0, None, None, self.units, self.draws)

    def overlaps(self, size: float, rng: np.random.Generator, draws: int) -> np.ndarray:
        """``[draws]`` overlaps of one sample's halves, under so much noise."""
        scores = size * rng.standard_normal((self.units, self.neurons), dtype=np.float32)
        scores[:, : len(self.levels)] += self.levels

        def locate(subsets: Subsets) -> np.ndarray:
            weights = np.zeros((len(subsets), self.units), np.float32)
            for row, subset in zip(weights, subsets, strict=True):
                row[subset] = 1 / len(subset)
            means = weights @ scores
            spread = means.std(1, keepdims=True)
            return np.abs(means - means.mean(1, keepdims=True))[:, None] > self.sigma * spread[:, None]

        return stats.half_split(stats.Shards(self.units, locate), draws, _seed(rng)).overlap


@lru_cache
def _noise_curve(examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise and the overlap that it leaves, falling, from a few samples of each."""
    sizes = np.concatenate([[0.0], np.geomspace(0.05, 60, 24)])
    rng, design = np.random.default_rng(0), Halves(examples)
    means = [
        np.mean([stats.defined_mean(design.overlaps(size, rng, 10)) for _ in range(8)]) for size in sizes
    ]
    return sizes, np.minimum.accumulate(np.nan_to_num(np.array(means), nan=0.0))


@dataclass(frozen=True)
class Arms(Design):
    """Arms of training: scores of ``runs`` seeds and items under each (`effect_of`), of which the second may be
    ``drawn``. Runs differ in truth by ``between``."""

    runs: int = 3
    drawn: bool = False
    between: float = 0.02
    unit: ClassVar[str] = "items"
    random_null: ClassVar[bool] = True

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        sets = self.between * noise * rng.standard_normal(2) if self.drawn else np.zeros(2)
        if truth is not None:
            sets[0] = 0.0
        runs = self.between * noise * rng.standard_normal((2, self.runs)) + sets[:, None]
        base = np.clip(0.5 - (truth or 0.0) / 2, 0, 1)
        ability = rng.beta(2, 2, self.units) if noise else np.full(self.units, 0.5)
        chance = np.clip(np.stack([runs[0] + base + (truth or 0.0), runs[1] + base]), 0, 1)
        # an item's outcomes share its ability, so that arms agree on most items
        latent = 0.5 * rng.random((2, self.runs, self.units)) * noise + (1 - 0.5 * noise) * ability
        order = np.argsort(np.argsort(latent, axis=-1), axis=-1) / max(1, self.units - 1)
        right = (order >= 1 - chance[..., None]).astype(float)
        pair = stats.Pair("task", "task", right[0], right[1])
        return stats.effect_of([pair], drawn=self.drawn, seed=_seed(rng), resamples=RESAMPLES, flips=FLIPS)


@dataclass(frozen=True)
class Doses(Design):
    """Outcomes of an item under three interventions, each containing the one before (`compare_doses`). ``truth`` is the
    mean rise a step. ``p_items`` is the trend's p value, ``p_sets`` a
    reversal's; items change on their own in 2 % of cases."""

    unit: ClassVar[str] = "items"

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        lost = rng.random((3, self.units)) < 0.02 * noise
        moved = rng.random(self.units)
        for dose in (1, 2):
            lost[dose] |= moved < dose * abs(size)
        arms = lost.astype(float)[:: 1 if size >= 0 else -1]
        found = stats.compare_doses(arms, seed=_seed(rng), resamples=RESAMPLES, flips=FLIPS)
        p = found.p_values
        return stats.Effect(
            found.step, found.interval, found.interval, p["trend"], p["reversal"], None, self.units, 0
        )


@dataclass(frozen=True)
class Counted(Design):
    """No sampling: the number follows from the weights or from what is printed. ``why`` says from what."""

    units: int = 0
    why: str = "a count, without sampling error"

    @property
    def shown(self) -> str:
        return self.why


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
