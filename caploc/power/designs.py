"""How a cell's numbers arise: the kind of statistic, its sizes, and a simple model that data are drawn from.

A design draws one comparison, or one level, of a given true size and returns what the experiment would have made of it:
the same function of `caploc.statistics` is called, with coarser resampling (`RESAMPLES`). The models are kept simple
and, where a size is unknown before a run, on the difficult side: half of the items right, sets that differ in truth.
Here are those of facts; `caploc.power.items` has those of evaluation items, `caploc.power.halves` those of examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from scipy import stats as distributions

from caploc import statistics as stats

RESAMPLES = FLIPS = 199
"""Of a bootstrap and of a permutation test: the audit's procedure, coarser."""


@dataclass(frozen=True)
class Design:
    """Subclasses are frozen dataclasses of plain numbers, whose hash is the key of simulated rates.

    Attributes:
        units: what is resampled: items, facts or examples.
        comparisons: parts of one measurement, among which p values are corrected (Holm).
        family: cells among whose p values each is corrected too, as those of several datasets are; on the difficult
            side, Bonferroni.
        by_samples: whether ``--samples`` sets the number of units.
        low, high: between which the quantity lies.
    """

    units: int
    comparisons: int = 1
    family: int = 1
    by_samples: bool = True
    low: float = 0.0
    high: float = 1.0

    unit: ClassVar[str] = "facts"
    random_null: ClassVar[bool] = False
    """Whether nothing means one more random set, rather than a difference of exactly 0."""

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        """One estimate with its intervals and p value. ``truth`` None: the null of designs with random sets; ``noise``
        0: data that agree perfectly."""
        raise NotImplementedError

    def with_units(self, units: int) -> Self:
        """The same with another number of units."""
        return replace(self, units=units)

    @property
    def second(self) -> Design:
        """By which the second part of a measurement arises where it is of another kind."""
        return self

    @property
    def shown(self) -> str:
        """Its sizes in words, such as ``64 items, 100 draws``."""
        draws = getattr(self, "draws", 0)
        return f"{self.units} {self.unit}" + (f", {draws} draws" if draws else "")


@dataclass(frozen=True)
class Paired(Design):
    """A difference a fact, of two fixed arms on the same facts, about normal with ``spread`` (`compare_pairs`, and with
    ``bounded`` at least `at_least_adjusted`); ``binary``: of right and wrong, of which at least ``discordant`` differ
    (`compare_successes`). ``other_spread``: of a second part, where nothing is to be found. ``flips``: of the
    permutation test, whose p is no finer."""

    spread: float = 0.3
    other_spread: float | None = None
    bounded: bool = False
    binary: bool = False
    discordant: float = 0.1
    flips: int = field(default=FLIPS, repr=False)

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        if self.binary:
            first, second = self._pairs(size, rng, noise)
            return stats.compare_successes(first, second, np.arange(self.units), seed_of(rng))
        values = size + self.spread * noise * rng.standard_normal(self.units)
        if self.bounded:
            values = values.clip(-1, 1)
        found = stats.compare_pairs(
            values, np.zeros(len(values)), seed=seed_of(rng), resamples=RESAMPLES, flips=self.flips
        )
        return stats.at_least_adjusted(found, values) if self.bounded else found

    @property
    def second(self) -> Design:
        return replace(self, spread=self.other_spread or self.spread, other_spread=None)

    def _pairs(self, size: float, rng: np.random.Generator, noise: float) -> tuple[np.ndarray, np.ndarray]:
        differ = min(1.0, max(self.discordant * noise, abs(size)))
        kind = rng.choice(3, self.units, p=[(differ + size) / 2, (differ - size) / 2, 1 - differ])
        both = (rng.random(self.units) < 0.5).astype(float)
        return np.choose(kind, [1.0, 0.0, both]), np.choose(kind, [0.0, 1.0, both])


@dataclass(frozen=True)
class Layers(Paired):
    """Right and wrong in one layer against each of the ``comparisons`` others, whose intervals hold for as many of them
    as need not be equal (`caploc.statistics.free_level`)."""

    share: float = 0.5

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        first, second = self._pairs(truth or 0.0, rng, noise)
        level, seed = stats.free_level(self.comparisons, self.share), seed_of(rng)
        wide, narrow = (
            stats.at_least_mcnemar(stats.bootstrap_mean(first - second, one, RESAMPLES, seed), first, second)
            for one in (level, 0.90)
        )
        return level_of(float((first - second).mean()), wide, narrow, self.units)


