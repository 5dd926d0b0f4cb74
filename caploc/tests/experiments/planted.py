"""A study without a model: scores with known neurons planted in them, for experiments whose answer is then known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caploc.examples import Example, Exclusion, TokenizedExample
from caploc.experiments.evidence import assemble
from caploc.experiments.locating import Scores, ShardSums
from caploc.experiments.specs import Spec
from caploc.experiments.study import TWINS, Experiment, Located, NotRunError, Study, StudySettings
from caploc.findings import Cell, Finding, Verdict
from caploc.neurons import ScoreSums
from caploc.papers import load_paper
from caploc.rules import judge

LAYERS, NEURONS = 4, 250
CONTROLS = (*TWINS, "scrambled")
PAPER = load_paper("capability_localization")


def judged(experiment: Experiment, study: Study, cell: Cell, claim_id: str) -> tuple[Finding, Verdict]:
    """What an experiment finds on a claim in a cell, which must be complete and strict JSON, and the verdict on it."""
    claim = PAPER.claim(claim_id)
    finding = assemble(claim, cell, experiment(study, cell, claim), [study])
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(claim, finding)


def sums_of(scores: np.ndarray, size: int = 1) -> ShardSums:
    """Shards of ``size`` neighbours (the last may be smaller) from ``scores [examples, layers, neurons]``."""
    count, layers = scores.shape[:2]
    members = tuple(tuple(range(begin, min(begin + size, count))) for begin in range(0, count, size))
    one = np.ones(layers)
    parts = [
        ScoreSums(
            scores[list(shard)].sum(0),
            (scores[list(shard)] ** 2).sum(0),
            0.25 * len(shard) * one,
            0.5 * len(shard) * one,
            20.0 * len(shard) * one,
            len(shard),
        )
        for shard in members
    ]
    return ShardSums(
        np.stack([part.total.ravel() for part in parts]),
        np.array([part.count for part in parts]),
        members,
        ScoreSums.merge(parts),
    )


def noise(seed: int, examples: int, scale: float = 1.0) -> np.ndarray:
    """Scores in which nothing is located but by accident."""
    return scale * np.random.default_rng(seed).normal(size=(examples, LAYERS, NEURONS))


def planted(
    seed: int,
    examples: int,
    neurons: Sequence[tuple[int, int]],
    scale: float = 0.1,
    level: float = 1.0,
) -> np.ndarray:
    """Noise with the same (layer, neuron)s raised to ``level`` in every example."""
    scores = noise(seed, examples, scale)
    for layer, neuron in neurons:
        scores[:, layer, neuron] += level
    return scores


class PlantedStudy(Study):
    """``data`` maps (dataset, control) to scores ``[examples, layers, neurons]``, made shards of ``size``, or to
    shards; ``answers`` a dataset to its answers, ``results`` further specs to what they give.

    There is no model behind it: what would ask for one is answered here.
    """

    def __init__(
        self,
        data: Mapping[tuple[str, str], np.ndarray | ShardSums],
        answers: Mapping[str, Sequence[str]] | None = None,
        size: int = 1,
        results: Mapping[Spec[Any], Any] | None = None,
        **settings: Any,
    ) -> None:
        names = list(dict.fromkeys(name for name, _ in data))
        self._planted = {
            Scores(*key): one if isinstance(one, ShardSums) else sums_of(one, size)
            for key, one in data.items()
        }
        asked = {"draws": 40, "margins": PAPER.margins, **settings}
        super().__init__(
            "planted", StudySettings(datasets=names, **asked), results={**self._planted, **(results or {})}
        )
        self._answers = answers or {}
        self.excluded: dict[str, list[Exclusion]] = {}

    def located(self, dataset: str) -> Located:
        if Scores(dataset) not in self._planted:
            raise NotRunError(f"{dataset} cannot be had here; give it")
        count = self._planted[Scores(dataset)].whole.count
        answers = self._answers.get(dataset) or [f" {index % 3}" for index in range(count)]
        lengths = np.random.default_rng(0).permutation(count) + 2
        examples = [Example(f"{index:04d}", "?", answer) for index, answer in enumerate(answers)]
        tokenized = [
            TokenizedExample(torch.zeros(length + 1, dtype=torch.long), int(length), example.id)
            for example, length in zip(examples, lengths, strict=True)
        ]
        return Located(dataset, examples, tokenized, self.excluded.get(dataset, []))

    @property
    def record(self) -> dict[str, Any]:
        return {"seed": self.settings.seed}


# Every neuron at its own level, so that which ones pass varies and the overlap lies well below 1.
WEAK = np.random.default_rng(12).gamma(0.3, 0.5, size=(LAYERS, NEURONS))


def exchangeable(seed: int, examples: int = 24) -> np.ndarray:
    """Examples of one population: any two sets of them are exchangeable."""
    return WEAK + noise(seed, examples, scale=1.5)
