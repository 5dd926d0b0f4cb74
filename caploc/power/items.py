"""Designs of evaluation items: sets erased, arms of training, losses on other text, and doses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from caploc import statistics as stats
from caploc.experiments.enhancement_arms import RANDOM, RUNS, SEEDS
from caploc.experiments.enhancement_elsewhere import SIMULTANEOUS
from caploc.experiments.erasure_sets import FEW_SETS, RANK_ITEMS
from caploc.power.designs import FLIPS, RESAMPLES, Design, Level, Paired, seed_of


@dataclass(frozen=True)
class SetsDrawn(Design):
    """Right and wrong per item under a located set against random ones: ``tried`` of them on all items, all ``draws``
    on ``ranked`` items, by which the set is ranked (`caploc.experiments.erasure.lost_more`). With ``pooled``, the mean
    over so many datasets (`effect_of`, `sets_p`).

    An item has a difficulty; a set shifts all items (``between``, on the scale of difficulties, of which .1 are 2
    points: sets differ in truth, whatever the number of items) and each item a little on its own (``own``).
    """

    draws: int = 100
    tried: int = FEW_SETS
    ranked: int = RANK_ITEMS
    pooled: int = 1
    between: float = 0.1
    own: float = 0.4
    unit: ClassVar[str] = "items"
    random_null: ClassVar[bool] = True

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        every = [self._dataset(truth, rng, noise) for _ in range(self.pooled)]
        if self.pooled > 1:
            full, ranked = (
                [stats.Pair(str(i), str(i), one[:1], one[1:]) for i, one in enumerate(group)]
                for group in zip(*every, strict=True)
            )
            found = stats.effect_of(full, drawn=True, seed=seed_of(rng), resamples=RESAMPLES, flips=FLIPS)
            return replace(found, p_sets=stats.sets_p(ranked, seed_of(rng), FLIPS))
        ((tried, few),) = every
        located, random = tried[0], tried[1:]
        found = stats.compare_with_random(
            located, random, seed=seed_of(rng), resamples=RESAMPLES, flips=FLIPS
        )
        found = replace(found, p_sets=stats.permutation_p(float(few[0].mean()), few[1:].mean(1)))
        return stats.at_least_adjusted(found, located - random.mean(0))

    def _dataset(
        self, truth: float | None, rng: np.random.Generator, noise: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """``[1 + tried, units]`` the located set first, and ``[1 + draws, ranked]`` on the first items."""
        sets = rng.normal(0, self.between * noise, 1 + self.draws)
        if truth is not None:
            sets[0] = 0.0
        difficulty = rng.normal(0, 1.8, self.units)

        def outcomes(some: np.ndarray, items: int) -> np.ndarray:
            own = self.own * noise * rng.standard_normal((len(some), items), dtype=np.float32)
            return (difficulty[:items] + some[:, None] + own > 0).astype(float)

        tried = outcomes(sets[: 1 + self.tried], self.units)
        arm = tried[0]
        if truth:  # half of the items can change; beyond that, all of them
            can = arm == (truth < 0)
            arm[can & (rng.random(self.units) < 2 * abs(truth))] = float(truth > 0)
        few = tried[:, : self.ranked]
        return tried, np.concatenate([few, outcomes(sets[1 + self.tried :], self.ranked)])


@dataclass(frozen=True)
class RandomChange(Design):
    """What ``tried`` random sets change on average, of ``pooled`` datasets (`change_of_random`, `average_change`):
    an item changes under a set with the probability ``changed``, and more often in truth's direction."""

    tried: int = FEW_SETS
    pooled: int = 1
    changed: float = 0.01
    unit: ClassVar[str] = "items"

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        found = []
        for _ in range(self.pooled):
            base = (rng.random(self.units) < 0.5).astype(float)
            up = rng.random((self.tried, self.units)) < self.changed * noise + 2 * max(size, 0.0)
            down = rng.random((self.tried, self.units)) < self.changed * noise + 2 * max(-size, 0.0)
            random = np.where(base == 1, 1.0 - down, up.astype(float))
            found.append(
                stats.change_of_random(
                    base, random, [str(i) for i in range(self.units)], seed_of(rng), RESAMPLES
                )
            )
        mean = stats.average_change(found)
        return stats.Effect(mean.estimate, mean.interval, mean.interval90, 1.0, None, None, self.units, 0)


