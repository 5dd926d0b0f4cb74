"""Is it alike in all models which dataset's neurons act on which other dataset (Fig. 10, Appendix H)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caploc.experiments.cross_dataset.figures import CAPTION, change_data
from caploc.experiments.cross_dataset.matrix import CellKey, Matrix
from caploc.experiments.cross_dataset.report import items_of, left_out, require_others
from caploc.experiments.cross_dataset.sources import erasing, training
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import mantel_p, mean_rho, percentile_interval, shared_keys
from caploc.statistics.trends import Values

RESAMPLES = 1000
FEWEST_CELLS = 4
"""A rank correlation of fewer is one of a few values."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One model's matrices, and what is recorded of its study."""

    label: str
    erasing: Matrix
    training: Matrix | None
    record: Mapping[str, Any]
    seed: int


@ends_in_a_finding
def other_models(studies: Sequence[Callable[[], Study]], cell: Cell, claim: str) -> Finding:
    """Claim ``fig10-other-models``: Spearman's rho between two models' changes of score after erasing, over the cells
    off the diagonal, mean over pairs of models.

    ``studies`` are made one after the other, so that one model is held at a time. A model that cannot be had here, or
    on which no change can show, is left out. The interval is the percentiles of a bootstrap over items, each dataset's
    drawn alike for all models; noise of items lowers rho, so that it errs towards 0. Beside it: the same with the
    diagonal, after training, and of random neurons (some datasets break whatever is erased), and Mantel's p, of
    dealing out one model's datasets anew.
    """
    measured, missing = _measured(studies, float(cell.sigma or 0))
    matrices = [one.erasing for one in measured]
    seed = measured[0].seed
    estimate = float(mean_rho([_observed(matrix, matrix.others) for matrix in matrices]))
    if not np.isfinite(estimate):
        raise FloorError(
            "floor effect: erasing changes all scores of a model alike, so that no order can be compared"
        )
    drawn = mean_rho([_resampled(matrix, seed) for matrix in matrices])
    wide = percentile_interval(drawn[np.isfinite(drawn)])
    named = [one.label for one in measured]
    return Finding(
        claim=claim,
        cell=cell,
        quantity="rank correlation of two models' changes on other datasets after erasing",
        unit="rho",
        estimate=estimate,
        interval=(wide.low, wide.high),
        interval_kind=f"95 % of {RESAMPLES} bootstraps over items",
        chance=0.0,
        p_values=_mantel(matrices, seed),
        quantities=_beside(measured),
        n=items_of(matrices),
        settings={
            "sigma": cell.sigma,
            **{f"{one.label}: {name}": value for one in measured for name, value in one.record.items()},
            "cells": len(shared_keys([_observed(matrix, matrix.others) for matrix in matrices])),
            "resamples": RESAMPLES,
        },
        notes=[f"{len(named)} models: {', '.join(named)}", *missing, *_left_out(measured)],
        plots=[
            Plot("changes", f"Fig. 10: {CAPTION['erasing']}, {one.label}", change_data(one.erasing, seed))
            for one in measured
        ],
    )


def _measured(studies: Sequence[Callable[[], Study]], sigma: float) -> tuple[list[Measured], list[str]]:
    """What could be measured, and why the rest could not."""
    measured: list[Measured] = []
    floors: list[str] = []
    absent: list[str] = []
    for make in studies:
        try:
            measured.append(_measure(make(), sigma))
        except FloorError as error:
            floors.append(str(error))
        except NotRunError as error:
            absent.append(str(error))
    if len(measured) < 2:
        if floors:
            raise FloorError("; ".join([*floors, *absent]))
        raise NotRunError("; ".join(["needs two models to compare; give another --model", *absent]))
    shared = shared_keys([_observed(one.erasing, one.erasing.others) for one in measured])
    if len(shared) < FEWEST_CELLS:
        raise NotRunError(
            f"{len(shared)} pairs of datasets can be compared in all models, and {FEWEST_CELLS} are the fewest to "
            "rank; give another --dataset"
        )
    return measured, [f"a model left out: {why}" for why in (*floors, *absent)]


def _measure(study: Study, sigma: float) -> Measured:
    erased = require_others(erasing(study, sigma))
    trained: Matrix | None
    try:
        trained = require_others(training(study, sigma))
    except (FloorError, NotRunError):
        trained = None
    label = study.model if "/" not in study.model else study.lm.name
    return Measured(label, erased, trained, study.record(), study.settings.seed)


def _observed(matrix: Matrix, cells: Sequence[CellKey]) -> Values:
    return {key: np.array(matrix.changes[key].value) for key in cells}


def _resampled(matrix: Matrix, seed: int) -> Values:
    drawn = matrix.resampled(RESAMPLES, seed)
    return {key: drawn[key] for key in matrix.others}


def _mantel(matrices: Sequence[Matrix], seed: int) -> dict[str, float]:
    """p, one-sided, of dealing out the datasets of every model but the first anew."""
    p = mantel_p([_observed(matrix, matrix.others) for matrix in matrices], seed)
    return {"Mantel": p} if np.isfinite(p) else {}


def _beside(measured: Sequence[Measured]) -> dict[str, float]:
    """Other rank correlations, without intervals: those that can be had."""
    erased = [one.erasing for one in measured]
    trained = [one.training for one in measured if one.training is not None]
    found = {
        "rho with the diagonal": mean_rho([_observed(one, list(one.changes)) for one in erased]),
        "rho of random neurons": mean_rho([_of_random(one) for one in erased]),
    }
    if (
        len(trained) == len(measured)
        and len(shared_keys([_observed(one, one.others) for one in trained])) >= FEWEST_CELLS
    ):
        found["rho after training"] = mean_rho([_observed(one, one.others) for one in trained])
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _of_random(matrix: Matrix) -> Values:
    changes = {key: matrix.changes[key] for key in matrix.others}
    return {
        key: np.array(change.random.mean() - change.base.mean())
        for key, change in changes.items()
        if len(change.random)
    }


def _left_out(measured: Sequence[Measured]) -> list[str]:
    return [f"{one.label}: {note}" for one in measured for note in left_out([one.erasing])]
