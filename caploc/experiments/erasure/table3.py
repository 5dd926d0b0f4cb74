"""The numbers of Table 3: the score untouched, without the located neurons, and without as many random ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.erasure.arms import LAYER, LOCATED, MAGNITUDE, UNIFORM, located_mask
from caploc.experiments.erasure.measured import (
    Erasures,
    erasures,
    evaluated_datasets,
    located_outcomes,
    nothing_located,
    with_something_to_lose,
)
from caploc.experiments.erasure.report import WHOSE, beside, finding_of, magnitudes, plot_of
from caploc.experiments.evaluation_data import EvaluationItems, evaluation_items
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.statistics import Change, average_interval, change_of_random, score_interval

AVERAGE = "average"
COLUMNS = ("gsm8k", "emotion", "code25k")
"""The datasets of Table 3, which its column "average" is the mean of."""


@ends_in_a_finding
def base(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table3-base``: the score of the untouched model on one dataset; without one, the average column."""
    if cell.dataset is None:
        return _average(study, cell, claim, "score of the untouched model", lambda one: one.base["score"])
    items = evaluation_items(study, cell.dataset)
    score = items.base["score"]
    interval = score_interval(score, items.clusters, study.settings.seed)
    return finding_of(
        study,
        [items],
        cell,
        claim,
        "score of the untouched model",
        printed_for=cell.dataset,
        estimate=float(score.mean()),
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over items",
        chance=items.chance,
        draws=0,
        quantities={"nats a token of the answers": float(items.base["nll"].mean())},
    )


@ends_in_a_finding
def erase(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table3-erase``: the score on a dataset without the neurons that its own locating part gives at sigma;
    without a dataset, the average column."""
    sigma = float(cell.sigma or 0)
    quantity = f"score without the neurons located at sigma {sigma:g}"
    if cell.dataset is None:
        return _average(
            study, cell, claim, quantity, lambda one: located_outcomes(study, one.dataset, sigma)["score"]
        )
    items, mask = evaluation_items(study, cell.dataset), located_mask(study, cell.dataset, sigma)
    if mask.count == 0:
        raise nothing_located(cell.dataset, sigma)
    score = located_outcomes(study, cell.dataset, sigma)["score"]
    interval = score_interval(score, items.clusters, study.settings.seed)
    quantities, controls = {f"neurons located, {cell.dataset}": float(mask.count)}, {}
    if items.floor is None:
        found = erasures(study, cell.dataset, sigma)
        quantities, controls = {**beside(found), **_elsewhere(found)}, magnitudes(found)
    return finding_of(
        study,
        [items],
        cell,
        claim,
        quantity,
        printed_for=cell.dataset,
        printed_sigma=sigma,
        estimate=float(score.mean()),
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over items",
        chance=items.chance,
        quantities=quantities,
        controls=controls,
        notes=[WHOSE, *([items.floor] if items.floor else [])],
    )


@ends_in_a_finding
def random(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table3-random``: the change of the score under random sets matched by layer, on each dataset.

    Datasets at floor are left out: no change could show there, whatever is erased. A set erased on a dataset matches
    what that dataset locates. The 90 % intervals are of the mean over sets and items,
    drawn two ways (`caploc.statistics.change_of_random`). Uniform sets and sets matched in magnitude
    stand beside. The estimate is the change that is largest in size.
    """
    found, notes = with_something_to_lose(study, float(cell.sigma or 0))
    seed = study.settings.seed
    effects: dict[str, Change] = {}
    quantities: dict[str, float] = {}
    for dataset, one in found.items():
        for arm in (LAYER, UNIFORM, MAGNITUDE):
            if arm not in one.arms.sets:
                continue
            change = change_of_random(one.own.base["score"], one.of(dataset, arm), one.own.clusters, seed)
            if arm == LAYER:
                effects[dataset] = change
                quantities |= change.quantities(f"effect:{dataset}")
            else:
                quantities |= change.quantities(f"{arm}, {dataset}")
        quantities[f"lowest score of a set by layer, {dataset}"] = float(one.of(dataset, LAYER).mean(1).min())
        quantities[f"neurons erased, {dataset}"] = float(one.arms.located.count)
    widest = max(effects.values(), key=lambda effect: abs(effect.estimate))
    return finding_of(
        study,
        [one.own for one in found.values()],
        cell,
        claim,
        "score without random neurons minus base score",
        estimate=widest.estimate,
        interval=(widest.interval.low, widest.interval.high),
        interval_kind="95 %, two-way bootstrap over random sets and items; of the largest change",
        quantities=quantities,
        notes=[WHOSE, *notes],
        plots=[plot_of(found, f"Scores without random neurons, {study.model} at sigma {cell.sigma:g}")]
        if study.settings.has_figures(float(cell.sigma or 0))
        else [],
    )


def _average(
    study: Study, cell: Cell, claim: str, quantity: str, score_of: Callable[[EvaluationItems], np.ndarray]
) -> Finding:
    items = evaluated_datasets(study)
    missing = [dataset for dataset in COLUMNS if dataset not in items]
    if missing:
        raise NotRunError(
            f"the average column of Table 3 is over {', '.join(COLUMNS)}, and {', '.join(missing)} is not in this run; "
            "add --dataset"
        )
    scores = [score_of(items[dataset]) for dataset in COLUMNS]
    interval = average_interval(scores, study.settings.seed)
    return finding_of(
        study,
        [items[dataset] for dataset in COLUMNS],
        cell,
        claim,
        f"{quantity}, average over {', '.join(COLUMNS)}",
        printed_for=AVERAGE,
        printed_sigma=cell.sigma,
        estimate=float(np.mean([score.mean() for score in scores])),
        interval=(interval.low, interval.high),
        interval_kind="95 %, bootstrap over the items of each dataset",
        draws=0,
        quantities={
            f"score, {name}": float(score.mean()) for name, score in zip(COLUMNS, scores, strict=True)
        },
        notes=[WHOSE] if cell.sigma is not None else [],
    )


def _elsewhere(found: Erasures) -> dict[str, float]:
    """Scores on the other datasets, with what they are untouched and without random neurons."""
    numbers = {}
    for dataset, items in found.items.items():
        if dataset != found.located_on:
            numbers[f"base score, {dataset}"] = float(items.base["score"].mean())
            for arm in (LOCATED, LAYER):
                if arm in found.outcomes[dataset]:
                    numbers[f"score, {arm}, {dataset}"] = float(found.of(dataset, arm).mean())
    return numbers
