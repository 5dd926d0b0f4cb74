"""What is trained in section 5.4, the neurons of each arm, and how fast: at the printed rate or at the arm's own best.

The paper's 1e-5 (section 5.4) is meant for billions of parameters. A model below ``SMALL`` gets a rate of ``GRID``,
by a rule that favours no arm: a pilot at every rate, of the arm's first set and seed, without every fourth of the
locating examples, whose loss after the last epoch decides. It takes as many epochs and updates as a run, in smaller
batches of fewer examples: a short one would hand slow learners, such as small neurons, a rate at which they overfit
later. Evaluation items take no part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from caploc import costs
from caploc.errors import OptionError
from caploc.examples import TokenizedExample, fit
from caploc.experiments.erasure_sets import located_anywhere
from caploc.experiments.evaluating import PreparedItems, in_datasets
from caploc.experiments.locating import Magnitudes, Scores, located_mask
from caploc.experiments.specs import FloorError, Spec, Task, key_of
from caploc.experiments.study import PAPER_SIGMA, Study
from caploc.fingerprints import tensor_fingerprint
from caploc.interventions.enhancement import Recipe, enhance
from caploc.locators.magnitude import disjoint_sets
from caploc.neurons import NeuronMask
from caploc.rows.sizing import shape_of
from caploc.store import Entry
from caploc.streams import Stream, derived_seeds

LOCATED, RANDOM, OTHERS = "located", "random", "all but located"
"""The paper's three methods, named as in its tables: ``random`` matched by layer, ``all but located`` with the located
neurons set to zero, as printed."""
FROZEN, UNIFORM, NEAREST = "all but located, frozen", "random, uniform", "nearest in magnitude"
"""What stands beside them: the others trained and the located left as they are, which is fair; random over all layers;
those outside the located that are nearest to them in magnitude."""

METHODS = (LOCATED, RANDOM, OTHERS)
SEEDS = 3
RUNS: Mapping[str, int] = MappingProxyType(
    {LOCATED: SEEDS, RANDOM: 3, OTHERS: 2, FROZEN: 1, UNIFORM: 1, NEAREST: 1}
)
"""Runs of each arm, one of those that only stand beside the paper's methods. Those of one set of neurons differ in the
order of the examples, those of random arms in the set too: draw j has seed j mod ``SEEDS``. With three of each a lead
of 15 points on one dataset, or of 10 on average, is found in more than 80 %, with two seeds it is not (`caploc.power`).
"""
KINDS: Mapping[str, str] = MappingProxyType(
    {LOCATED: LOCATED, RANDOM: RANDOM, OTHERS: OTHERS, FROZEN: OTHERS, UNIFORM: RANDOM, NEAREST: RANDOM}
)
"""Arm -> the arm whose learning rate it takes."""
EPOCHS = (1, 5, 10)
"""After which a run is scored (Table 2); what only stands beside the paper's methods, after the last."""
LAST = EPOCHS[-1]
CPU_EXAMPLES = 96
"""Training examples on a CPU, at most ``--samples``; on a GPU all that locate."""
PILOT_SHARE = 4
"""A pilot trains on a quarter of the examples in batches of a quarter, so that its updates are as many as a run's."""
PRINTED_RATE = 1e-5
SMALL = 100_000_000
"""Parameters."""
GRID = (1e-4, 3e-4, 1e-3, 3e-3)
BATCH_SIZE = 16
"""Not printed; small, so that few examples are many updates."""
HELD_OUT_EVERY = 4


@dataclass(frozen=True)
class Run:
    """One training: an arm, the number of its random set (0 where there is one set only) and the seed of its order."""

    arm: str
    draw: int
    seed: int


@dataclass(frozen=True, eq=False)
class Arm:
    """The sets of neurons that an arm trains, one a draw, and those that are 0 meanwhile and afterwards."""

    sets: tuple[NeuronMask, ...]
    zeroed: NeuronMask | None = None


def runs_of(arm: str, seed: int = 0) -> list[Run]:
    """An arm's runs; ``seed`` is the study's."""
    drawn = KINDS[arm] == RANDOM
    return [
        Run(arm, number if drawn else 0, seed + number % SEEDS if drawn else seed + number)
        for number in range(RUNS[arm])
    ]


def epochs_of(arm: str) -> tuple[int, ...]:
    """After which epochs an arm is scored."""
    return EPOCHS[-1:] if arm in (UNIFORM, NEAREST) else EPOCHS


def trained_at(study: Study, sigma: float) -> tuple[str, ...]:
    """The arms that are trained at a sigma: on a CPU, of those that only stand beside the paper's methods none that is
    random over all layers, and the others at the sigma that has figures alone."""
    if study.settings.device != "cpu":
        return tuple(RUNS)
    return (*METHODS, FROZEN, NEAREST) if study.settings.has_figures(sigma) else METHODS


