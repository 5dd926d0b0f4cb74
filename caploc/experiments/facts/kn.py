"""KN on the prompts of a study (section 2.1): located sets under every cut, and halves averaged over many prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from caploc.examples import TokenizedExample
from caploc.experiments.facts.fact_set import FactSet
from caploc.experiments.facts.sets import LocatedSets
from caploc.experiments.study import Study
from caploc.locators.knowledge_neurons import Cut, example_scores
from caploc.metrics import overlap
from caploc.statistics import random_sides

DEFAULT = "threshold 0.2"
CUTS: Mapping[str, Cut] = MappingProxyType(
    {
        DEFAULT: Cut(),
        "threshold 0.1": Cut(0.1),
        "threshold 0.3": Cut(0.3),
        "top 15": Cut(top_k=15),
    }
)
"""The cut that verdicts rest on, and those that show how much hangs on it (ambiguity ``kn-threshold``)."""

HALVES = 20


@dataclass(frozen=True, eq=False)
class KnowledgeNeurons:
    """What KN locates for each prompt, by cut; ``halves [HALVES]``: the overlap of what is located by the mean scores
    of two random halves of the known facts, each in its original wording, ``half`` facts in each."""

    sets: Mapping[str, LocatedSets]
    halves: np.ndarray
    half: int

    @property
    def default(self) -> LocatedSets:
        return self.sets[DEFAULT]


def knowledge_neurons(study: Study, facts: FactSet, control: str = "") -> KnowledgeNeurons:
    """KN for every prompt of ``facts``, made once; ``control`` "" or "untrained", as in ``Study``."""
    return study.once(("kn", facts.data_fingerprint, control), lambda: _located(study, facts, control))


def _located(study: Study, facts: FactSet, control: str) -> KnowledgeNeurons:
    lm, settings = study.model_for(control), study.settings
    averaged = {int(facts.first[one]): number for number, one in enumerate(np.flatnonzero(facts.known))}
    sides = random_sides(len(averaged), HALVES, settings.seed)
    sums = np.zeros((HALVES, 2, lm.num_layers * lm.num_neurons))
    places: dict[str, list[np.ndarray]] = {name: [] for name in CUTS}
    for index, scores in enumerate(example_scores(lm, facts.prompts, settings.attribution, settings.store)):
        for name, cut in CUTS.items():
            places[name].append(cut.locate(scores.values).values.numpy(force=True).ravel().nonzero()[0])
        if index in averaged:
            values = scores.values.double().numpy(force=True).ravel()
            for draw, side in enumerate(sides[:, averaged[index]]):
                sums[draw, side] += values
    strata = np.repeat(np.arange(lm.num_layers), lm.num_neurons)
    return KnowledgeNeurons(
        {name: LocatedSets.of_places(found, len(strata), strata) for name, found in places.items()},
        np.array([_halves_overlap(pair, lm.num_layers) for pair in sums]),
        len(averaged) // 2,
    )


def located_everywhere(
    study: Study, prompts: Sequence[TokenizedExample], cut: Cut = CUTS[DEFAULT]
) -> LocatedSets:
    """KN for a few further prompts, such as unrelated text."""
    lm, settings = study.model_for(), study.settings
    scores = example_scores(lm, prompts, settings.attribution, settings.store)
    return LocatedSets.of_masks((cut.locate(one.values) for one in scores), lm.num_layers, lm.num_neurons)


def _halves_overlap(sums: np.ndarray, layers: int) -> float:
    first, second = (CUTS[DEFAULT].locate(torch.from_numpy(half.reshape(layers, -1))) for half in sums)
    return overlap(first, second)
