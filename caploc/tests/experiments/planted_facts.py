"""Studies of facts without a model: what is located, or what scaling does, is planted, so that the verdict is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caploc.examples import Example, TokenizedExample
from caploc.experiments.fact_methods import CUTS
from caploc.experiments.facts import Fact, FactSet
from caploc.experiments.facts.kn import KnowledgeNeurons
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.scaled_facts import ARMS, LARGEST, Scaled
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Finding, Verdict
from caploc.papers import load_paper
from caploc.rules import judge

LAYERS, NEURONS = 3, 200
PLACES = LAYERS * NEURONS
STRATA = np.repeat(np.arange(LAYERS), NEURONS)
PAPER = load_paper("capability_localization")


def fact_set(
    facts: int,
    wordings: int,
    dataset: str = "counterfact",
    rank: np.ndarray | None = None,
    answers: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    **more: Any,
) -> FactSet:
    """Facts of their own answers and subjects unless given; all known unless ``rank [F * W]`` says otherwise."""
    made, prompts = [], []
    for number in range(facts):
        answer = answers[number] if answers else f" answer {number}"
        subject = subjects[number] if subjects else f"subject {number}"
        examples = [Example(f"{number}-{w}", "?", answer, str(number), subject) for w in range(wordings)]
        made.append(Fact(str(number), tuple(examples)))
        prompts += [
            TokenizedExample(torch.tensor([number, w, 1]), 2, f"{number}-{w}") for w in range(wordings)
        ]
    ranks = np.ones(facts * wordings, int) if rank is None else rank
    index = np.repeat(np.arange(facts), wordings)
    return FactSet(dataset, made, prompts, index, ranks, np.full(len(index), -1.0), **more)


def sets_of(places: Sequence[np.ndarray]) -> LocatedSets:
    return LocatedSets.of_places(places, PLACES, STRATA)


def with_core(cores: Sequence[np.ndarray], members: np.ndarray, size: int, seed: int) -> LocatedSets:
    """Sets of ``size`` places: the core of each set's owner (``members [P]``), and others at random."""
    generator = np.random.default_rng(seed)
    found = []
    for owner in members:
        core = cores[owner]
        others = np.setdiff1d(np.arange(PLACES), core)
        found.append(np.concatenate([core, generator.choice(others, size - len(core), replace=False)]))
    return sets_of(found)


def own_cores(count: int, size: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng([seed, 99])
    return [generator.choice(PLACES, size, replace=False) for _ in range(count)]


def knowledge_neurons_of(sets: LocatedSets) -> KnowledgeNeurons:
    return KnowledgeNeurons(dict.fromkeys(CUTS, sets), np.array([0.9, 0.8]), 20)


class PlantedFacts(Study):
    """A study whose results were made before; ``made`` maps the keys of ``Study.once`` to them."""

    def __init__(self, made: Mapping[Any, Any], **settings: Any) -> None:
        super().__init__("planted", StudySettings(**settings))
        self._made.update(made)

    def record(self, dataset: str | None = None) -> dict[str, Any]:
        return {"seed": self.settings.seed, "dispersion": "std"}


def located_study(facts: FactSet, sets: LocatedSets, untrained: int = 12, **settings: Any) -> PlantedFacts:
    """A study of fidelity, the untrained twin's sets being the model's own."""
    few = facts.head(untrained)
    twin = knowledge_neurons_of(sets[np.arange(len(few.prompts))])
    return PlantedFacts(
        {
            ("facts", facts.dataset, 5): facts,
            ("kn", facts.data_fingerprint, ""): knowledge_neurons_of(sets),
            ("kn", few.data_fingerprint, "untrained"): twin,
        },
        **settings,
    )


def scaled_of(
    located: tuple[np.ndarray, np.ndarray],
    random: tuple[np.ndarray, np.ndarray],
    clean: float = -1.0,
    attribution: np.ndarray | None = None,
) -> Scaled:
    """Changes of log P, doubled and zeroed: ``located [F]`` and, for all other arms, ``random [F, S - 1]``."""
    count = len(located[0])
    change = np.stack(
        [np.concatenate([a[:, None], b], axis=1) for a, b in zip(located, random, strict=True)], axis=1
    )
    sets = np.ones((count, ARMS[LARGEST].stop))
    return Scaled(
        change,
        sets if attribution is None else attribution,
        sets,
        np.full(count, clean),
        np.full(count, 1e-6),
        np.full(count, 10),
        np.arange(count),
        np.ones(count, bool),
    )


def scaled_study(scaled: Scaled, dataset: str = "zsre", **settings: Any) -> PlantedFacts:
    facts = fact_set(len(scaled), 1, dataset)
    return PlantedFacts(
        {("facts", dataset, 1): facts, ("scaled", facts.data_fingerprint): scaled}, **settings
    )


def run(
    experiment: Callable[..., Finding],
    study: Study,
    claim: str,
    model: str = "tiny-llama",
    dataset: str = "counterfact",
    **options: Any,
) -> tuple[Finding, Verdict]:
    """The finding, which must be complete and strict JSON, and its verdict."""
    cell = Cell(model, dataset)
    finding = experiment(study, cell, claim, **options)
    assert (finding.claim, finding.cell) == (claim, cell)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(PAPER.claim(claim), finding)