@dataclass(frozen=True)
class EnhancedArms(Spec[Mapping[str, Arm]]):
    """All arms for what a dataset locates at a sigma; without ``NEAREST`` where more than half of a layer is located.

    FloorError: no neuron passes, or all do, so that there is nothing to train or nothing else.
    """

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Magnitudes(self.dataset)
        yield from map(Scores, dict.fromkeys((self.dataset, *study.available())))

    def read(self, study: Study, entries: Iterator[Entry]) -> Mapping[str, Arm]:
        mask = located_mask(study, self.dataset, self.sigma)
        if mask.count in (0, mask.values.numel()):
            which = "nothing" if not mask.count else "nothing else"
            passes = "no neuron passes" if not mask.count else "every neuron passes"
            raise FloorError(
                f"{which} to train: {passes} sigma {self.sigma:g} on {self.dataset}; take another --sigma"
            )
        seed = derived_seeds(Stream.TRAINED_SETS, study.settings.seed)[0]
        others, everywhere = NeuronMask(~mask.values), located_anywhere(study, self.sigma)
        by_layer, _ = disjoint_sets(mask, everywhere, RUNS[RANDOM], seed)
        uniform, _ = disjoint_sets(mask, everywhere, RUNS[UNIFORM], seed, by_layer=False)
        arms = {
            LOCATED: Arm((mask,)),
            RANDOM: Arm(tuple(map(NeuronMask, by_layer))),
            OTHERS: Arm((others,), mask),
            FROZEN: Arm((others,)),
            UNIFORM: Arm(tuple(map(NeuronMask, uniform))),
        }
        sizes = study.result(Magnitudes(self.dataset))
        with suppress(OptionError):  # so many may be located that the others cannot match them
            arms[NEAREST] = Arm(
                tuple(map(NeuronMask, sizes.random_like(mask, RUNS[NEAREST], seed, apart=everywhere)))
            )
        return arms


@dataclass(frozen=True)
class Rates:
    """``chosen``: arm -> learning rate. ``pilots``: arm -> for each rate of ``GRID`` the held-out loss in nats a token,
    infinite where it diverged; empty where the printed rate was taken untried. ``printed``: the loss of the located
    arm at the printed rate, None there."""

    chosen: Mapping[str, float]
    pilots: Mapping[str, Sequence[float]]
    printed: float | None = None


@dataclass(frozen=True)
class LearningRates(Spec[Rates]):
    """The rate of every arm on a dataset, for all sigmas: found with the sets of the paper's sigma, and with those of
    ``sigma`` where nothing passes that. FloorError: nothing passes ``sigma``."""

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield from (EnhancedArms(self.dataset, self.sigma), EnhancedArms(self.dataset, PAPER_SIGMA))
        yield TrainingExamples(self.dataset)

    def tasks(self, study: Study) -> Iterable[Task]:
        arms = study.result(EnhancedArms(self.dataset, self.sigma))
        if not _tried(study):
            return
        with suppress(FloorError):
            arms = study.result(EnhancedArms(self.dataset, PAPER_SIGMA))
        for kind, rate in [*_pilots(), (LOCATED, PRINTED_RATE)]:
            yield _pilot_task(study, self.dataset, arms[kind], rate)

    def read(self, study: Study, entries: Iterator[Entry]) -> Rates:
        if not _tried(study):
            return Rates(dict.fromkeys(KINDS, PRINTED_RATE), {})
        losses: dict[str, list[float]] = {}
        for kind, _ in _pilots():
            losses.setdefault(kind, []).append(float(next(entries).arrays["held_out"]))
        best = {kind: best_rate(some) for kind, some in losses.items()}
        printed = float(next(entries).arrays["held_out"])
        return Rates({arm: best[KINDS[arm]] for arm in KINDS}, losses, printed)

    def flops(self, study: Study) -> float:
        if not _tried(study):
            return 0.0
        return (1 + len(_pilots())) * training_flops(study, self.dataset, LAST) / PILOT_SHARE


