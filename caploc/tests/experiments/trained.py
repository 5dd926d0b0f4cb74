"""Enhancements without a model: outcomes with a known advantage planted in them, so that a claim's answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caploc.experiments.enhancement_arms import EPOCHS, RUNS, Rates, recipe_of, runs_of
from caploc.experiments.enhancement_runs import Enhanced, Enhancements
from caploc.experiments.study import Study, StudySettings
from caploc.neurons import NeuronMask
from caploc.tests.experiments.planted import PAPER

DATASETS = ("gsm8k", "emotion", "code25k", "imdb")
TRAINED = DATASETS[:3]
ITEMS, TEXTS = 240, 30


class TrainedStudy(Study):
    """A study whose runs are given: ``level`` maps an arm, or "base", to its share of right answers.

    ``elsewhere`` is the same on datasets that were not trained on, ``text`` the rise in nats of general text,
    ``spread`` by how much the share of one run differs from another's, ``diverged`` an arm whose first run stopped.
    """

    def __init__(
        self,
        level: Mapping[str, float],
        elsewhere: Mapping[str, float] | None = None,
        text: float = 0.0,
        spread: float = 0.0,
        chance: float = 0.0,
        diverged: str = "",
        datasets: Sequence[str] = DATASETS,
        seed: int = 0,
    ) -> None:
        trained = {
            Enhanced(name, sigma): enhancements_of(
                name,
                sigma,
                {other: level if other == name else elsewhere or {} for other in datasets},
                text,
                spread,
                chance,
                diverged,
                np.random.default_rng([seed, number]),
            )
            for number, name in enumerate(name for name in datasets if name in TRAINED)
            for sigma in (3.0, 6.0)
        }
        super().__init__("planted", StudySettings(datasets=datasets, margins=PAPER.margins), results=trained)

    def available(self) -> list[str]:
        return list(self.settings.datasets)

    @property
    def record(self) -> dict[str, Any]:
        return {"seed": self.settings.seed}


def enhancements_of(
    trained_on: str,
    sigma: float,
    level: Mapping[str, Mapping[str, float]],
    text: float,
    spread: float,
    chance: float,
    diverged: str,
    generator: np.random.Generator,
) -> Enhancements:
    """Items of one difficulty for all arms: an item is answered where its difficulty is below the run's level."""
    runs = [run for arm in RUNS for run in runs_of(arm)]
    score: dict[str, np.ndarray] = {}
    base: dict[str, np.ndarray] = {}
    for name, levels in level.items():
        # the same for every dataset trained on, as items are
        difficulty = np.random.default_rng(len(name)).permutation(ITEMS) / ITEMS
        shift = generator.normal(0, spread, len(runs)) if spread else np.zeros(len(runs))
        right = [difficulty < levels.get(run.arm, 0.4) + one for run, one in zip(runs, shift, strict=True)]
        score[name] = np.repeat(np.array(right, float)[:, None], len(EPOCHS), 1)
        base[name] = (difficulty < levels.get("base", 0.4)).astype(float)
    stopped = [4 if run.arm == diverged and run.seed == 0 else None for run in runs]
    return Enhancements(
        trained_on=trained_on,
        sigma=sigma,
        runs=runs,
        score={name: _without(values, stopped) for name, values in score.items()},
        nll={name: _without(3 * (2 - values), stopped) for name, values in score.items()},
        text=_without(np.full((len(runs), len(EPOCHS), TEXTS), 1 + text), stopped),
        base_score=base,
        base_nll={name: 3 * (2 - values) for name, values in base.items()},
        base_text=np.ones(TEXTS),
        chance=dict.fromkeys(level, chance),
        losses=[np.linspace(2, 1, 20) for _ in runs],
        diverged=stopped,
        located=NeuronMask(torch.rand(4, 250, generator=torch.Generator().manual_seed(0)) < 0.01),
        rates=Rates(dict.fromkeys(RUNS, 1e-3), {}),
        recipe=recipe_of(1e-3, EPOCHS, 0).settings,
        examples=40,
        data_fingerprint="",
    )


def _without(values: np.ndarray, stopped: Sequence[int | None]) -> np.ndarray:
    gone = [index for index, step in enumerate(stopped) if step is not None]
    values = values.copy()
    values[gone, 1:] = np.nan
    return values
