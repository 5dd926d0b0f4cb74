"""How fast each arm is trained: at the printed rate, or where that hardly moves a model, at the arm's own best.

The paper's 1e-5 (section 5.4) is meant for billions of parameters. A model below ``SMALL`` gets a rate of ``GRID``,
by a rule that favours no arm: a pilot at every rate, of the arm's first set and seed, without every fourth of the
locating examples, whose loss after the last epoch decides. It is as long as the runs: a short one would hand slow
learners, such as small neurons, a rate at which they overfit later. Evaluation items take no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caploc.examples import TokenizedExample
from caploc.experiments.enhancement.arms import KINDS, LOCATED, Arm
from caploc.experiments.enhancement.keys import key_of
from caploc.experiments.study import Study
from caploc.interventions.enhancement import Recipe, enhance
from caploc.store import Compute

PRINTED_RATE = 1e-5
SMALL = 100_000_000
"""Parameters."""
GRID = (1e-4, 3e-4, 1e-3, 3e-3)
BATCH_SIZE = 8
"""Not printed; small, so that few examples are many steps."""
HELD_OUT_EVERY = 4


@dataclass(frozen=True)
class Rates:
    """``chosen``: arm -> learning rate. ``pilots``: arm -> for each rate of ``GRID`` the held-out loss in nats a token,
    infinite where it diverged; empty where the printed rate was taken untried. ``printed``: the loss of the located
    arm at the printed rate, None there."""

    chosen: Mapping[str, float]
    pilots: Mapping[str, Sequence[float]]
    printed: float | None = None


def rates_of(
    study: Study, examples: Sequence[TokenizedExample], trained: int, arms: Mapping[str, Arm], epochs: int
) -> Rates:
    """The rate of every arm that trains for ``epochs`` on the first ``trained`` of the locating ``examples``."""
    if study.model_for().num_parameters >= SMALL:
        return Rates(dict.fromkeys(KINDS, PRINTED_RATE), {})
    kinds = list(dict.fromkeys(KINDS.values()))
    tried = [(kind, rate) for kind in kinds for rate in GRID]
    tasks = [
        _pilot(study, examples, trained, arms[kind], recipe_of(rate, (epochs,), study.settings.seed))
        for kind, rate in [*tried, (LOCATED, PRINTED_RATE)]
    ]
    title = f"learning rates of {study.model}"
    found = [
        float(entry.arrays["held_out"]) for entry in study.settings.store.compute_all(tasks, progress=title)
    ]
    losses: dict[str, list[float]] = {kind: [] for kind in kinds}
    for (kind, _), loss in zip(tried, found[:-1], strict=True):
        losses[kind].append(loss)
    best = {kind: best_rate(some) for kind, some in losses.items()}
    return Rates({arm: best[KINDS[arm]] for arm in KINDS}, losses, found[-1])


def recipe_of(rate: float, keep: tuple[int, ...], seed: int) -> Recipe:
    """How a run is trained: for as long as its last epoch of ``keep``."""
    return Recipe(lr=rate, epochs=keep[-1], batch_size=BATCH_SIZE, seed=seed, keep=keep)


def best_rate(losses: Sequence[float]) -> float:
    """The rate of ``GRID`` with the lowest loss, of equals the lowest rate."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return GRID[finite.index(min(finite))]


def _pilot(
    study: Study, examples: Sequence[TokenizedExample], trained: int, arm: Arm, recipe: Recipe
) -> tuple[str, Compute]:
    held_out = examples[::HELD_OUT_EVERY]
    training = [one for index, one in enumerate(examples[:trained]) if index % HELD_OUT_EVERY]
    mask = arm.sets[0]

    def compute() -> tuple[Mapping[str, np.ndarray], Mapping[str, object]]:
        found = enhance(study.model_for(), mask, training, recipe, held_out=held_out, zeroed=arm.zeroed)
        last = found.held_out[recipe.epochs] if found.diverged is None else math.inf
        return {"held_out": np.array(last)}, {}

    key = key_of(study, "enhancement pilot", mask, arm.zeroed, recipe, training=training, held_out=held_out)
    return key, compute