@dataclass(frozen=True)
class Arms(Design):
    """Arms of training (`effect_of`), by seed and item: ``runs`` of the first and ``others`` of the second, which may
    be ``drawn``, and is the base where ``others`` is 0. ``trained`` datasets, each tested on itself or, with
    ``elsewhere``, on so many others; ``ranked``: p of the sets beside that of items (`sets_p`). Runs differ in truth by
    ``between``. ``level``: of the wider interval."""

    runs: int = SEEDS
    others: int = RUNS[RANDOM]
    trained: int = 1
    elsewhere: int = 0
    drawn: bool = False
    ranked: bool = False
    between: float = 0.02
    level: float = 0.95
    unit: ClassVar[str] = "items"
    random_null: ClassVar[bool] = True

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        pairs = []
        for row in range(self.trained):
            runs = self.between * noise * rng.standard_normal(self.runs + max(1, self.others))
            if self.drawn:
                runs[self.runs :] += self.between * noise * rng.standard_normal(max(1, self.others))
                runs[: self.runs] += (truth is None) * self.between * noise * rng.standard_normal()
            if self.others == 0:
                runs[-1] = 0.0
            pairs += [
                stats.Pair(f"row {row}", f"dataset {column}", *self._outcomes(runs, truth or 0.0, rng, noise))
                for column in (range(self.elsewhere) if self.elsewhere else [row])
            ]
        found = stats.effect_of(
            pairs,
            drawn=self.drawn,
            seed=seed_of(rng),
            resamples=max(RESAMPLES, math.ceil(2 / (1 - self.level))),
            flips=FLIPS,
            level=self.level,
        )
        return replace(found, p_sets=stats.sets_p(pairs, seed_of(rng), FLIPS)) if self.ranked else found

    def _outcomes(
        self, runs: np.ndarray, size: float, rng: np.random.Generator, noise: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """``[runs, items]`` of both arms, whose outcomes of an item share its ability, so that arms agree on most."""
        base = float(np.clip(0.5 - size / 2, 0, 1))
        share = np.clip(runs + base + size * (np.arange(len(runs)) < self.runs), 0, 1)
        ability = rng.beta(2, 2, self.units) if noise else np.linspace(0, 1, self.units)
        latent = 0.5 * noise * rng.random((len(runs), self.units)) + (1 - 0.5 * noise) * ability
        order = np.argsort(np.argsort(latent, axis=-1), axis=-1) / max(1, self.units - 1)
        right = (order >= 1 - share[:, None]).astype(float)
        return right[: self.runs], right[self.runs :]


@dataclass(frozen=True)
class Others(Arms):
    """What ``elsewhere`` datasets gain over the base by each of ``trained`` trainings, all together, and ``texts`` of
    general text, whose change spreads by ``spread``."""

    texts: int = 24
    spread: float = 0.02
    others: int = 0
    random_null: ClassVar[bool] = False

    @property
    def second(self) -> Design:
        """What general text loses."""
        return Paired(self.texts, spread=self.spread)

    @property
    def single(self) -> Others:
        """One pair of datasets, with an interval that holds for all of them together."""
        pairs = self.trained * self.elsewhere
        return replace(self, trained=1, elsewhere=1, level=1 - SIMULTANEOUS / pairs)


@dataclass(frozen=True)
class TextLoss(Design):
    """Nats that answers lose minus those that ``texts`` lose (`difference_of`, p by dealing out which are answers):
    answers spread as far as they lose on average and at least by ``spread``, texts, which lose next to nothing, by
    ``text_spread``: .02 to .04 on the embedded models."""

    texts: int = 24
    spread: float = 0.1
    text_spread: float = 0.04
    high: float = 2.0
    unit: ClassVar[str] = "items"

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        answers = size + max(self.spread, abs(size)) * noise * rng.standard_normal(self.units)
        texts = self.text_spread * noise * rng.standard_normal(self.texts)
        changes = [
            stats.Change(
                float(lost.mean()),
                *(
                    stats.bootstrap_mean(lost, level, RESAMPLES, seed_of(rng), expand=True)
                    for level in (0.95, 0.90)
                ),
            )
            for lost in (answers, texts)
        ]
        more, labels = stats.difference_of(*changes), [True] * self.units + [False] * self.texts
        p = stats.stratified_permutation(
            [*answers, *texts], labels, alternative="greater", draws=FLIPS, seed=seed_of(rng)
        ).p
        return stats.Effect(more.estimate, more.interval, more.interval90, p, None, None, self.units, 0)

    @property
    def second(self) -> Design:
        """What the texts lose."""
        widest = 2 * self.high / self.text_spread  # in standard deviations
        return Level(
            self.texts, low=-self.high, high=self.high, concentration=(widest / 2) ** 2 - 1, expanded=True
        )


@dataclass(frozen=True)
class Doses(Design):
    """Outcomes of an item under three interventions, each containing the one before (`compare_doses`). ``truth`` is the
    mean rise a step. ``p_items`` is the trend's p value, ``p_sets`` a reversal's; items change on their own in 2 % of
    cases."""

    unit: ClassVar[str] = "items"

    def sample(self, truth: float | None, rng: np.random.Generator, noise: float = 1.0) -> stats.Effect:
        size = truth or 0.0
        lost = rng.random((3, self.units)) < 0.02 * noise
        moved = rng.random(self.units)
        for dose in (1, 2):
            lost[dose] |= moved < dose * abs(size)
        arms = lost.astype(float)[:: 1 if size >= 0 else -1]
        found = stats.compare_doses(arms, seed=seed_of(rng), resamples=RESAMPLES, flips=FLIPS)
        p = found.p_values
        return stats.Effect(
            found.step, found.interval, found.interval, p["trend"], p["reversal"], None, self.units, 0
        )