@dataclass(frozen=True)
class Level(Design):
    """The mean over facts of a number between ``low`` and ``high`` (`bootstrap_mean`, and with ``bounded``
    `bounded_mean`): a beta distribution, which spreads the more, the smaller its ``concentration``. ``expanded``: as
    Student's t would widen it."""

    concentration: float = 3.0
    bounded: bool = False
    expanded: bool = False

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        scale = self.high - self.low
        mean = float(np.clip(((truth or 0.0) - self.low) / scale, 0, 1))
        values = np.full(self.units, mean)
        if noise and 0 < mean < 1:
            values = rng.beta(mean * self.concentration, (1 - mean) * self.concentration, self.units)
        values, seed = self.low + scale * values, seed_of(rng)

        def ends(level: float) -> stats.Interval:
            found = stats.bootstrap_mean(values, level, RESAMPLES, seed, expand=self.expanded)
            limits = (self.low, self.high)
            return (
                stats.at_least(found, stats.adjusted_interval(values.clip(*limits), limits, level))
                if self.bounded
                else found
            )

        return level_of(float(values.mean()), ends(0.95), ends(0.90), self.units)


@dataclass(frozen=True)
class Proportion(Design):
    """The share of ``unit`` that are right, with the exact binomial interval or, of facts, Wilson's."""

    method: Literal["exact", "wilson"] = "exact"

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        share = float(np.clip(truth or 0.0, 0, 1))
        right = int(rng.binomial(self.units, share)) if noise else round(share * self.units)
        wide, narrow = (stats.binomial_interval(right, self.units, one, self.method) for one in (0.95, 0.90))
        return level_of(right / self.units, wide, narrow, self.units)

    @property
    def shown(self) -> str:
        return f"{self.units} {'facts' if self.method == 'wilson' else 'items'}"


@dataclass(frozen=True)
class Correlation(Design):
    """The size of a rank correlation over facts, with Fisher's interval in the place of a bootstrap's."""

    low: float = -1.0

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        rho = float(np.clip(truth or 0.0, -0.999, 0.999))
        first, second = rng.standard_normal((2, self.units))
        found = float(
            distributions.spearmanr(first, rho * first + math.sqrt(1 - rho**2) * noise * second).statistic
        )
        at, error = math.atanh(np.clip(found, -0.999, 0.999)), 1.03 / math.sqrt(self.units - 3)
        wide, narrow = (
            stats.Interval(math.tanh(at - z * error), math.tanh(at + z * error), level, "Fisher")
            for z, level in ((1.96, 0.95), (1.645, 0.90))
        )
        return level_of(found, wide, narrow, self.units)


@dataclass(frozen=True)
class Choices(Design):
    """IPP of right and wrong: located facts over the best of ``choices`` others (`caploc.statistics.ipp`), each of
    which ends otherwise than the located for a share ``discordant`` of the facts."""

    choices: int = 10
    discordant: float = 0.3
    low: float = -1.0

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        right = rng.random(self.units) < 0.5
        every = np.where(
            rng.random((1 + self.choices, self.units)) < self.discordant / 2 * noise, ~right, right
        )
        changed = rng.random(self.units) < 2 * abs(size)
        every[0] = np.where(changed, size > 0, every[0])
        outcomes = every.astype(float)
        found = stats.ipp(outcomes[0], outcomes[1:], seed=seed_of(rng), resamples=RESAMPLES)
        return level_of(found.estimate, found.interval, found.interval, self.units)


@dataclass(frozen=True)
class SharedNeurons(Design):
    """Neurons that two datasets' masks of ``units`` share: the hypergeometric p against ``neurons`` in all; truth: the
    share that they share, and None what chance gives."""

    neurons: int = 12_000
    unit: ClassVar[str] = "located neurons"
    random_null: ClassVar[bool] = True

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        count = self.units
        shared = int(
            rng.hypergeometric(count, self.neurons - count, count)
            if truth is None
            else rng.binomial(count, truth)
            if noise
            else round(count * truth)
        )
        p = stats.hypergeometric_p(shared, count, count, self.neurons)
        point = stats.Interval(shared / count, shared / count, 0.95, "count")
        return stats.Effect(shared / count, point, point, p, None, None, count, 0)


@dataclass(frozen=True)
class Counted(Design):
    """No sampling: the number follows from the weights or from what is printed. ``why`` says from what."""

    units: int = 0
    why: str = "a count, without sampling error"

    @property
    def shown(self) -> str:
        return self.why


def level_of(estimate: float, wide: stats.Interval, narrow: stats.Interval, units: int) -> stats.Effect:
    """A number with its intervals of 95 and 90 %, without a p value."""
    return stats.Effect(estimate, wide, narrow, 1.0, None, None, units, 0)


def seed_of(rng: np.random.Generator) -> int:
    """The seed of one statistic's own draws."""
    return int(rng.integers(2**31))
