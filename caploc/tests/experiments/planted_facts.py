"""Studies of facts without a model: what is located, or what scaling does, is planted, so that the verdict is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caploc.examples import Example, TokenizedExample, tokenize
from caploc.experiments.evidence import assemble
from caploc.experiments.facts import Fact, FactSet, FirstFacts, Known, facts_of
from caploc.experiments.locating_facts import (
    AveragedHalves,
    FactLocations,
    LocatedFacts,
    LocatedHalves,
    LocatedSets,
)
from caploc.experiments.scaled_facts import ARMS, LARGEST, Scaled, ScaledFacts
from caploc.experiments.specs import Spec
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Finding, Measurement, Part, Verdict
from caploc.locators.knowledge_neurons import CUTS
from caploc.model.loading import LanguageModel, wrap
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.tests.attribution.families import CONFIGS, make_model
from caploc.tests.tiny import tokenizer

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


def real_facts(
    lm: LanguageModel, count: int, texts: tuple[str, ...] = ("{} is in", "where is {}?")
) -> FactSet:
    """Facts that are tokenized for ``lm`` and counted as known."""
    facts = []
    for number in range(count):
        subject = f"rome{number}"
        examples = [
            Example(f"{number}-{place}", text.format(subject), " it", str(number), subject)
            for place, text in enumerate(texts)
        ]
        facts.append(Fact(str(number), tuple(examples)))
    prompts = [tokenize(lm, example) for fact in facts for example in fact.wordings]
    index = np.repeat(np.arange(count), len(texts))
    return FactSet("counterfact", facts, prompts, index, np.ones(len(index), int), np.full(len(index), -1.0))


def small_model(family: str, layers: int = 5) -> LanguageModel:
    return wrap(
        f"small-{family}", make_model(CONFIGS[family](layers, 4, 2, 5), torch.float32, 0), tokenizer()
    )


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


def locations_of(
    sets: LocatedSets,
    cuts: Sequence[str] = tuple(CUTS),
    share: float | np.ndarray | None = None,
    numbers: Mapping[str, np.ndarray] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> FactLocations:
    """The same ``sets`` by every cut. A place is one parameter of 10,000 unless ``share`` says otherwise."""
    decides, *others = cuts
    shares = sets.counts / 10_000 if share is None else np.broadcast_to(share, len(sets))
    return FactLocations(sets, decides, dict.fromkeys(others, sets), shares, numbers or {}, settings or {})


def settings_of(**settings: Any) -> StudySettings:
    """A study's settings with the paper's margins."""
    return StudySettings(**{"margins": PAPER.margins, **settings})


def planted_study(results: Mapping[Spec[Any], Any], **settings: Any) -> Study:
    return Study("planted", settings_of(**settings), results=results)


def located_study(facts: FactSet, sets: LocatedSets, untrained: int = 12, **settings: Any) -> Study:
    """A study of KN's fidelity, the untrained twin's sets being the model's own."""
    spec = Known(facts_of(facts.dataset))
    own, twin = LocatedFacts("kn", spec), LocatedFacts("kn", FirstFacts(spec, untrained), "untrained")
    first = np.arange(len(facts.head(untrained).prompts))
    halves = AveragedHalves(np.array([0.9, 0.8]), 20)
    return planted_study(
        {
            facts_of(facts.dataset): facts,
            own: locations_of(sets),
            twin: locations_of(sets[first]),
            LocatedHalves(own): halves,
            LocatedHalves(twin): halves,
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


def scaled_study(scaled: Scaled, dataset: str = "zsre", **settings: Any) -> Study:
    spec = facts_of(dataset, 1)
    facts = fact_set(len(scaled), 1, dataset)
    return planted_study(
        {spec: facts, ScaledFacts(spec): scaled, ScaledFacts(Known(spec)): scaled}, **settings
    )


def run(
    experiment: Callable[..., Measurement],
    study: Study,
    claim: str,
    model: str = "tiny-llama",
    dataset: str = "counterfact",
) -> tuple[Finding, Verdict]:
    """The finding, which must be complete and strict JSON, and its verdict."""
    cell, entry = Cell(model, dataset), PAPER.claim(claim)
    finding = assemble(entry, cell, experiment(study, cell, entry))
    assert (finding.claim, finding.cell) == (claim, cell)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(entry, finding)


def aside(found: Measurement, name: str) -> float:
    """What stands beside under a name: a number, or the estimate of one with an interval, or its p value."""
    one = found.asides[name]
    if not isinstance(one, Part):
        return one
    number = one.p if one.estimate is None else one.estimate
    assert number is not None
    return number


def ends(one: object) -> tuple[float, float]:
    """The interval of a part or an aside, which has one."""
    assert isinstance(one, Part) and one.interval is not None
    return one.interval


def estimate(one: Part | None) -> float:
    """The estimate of a part, which has one."""
    assert one is not None and one.estimate is not None
    return one.estimate
