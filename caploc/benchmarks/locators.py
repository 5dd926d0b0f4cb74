"""The locators benchmark: who finds planted neurons? Every locator on the zoo's models, whose localization is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from caploc.benchmarks import Options
from caploc.benchmarks.tables import Table, Value
from caploc.check.contract import Trial, attempt, calls
from caploc.check.isolation import in_children
from caploc.check.judging import agreement
from caploc.check.running import loaded, stopped
from caploc.examples import Example, tokenize
from caploc.locators import LOCATORS, Locator
from caploc.locators.method import Asked, Conditions, measured
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.zoo import KINDS, ZooModel, zoo_names

MEASURED = (
    "AUC",
    "AP",
    "precision at |M|",
    "precision",
    "recall",
    "decoys found",
    "false discoveries",
    "CPU s",
)


@dataclass(frozen=True)
class Entrant:
    """A locator with options, as the table names it."""

    key: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its key, and the options that are not its own."""
        return " ".join([self.key, *(f"{name} {value:g}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Sizes:
    """``models`` of each kind, evenly spread over all of it, for each of ``entrants`` (None: all locators, CNL at two
    thresholds); a call may take ``timeout`` seconds."""

    models: int
    entrants: tuple[Entrant, ...] | None = None
    timeout: float = 600.0

    @property
    def everyone(self) -> tuple[Entrant, ...]:
        """The entrants."""
        every = (Entrant("cnl", {"sigma": 3.0}), *(Entrant(key) for key in LOCATORS))
        return every if self.entrants is None else self.entrants


FULL = Sizes(3)
QUICK = Sizes(1, (Entrant("layer-outliers"), Entrant("random")))


def measure_planted(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One table: a row for each locator and kind of model, means over its models."""
    names = {kind: spread(zoo_names(kind), sizes.models) for kind in KINDS}
    zoo = loaded([name for of_kind in names.values() for name in of_kind])
    notes = [
        "models: " + "; ".join(f"{kind}: {', '.join(some)}" for kind, some in names.items() if some),
        "what the columns mean: python -m caploc.check --help; a column is empty where a locator gives no ranking, no "
        "set, or the models have no such neurons",
        "each locator as its key calls it, at its own threshold; CPU s: of one call on all examples, in a child with "
        "one thread",
        "methods whose places are layers or edges rank layers, by means over examples, as in the audit",
    ]
    table = Table("planted", "Who finds planted neurons? Means over models", notes=notes)
    for entrant in tqdm(sizes.everyone, desc="locators", unit="locator", disable=None, leave=False):
        trials = tried_once(entrant, zoo, sizes.timeout)
        for kind in KINDS:
            own = [model for model in zoo if model.kind == kind]
            table.rows += _row(entrant, kind, [(model, trials[model.name]) for model in own])
        failed = {name: next(iter(one.failures.items())) for name, one in trials.items() if one.main is None}
        if failed:
            name, (duty, reason) = next(iter(failed.items()))
            table.notes.append(
                f"{entrant.name} failed on {len(failed)} of {len(zoo)} models, the first {name} ({duty}: {reason})"
            )
    yield table


def tried_once(entrant: Entrant, zoo: Sequence[ZooModel], timeout: float) -> dict[str, Trial]:
    """One call on all examples of each model, one model at a time, so that nothing disturbs its time."""
    locator = LOCATORS[entrant.key]
    locate = locator if locator.places is NeuronMask else partial(by_layers, locator)
    jobs = []
    for model in zoo:
        planned = {"all examples": calls(model, repeat=False)["all examples"]}
        jobs.append((model.name, partial(attempt, locate, model, entrant.options, planned)))
    results = in_children(jobs, 1, timeout)
    return {name: one if isinstance(one, Trial) else stopped(one) for name, one in results}


def by_layers(locator: Locator, lm: LanguageModel, examples: Sequence[Example]) -> Tensor:
    """``[layers, neurons]`` the rank of each neuron's layer by a method that names no neurons."""
    measure = locator.on_samples(Conditions())
    measure.check(lm)
    asked = [Asked(tokenize(lm, example), example) for example in examples]
    means = np.mean([measure.evidence(lm, arrays) for arrays in measured(measure, lm, asked)], axis=0)
    (ranks,) = measure.rank(lm, means[None])
    return torch.from_numpy(np.repeat(ranks[:, None], lm.num_neurons, 1))


def _row(entrant: Entrant, kind: str, trials: Sequence[tuple[ZooModel, Trial]]) -> list[dict[str, Value]]:
    found = [agreement(model, trial) for model, trial in trials]
    if not found:
        return []
    row: dict[str, Value] = {"locator": entrant.name, "kind": kind, "models": len(found)}
    for name in MEASURED:
        values = [one[name] for one in found if name in one]
        row[name] = float(np.mean(values)) if values else None
    return [row]


def spread(names: Sequence[str], count: int) -> list[str]:
    """``count`` of the names, or all if they are fewer, evenly spread from the first to the last."""
    places = np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)
    return [names[place] for place in dict.fromkeys(places.tolist())]
