"""The pairs of section 4.1, one sum to be computed and to be programmed, and what KN locates for either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from caploc.experiments.facts.kn import DEFAULT, knowledge_neurons, located_everywhere

from caploc.datasets import load_examples
from caploc.datasets.base import digest
from caploc.errors import UnavailableDatasetError
from caploc.examples import Example
from caploc.experiments import facts as fact_set
from caploc.experiments.facts import Fact, FactSet, facts_of, require_known
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study

TASKS = ("result", "program")
UNTRAINED_PAIRS = 12
UNRELATED = "zsre"
UNRELATED_PROMPTS = 16


@dataclass(frozen=True, eq=False)
class Located:
    """What is located for n pairs: ``sets[task]`` has n sets each, of the same sums in the same order."""

    facts: FactSet
    sets: tuple[LocatedSets, LocatedSets]
    variants: Mapping[str, tuple[LocatedSets, LocatedSets]]

    def __len__(self) -> int:
        return len(self.sets[0])


def pairs_of(study: Study, dataset: str) -> FactSet:
    """The study's pairs, known where the model does both tasks; raises NotRunError."""

    def make() -> FactSet | NotRunError:
        try:
            examples = load_examples(dataset, study.source(dataset), "locate")
        except UnavailableDatasetError as error:
            return NotRunError(str(error))
        groups: dict[str, list[Example]] = {}
        for example in examples:
            groups.setdefault(example.group or example.id, []).append(example)
        pairs = [Fact(name, tuple(members)) for name, members in groups.items() if len(members) == len(TASKS)]
        pairs.sort(key=lambda pair: digest(str(study.settings.seed), pair.id))
        try:
            return fact_set(study, dataset, pairs, len(TASKS), all_wordings=True)
        except NotRunError as error:
            return error

    found = study.once(("pairs", dataset), make)
    if isinstance(found, NotRunError):
        raise found
    return found


def located_of(study: Study, dataset: str) -> Located:
    """What is located for the known pairs. Raises NotRunError, and FloorError where it is nothing."""
    facts = require_known(pairs_of(study, dataset))
    found = _both(facts, knowledge_neurons(study, facts).sets, facts.known)
    empty = int(sum((sets.counts == 0).sum() for sets in found[DEFAULT]))
    if empty > int(facts.known.sum()):
        raise FloorError(
            f"floor effect: KN locates nothing for {empty} of {2 * int(facts.known.sum())} prompts"
        )
    return Located(facts, found[DEFAULT], {name: sets for name, sets in found.items() if name != DEFAULT})


def untrained_of(study: Study, located: Located) -> tuple[LocatedSets, LocatedSets]:
    """The same in the untrained twin, for the first pairs."""
    few = located.facts.head(UNTRAINED_PAIRS)
    return _both(few, knowledge_neurons(study, few, "untrained").sets, few.known)[DEFAULT]


def unrelated_of(study: Study) -> LocatedSets | None:
    """What is located for prompts of unrelated text, facts asked for in words; None where they cannot be had."""
    try:
        facts = facts_of(study, UNRELATED, wordings=1)
    except NotRunError:
        return None
    return located_everywhere(study, facts.head(UNRELATED_PROMPTS).prompts)


def _both(
    facts: FactSet, sets: Mapping[str, LocatedSets], chosen: np.ndarray
) -> dict[str, tuple[LocatedSets, LocatedSets]]:
    first = facts.first[chosen]
    return {name: (one[first], one[first + 1]) for name, one in sets.items()}
