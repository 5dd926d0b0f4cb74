"""Erasures without a model: what every set leaves of the score is planted, so that the verdict is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from caploc.evaluation import SCORINGS
from caploc.experiments.erasure import FEW_NEURONS, LOWER_SIGMA
from caploc.experiments.erasure_sets import (
    FEW_SETS,
    LARGEST,
    LAYER,
    LOCATED,
    MAGNITUDE,
    RANK_ITEMS,
    TWIN,
    UNIFORM,
    Arms,
    Erased,
    ErasedWithLoss,
    Erasures,
    FewErased,
)
from caploc.experiments.evaluating import EvaluationItems, Items
from caploc.experiments.evidence import assemble
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Experiment, Study, StudySettings
from caploc.findings import Cell, Effect, Finding, Verdict
from caploc.papers import load_paper
from caploc.rules import judge

ITEMS, DRAWS, NEURONS = 64, 100, 24
PAPER = load_paper("capability_localization")
LEAST_LOSS = PAPER.margins["least-loss"]


def items_of(dataset: str, score: np.ndarray, chance: float = 0.0) -> EvaluationItems:
    """Items that the untouched model scores so on."""
    prepared = SimpleNamespace(
        chance=chance, settings={"scoring": "planted"}, items=len(score), scoring=SCORINGS["tokens"]
    )
    base = {"score": score, "nll": 1 - score, "exact": score == 1, "ended": np.ones(len(score), bool)}
    clusters = [str(i) for i in range(len(score))]
    return EvaluationItems(dataset, cast(Any, prepared), clusters, base, dataset, LEAST_LOSS)


def kept(share: float, seed: int, draws: int = 1, items: int = ITEMS) -> np.ndarray:
    """``[draws, items]`` right (1) with probability ``share``, else wrong."""
    return (np.random.default_rng([seed, 7]).random((draws, items)) < share).astype(float)


def erasures_of(
    items: EvaluationItems,
    located: np.ndarray,
    random: np.ndarray,
    sigma: float = 6.0,
    others: Sequence[EvaluationItems] = (),
) -> Erasures:
    """``located [items]`` and ``random [draws, items]`` scores; every random arm has the first of these draws, and
    nothing is lost elsewhere."""
    mask = torch.zeros(2, 100, dtype=torch.bool)
    mask[0, :NEURONS] = True
    by_arm = {
        LOCATED: located[None],
        LAYER: random[:FEW_SETS],
        UNIFORM: random[:FEW_SETS],
        MAGNITUDE: random[:FEW_SETS],
        LARGEST: located[None],
        TWIN: random[:1],
    }
    arms = Arms(
        {arm: mask.expand(len(scores), 2, 100) for arm, scores in by_arm.items()},
        {arm: np.ones(len(scores)) for arm, scores in by_arm.items()},
    )
    outcomes = {items.dataset: {arm: _outcomes(scores) for arm, scores in by_arm.items()}}
    for other in others:
        outcomes[other.dataset] = {arm: _outcomes(other.base["score"][None]) for arm in (LOCATED, LAYER)}
    every = {one.dataset: one for one in (items, *others)}
    return Erasures(items.dataset, sigma, arms, every, outcomes, {}, random[:, :RANK_ITEMS])


def _outcomes(score: np.ndarray) -> dict[str, np.ndarray]:
    return {"score": score, "nll": 1 - score, "exact": score == 1, "ended": np.ones(score.shape, bool)}


class PlantedErasures(Study):
    """A study of erasures that were made before, each on the dataset it names."""

    def __init__(
        self, found: Sequence[Erasures], bare: Sequence[EvaluationItems] = (), **settings: Any
    ) -> None:
        items = {one.located_on: one.own for one in found} | {one.dataset: one for one in bare}
        results: dict[Spec[Any], Any] = {Items(name): one for name, one in items.items()}
        for one in found:
            sigma, floor = float(one.sigma), one.own.floor
            results[Erased(one.located_on, sigma)] = one
            results[ErasedWithLoss(one.located_on, sigma)] = FloorError(floor) if floor else one
            results[FewErased(one.located_on, sigma, LOWER_SIGMA, FEW_NEURONS)] = FloorError("enough neurons")
        given = StudySettings(datasets=list(items), margins=PAPER.margins, **settings)
        super().__init__("planted", given, results=results)

    def available(self) -> list[str]:
        return list(self.settings.datasets)

    @property
    def record(self) -> dict[str, Any]:
        return {"seed": self.settings.seed, "dispersion": "std"}


def run(
    experiment: Experiment,
    study: Study,
    claim: str,
    dataset: str | None = None,
    sigma: float | None = 6.0,
    model: str = "planted",
) -> tuple[Finding, Verdict]:
    """The finding, which must be complete and strict JSON, and its verdict."""
    cell = Cell(model, dataset, sigma)
    finding = assemble(PAPER.claim(claim), cell, experiment(study, cell, PAPER.claim(claim)), [study])
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(PAPER.claim(claim), finding)


def effects(finding: Finding) -> Mapping[str, float]:
    """The estimates of the parts."""
    return {name: one.estimate or 0.0 for name, one in finding.measurement.of(Effect).items()}
