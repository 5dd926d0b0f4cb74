"""Locating single facts: what a method finds for every prompt of a fact set, each by itself, under every cut.

``LocatedFacts("kn", facts)`` names it, of any method in ``caploc.LOCATORS``. What a method measures on a prompt is an
entry of the store, so that a run resumes and processes share the work; every cut is made from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from caploc.errors import ModelError
from caploc.experiments.facts import FactSet, passes_flops
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.specs import NotRunError, Spec, Task
from caploc.experiments.study import Study
from caploc.locators import LOCATORS
from caploc.locators.method import Arrays, Asked, Conditions, FactMethod
from caploc.statistics import random_sides
from caploc.store import Entry

PASSES: Mapping[str, float] = MappingProxyType({"kn": 60.0, "rome": 150.0, "kc": 300.0})
"""Roughly how many forward passes of a prompt its location costs, by method; ``OTHER_PASSES`` by any other."""
OTHER_PASSES = 100.0
HALVES = 20
"""Random halves of the facts whose mean scores are compared."""


@dataclass(frozen=True, eq=False)
class FactLocations:
    """What a method located for P prompts.

    Attributes:
        sets: by the cut that verdicts rest on, whose name is ``cut``.
        variants: by the other cuts, which show how much hangs on it.
        share: ``[P]`` of the model's parameters in the located places.
        numbers: what the method measured that is one number a prompt, ``[P]`` each, such as the answer's probability.
        settings: how the method measures and cuts.
    """

    sets: LocatedSets
    cut: str
    variants: Mapping[str, LocatedSets]
    share: np.ndarray
    numbers: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]

    @property
    def by_cut(self) -> dict[str, LocatedSets]:
        """All sets, those that decide first."""
        return {self.cut: self.sets, **self.variants}


@dataclass(frozen=True)
class LocatedFacts(Spec[FactLocations]):
    """What ``method`` locates for every prompt of ``facts``, under a control (`caploc.experiments.study.Study`).

    NotRunError: the method cannot be applied to the model. Raises what ``facts`` raises, too.
    """

    method: str
    facts: Spec[FactSet]
    control: str = ""

    @property
    def title(self) -> str:
        return f"{self.method} on facts {self.control}".strip()

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield self.facts

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, method, lm = study.result(self.facts), self.method_of(study), study.named(self.control)
        try:
            method.check(lm)
        except ModelError as error:
            raise NotRunError(str(error)) from error
        for tokens, example in zip(facts.prompts, facts.examples, strict=True):
            asked = Asked(tokens, example)
            yield Task(method.key(lm, asked), self._computing(study, method, asked))

    def read(self, study: Study, entries: Iterator[Entry]) -> FactLocations:
        method, lm = self.method_of(study), study.named(self.control)
        places: dict[str, list[np.ndarray]] = {}
        shares: list[float] = []
        numbers: dict[str, list[float]] = {}
        strata = np.zeros(0, np.int64)
        for entry in entries:
            cuts = method.cuts(lm, entry.arrays)
            for name, one in cuts.items():
                places.setdefault(name, []).append(one.values.numpy(force=True).ravel().nonzero()[0])
            decides = next(iter(cuts.values()))
            shares.append(decides.parameter_share(lm))
            for name, values in entry.arrays.items():
                if values.ndim == 0:
                    numbers.setdefault(name, []).append(float(values))
            if not len(strata):
                strata = decides.strata
        sets = {name: LocatedSets.of_places(found, len(strata), strata) for name, found in places.items()}
        cut = next(iter(sets))
        return FactLocations(
            sets.pop(cut),
            cut,
            sets,
            np.array(shares),
            {name: np.array(values) for name, values in numbers.items()},
            method.settings(lm),
        )

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, PASSES.get(self.method, OTHER_PASSES))

    def method_of(self, study: Study) -> FactMethod:
        """The method, with the study's seed and reading of eq. (7)."""
        return LOCATORS[self.method].on_facts(Conditions(study.settings.seed, study.settings.attribution))

    def _computing(
        self, study: Study, method: FactMethod, asked: Asked
    ) -> Callable[[], tuple[Arrays, Mapping[str, Any]]]:
        def compute() -> tuple[Arrays, Mapping[str, Any]]:
            measure = study.hold(method, self.control, method.measuring)
            return measure(asked), {"example": asked.tokens.id}

        return compute


@dataclass(frozen=True, eq=False)
class AveragedHalves:
    """``overlap [HALVES]`` of what is located by the mean scores of two random halves of the known facts, each in its
    original wording, with ``facts`` in each half."""

    overlap: np.ndarray
    facts: int


@dataclass(frozen=True)
class LocatedHalves(Spec[AveragedHalves]):
    """What averaging alone does to an overlap: the method's cut on scores summed over each half of the known facts.

    Of methods whose measurements are scores, ``values``.
    """

    located: LocatedFacts

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield self.located

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, tasks = study.result(self.located.facts), study.tasks(self.located)
        yield from (tasks[index] for index in facts.first[facts.known])

    def read(self, study: Study, entries: Iterator[Entry]) -> AveragedHalves:
        known = int(study.result(self.located.facts).known.sum())
        method, lm = self.located.method_of(study), study.named(self.located.control)
        sides = random_sides(known, HALVES, study.settings.seed)
        sums = np.zeros((HALVES, 2, lm.num_layers, lm.num_neurons))
        for number, entry in enumerate(entries):
            values = entry.arrays["values"].astype(np.float64)
            for draw, side in enumerate(sides[:, number]):
                sums[draw, side] += values
        overlaps = []
        for pair in sums:
            first, second = (next(iter(method.cuts(lm, {"values": half}).values())) for half in pair)
            overlaps.append(first.overlap(second))
        return AveragedHalves(np.array(overlaps), known // 2)
