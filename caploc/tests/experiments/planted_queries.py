"""Facts in several wordings whose located sets are planted: by fact, by last token, by wording, and by chance."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from caploc.examples import Example, TokenizedExample
from caploc.experiments.evidence import assemble
from caploc.experiments.facts import Fact, FactSet
from caploc.experiments.locating_facts import LocatedFacts, LocatedSets
from caploc.experiments.study import Study, StudySettings
from caploc.experiments.wordings import Queries, query_facts
from caploc.findings import Cell, Finding, Measurement, Verdict
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.tests.experiments.planted_facts import locations_of

PAPER = load_paper("query_localization")
CELL = Cell("tiny-llama", "pararel")
PLACES = 240


@dataclass(frozen=True)
class World:
    """How facts are asked, and by how much their located sets go with what.

    Each relation has ``tokens`` last tokens in ``forms`` templates each; a fact is asked in ``each`` of them a token.
    """

    fact: float = 1.0
    last: float = 0.0
    wording: float = 0.0
    noise: float = 0.7
    relations: int = 3
    subjects: int = 14
    answers: int = 7
    tokens: int = 2
    forms: int = 4
    each: int = 2
    size: int = 12

    def facts(self, seed: int = 0) -> FactSet:
        generator = np.random.default_rng([seed, 1])
        facts, prompts = [], []
        for relation in range(self.relations):
            for number in range(self.subjects):
                subject = f"Sub{relation}x{number}"
                answer = f" answer {relation} {number % self.answers}"
                asked = [
                    (token, form)
                    for token in range(self.tokens)
                    for form in sorted(generator.choice(self.forms, self.each, replace=False).tolist())
                ]
                examples = [
                    Example(f"{relation}-{number}-{token}-{form}", f"{subject}: {relation} form {form} ends {token}",
                            answer, f"{relation}:{number}", subject)
                    for token, form in asked
                ]  # fmt: skip
                facts.append(Fact(f"{relation}:{number}", tuple(examples)))
                prompts += [
                    TokenizedExample(torch.tensor([relation, number, form, token, 9]), 4, example.id)
                    for (token, form), example in zip(asked, examples, strict=True)
                ]
        index = np.repeat(np.arange(len(facts)), self.tokens * self.each)
        return FactSet("pararel", facts, prompts, index, np.ones(len(index), int), np.full(len(index), -0.1))

    def scores(self, facts: FactSet, seed: int) -> np.ndarray:
        """``[P, PLACES]``"""
        generator = np.random.default_rng([seed, 2])
        queries = Queries.of(facts, LocatedSets.of_places([[]] * len(facts.prompts), PLACES))
        token = np.unique(np.stack([queries.relation, queries.last]), axis=1, return_inverse=True)[1].ravel()

        def effect(groups: np.ndarray) -> np.ndarray:
            return generator.standard_normal((int(groups.max()) + 1, PLACES))[groups]

        every = np.arange(len(facts.prompts))
        parts = (
            (self.fact, facts.fact),
            (self.last, token),
            (self.wording, queries.template),
            (self.noise, every),
        )
        return np.sum([size * effect(groups) for size, groups in parts], axis=0)

    def queries(self, seed: int = 0) -> Queries:
        facts = self.facts(seed)
        top = np.argsort(-self.scores(facts, seed), axis=1)[:, : self.size]
        return Queries.of(facts, LocatedSets.of_places(top, PLACES))


def settings_of(**settings: Any) -> StudySettings:
    return StudySettings(**{"margins": PAPER.margins, **settings})


def study_of(queries: Queries, results: Mapping[Any, Any] | None = None, **settings: Any) -> Study:
    """A study that has located these sets, by every cut alike."""
    spec = query_facts("pararel")
    located = {spec: queries.facts, LocatedFacts("kn", spec): locations_of(queries.sets)}
    return Study("planted", settings_of(**settings), results={**located, **(results or {})})


def judged(claim: str, measurement: Measurement) -> tuple[Finding, Verdict]:
    """The finding, which must be strict JSON, and its verdict."""
    entry = PAPER.claim(claim)
    finding = assemble(entry, CELL, measurement)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(entry, finding)


def run(experiment: Callable[..., Measurement], claim: str, study: Study) -> tuple[Finding, Verdict]:
    return judged(claim, experiment(study, CELL, PAPER.claim(claim)))