@dataclass(frozen=True)
class TrainingExamples(Spec[Sequence[TokenizedExample]]):
    """What a dataset's arms are trained on: the locating examples, on a CPU up to ``CPU_EXAMPLES`` and further ones of
    the same part of the data where fewer locate. No further one has the prompt of an evaluation item of any dataset."""

    dataset: str

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield from map(PreparedItems, dict.fromkeys((self.dataset, *study.available())))

    def read(self, study: Study, entries: Iterator[Entry]) -> Sequence[TokenizedExample]:
        located, settings = study.located(self.dataset).tokenized, study.settings
        if settings.device != "cpu":
            return located
        wanted = min(settings.samples or CPU_EXAMPLES, CPU_EXAMPLES)
        if wanted <= len(located):
            return located[:wanted]
        taken = {_prompt(one) for one in located}
        for items in in_datasets(study, PreparedItems).values():
            taken |= {_prompt(one.tokens) for one in items.prepared.all_items}
        further: list[TokenizedExample] = []
        for one in fit(study.lm, study.drawn_from(self.dataset, "locate", wanted).examples, limit=2 * wanted)[
            0
        ]:
            if len(located) + len(further) == wanted:
                break
            if (prompt := _prompt(one)) not in taken:
                taken.add(prompt)
                further.append(one)
        return [*located, *further]


def training_examples(study: Study, dataset: str) -> Sequence[TokenizedExample]:
    """`TrainingExamples` of a dataset."""
    return study.result(TrainingExamples(dataset))


def _prompt(example: TokenizedExample) -> tuple[int, ...]:
    return tuple(example.input_ids[: example.answer_start].tolist())


def recipe_of(rate: float, keep: tuple[int, ...], seed: int, batch_size: int = BATCH_SIZE) -> Recipe:
    """How a run is trained: for as long as its last epoch of ``keep``."""
    return Recipe(lr=rate, epochs=keep[-1], batch_size=batch_size, seed=seed, keep=keep)


def best_rate(losses: Sequence[float]) -> float:
    """The rate of ``GRID`` with the lowest loss, of equals the lowest rate."""
    finite = [loss if math.isfinite(loss) else math.inf for loss in losses]
    return GRID[finite.index(min(finite))]


def training_key(
    study: Study,
    what: str,
    mask: NeuronMask,
    zeroed: NeuronMask | None,
    recipe: Recipe,
    further: Mapping[str, Any] | None = None,
    **examples: Sequence[TokenizedExample],
) -> str:
    """The key of a training: by the very neurons, examples (by the part they play) and settings, whatever they are
    called."""
    depends_on = {
        "mask": tensor_fingerprint({"mask": mask.values}),
        "zeroed": tensor_fingerprint({"mask": zeroed.values}) if zeroed is not None else None,
        "recipe": recipe.settings,
        "examples": {name: tokens_of(some) for name, some in examples.items()},
        "further": dict(further or {}),
    }
    return key_of(study, what, depends_on)


def tokens_of(examples: Sequence[TokenizedExample]) -> list[list[int]]:
    """What a training depends on of its examples."""
    return [one.content for one in examples]


def training_flops(study: Study, dataset: str, epochs: int, arm: str = LOCATED) -> float:
    """Of one training of an arm: few neurons have gradients of their own, but where all others are trained."""
    shape, examples = shape_of(study.lm), training_examples(study, dataset)
    tokens = sum(len(one.input_ids) for one in examples)
    read = sum(one.num_answer_tokens for one in examples)
    trained = shape.mlp_parameters if KINDS[arm] == OTHERS else 0.0
    return epochs * costs.training_flops(shape, tokens, read, trained)


def _tried(study: Study) -> bool:
    """Whether the rates are found by pilots."""
    return study.lm.num_parameters < SMALL


def _pilots() -> list[tuple[str, float]]:
    """Whose sets are tried at which rate."""
    return [(kind, rate) for kind in dict.fromkeys(KINDS.values()) for rate in GRID]


def _pilot_task(study: Study, dataset: str, arm: Arm, rate: float) -> Task:
    held_out, every = study.located(dataset).tokenized[::HELD_OUT_EVERY], training_examples(study, dataset)
    training = [one for index, one in enumerate(every) if index % HELD_OUT_EVERY]
    training = training[: max(1, len(every) // PILOT_SHARE)]
    recipe = recipe_of(rate, (LAST,), study.settings.seed, max(1, BATCH_SIZE // PILOT_SHARE))
    key = training_key(
        study, "enhancement pilot", arm.sets[0], arm.zeroed, recipe, training=training, held_out=held_out
    )
    return Task(key, partial(_pilot, study, arm, recipe, training, held_out))


def _pilot(
    study: Study,
    arm: Arm,
    recipe: Recipe,
    training: Sequence[TokenizedExample],
    held_out: Sequence[TokenizedExample],
) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
    found = enhance(study.weights(), arm.sets[0], training, recipe, held_out=held_out, zeroed=arm.zeroed)
    last = found.held_out[recipe.epochs] if found.diverged is None else math.inf
    return {"held_out": np.array(last)}, {}
