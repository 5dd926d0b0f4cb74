"""Outcomes on the datasets trained on, as Table 2 has them: by dataset, and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caploc.experiments.endings import FloorError
from caploc.experiments.enhancement.arms import FROZEN, LOCATED, METHODS, NEAREST, RANDOM, UNIFORM
from caploc.experiments.enhancement.report import LAST, Trained, beside
from caploc.experiments.enhancement.runs import Enhancements
from caploc.statistics import Effect, Pair, above_chance, effect_of
from caploc.statistics import permutation as mcnemar

AVERAGE = "average"


def with_an_ability(trained: Trained) -> tuple[Trained, list[str]]:
    """The datasets on which the base or some method after the last epoch is above chance, and why others are left out:
    where all guess, arms cannot be told apart.

    Raises:
        FloorError: none is left.
    """
    found: dict[str, Enhancements] = {}
    notes: list[str] = []
    for name, one in trained.items():
        means = [one.base_score[name], *(one.of(method, name, LAST).mean(0) for method in METHODS)]
        if any(above_chance(mean, one.chance[name]) for mean in means):
            found[name] = one
        else:
            best = max(float(mean.mean()) for mean in means)
            notes.append(
                f"floor effect: neither the base nor any method is above chance on {name} (at most {best:.1%}, chance "
                f"{one.chance[name]:.1%}), so that arms cannot be told apart".replace("%", " %")
            )
    if not found:
        raise FloorError("; ".join(notes))
    return found, notes


def scores_of(trained: Trained, method: str, epoch: int, seed: int) -> dict[str, Effect]:
    """Scores by dataset and on average, as effects over nothing."""
    pairs = [
        Pair(name, name, one.of(method, name, epoch), np.zeros((1, len(one.base_score[name]))))
        for name, one in trained.items()
    ]
    return with_average(pairs, seed)


def by_dataset(
    trained: Trained, first: str, second: str, seed: int, drawn: bool = False, what: str = "score"
) -> dict[str, Effect]:
    """Two arms after the last epoch, ``first`` minus ``second``, by dataset and on average."""
    return with_average(own_pairs(trained, first, second, LAST, what), seed, drawn)


def with_average(pairs: Sequence[Pair], seed: int, drawn: bool = False) -> dict[str, Effect]:
    """The effect of every pair by its dataset, and of all together."""
    effects = {pair.tested: effect_of([pair], drawn=drawn, seed=seed) for pair in pairs}
    average = effect_of(pairs, drawn=drawn, seed=seed) if len(pairs) > 1 else next(iter(effects.values()))
    return {**effects, AVERAGE: average}


def own_pairs(trained: Trained, first: str, second: str, epoch: int, what: str = "score") -> list[Pair]:
    """Each dataset trained on, tested on itself."""
    return [
        Pair(name, name, one.of(first, name, epoch, what), one.of(second, name, epoch, what))
        for name, one in trained.items()
    ]


def arrays_of(trained: Trained, arm: str) -> list[np.ndarray]:
    """For each dataset ``[runs, epochs, items]``."""
    return [one.score[name][one.required(arm)] for name, one in trained.items()]


def differences_beside(trained: Trained, seed: int) -> dict[str, float]:
    """What located is minus other random neurons, and in nats a token (positive: located has the lower loss)."""
    found: dict[str, float] = {}
    for arm in (NEAREST, UNIFORM):
        if all(one.indices(arm) for one in trained.values()):
            found |= beside(f"minus {arm}", by_dataset(trained, LOCATED, arm, seed))
    losses = by_dataset(trained, RANDOM, LOCATED, seed, what="nll")
    return {**found, **{f"nats a token, {name}": effect.estimate for name, effect in losses.items()}}


def mcnemar_by_seed(trained: Trained, rival: str) -> dict[str, float]:
    """Exact McNemar p for each seed, where scores are right or wrong."""
    found: dict[str, float] = {}
    for name, one in trained.items():
        found |= mcnemar_of(name, one.of(LOCATED, name, LAST), one.of(rival, name, LAST))
    return found


def mcnemar_of(name: str, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Exact McNemar p of ``first [runs, items]`` against ``second``, run by run; none where scores are shares."""
    if not np.isin([*first.flat, *second.flat], (0, 1)).all():
        return {}
    return {
        f"McNemar, {name}, seed {seed}": mcnemar(scores, second[seed % len(second)]).p
        for seed, scores in enumerate(first)
    }


def scores_beside(trained: Trained) -> dict[str, float]:
    """Average scores of every arm after the last epoch, and of the base."""
    arms: Mapping[str, list[float]] = {
        arm: [float(one.of(arm, name, LAST).mean()) for name, one in trained.items() if one.indices(arm)]
        for arm in (*METHODS, FROZEN, UNIFORM, NEAREST)
    }
    found = {arm: float(np.mean(values)) for arm, values in arms.items() if len(values) == len(trained)}
    return {**found, "base": float(np.mean([one.base_score[name].mean() for name, one in trained.items()]))}


def chance_of(trained: Trained) -> float:
    """The score of guessing, on average."""
    return float(np.mean([one.chance[name] for name, one in trained.items()]))


def shares_of(trained: Trained) -> dict[str, float]:
    """What was trained, as a share of all neurons."""
    return {f"share of neurons, {name}": one.located.ratio for name, one in trained.items()}


def after(epoch: int) -> str:
    """A number of epochs in words."""
    return f"after {epoch} epoch{'s' if epoch > 1 else ''}"
