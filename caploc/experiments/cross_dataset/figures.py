"""The data of Fig. 6 and 10: changes of score by dataset located on and dataset tested on, and the overlaps beside."""

from __future__ import annotations

import math

import numpy as np

from caploc.experiments.commonality.splits import whole_mask
from caploc.experiments.cross_dataset.matrix import Change, Matrix
from caploc.experiments.study import Study
from caploc.findings import Plot
from caploc.statistics import agreement

CAPTION = {
    "training": "change after training the neurons located on each row's dataset",
    "erasing": "change after erasing the neurons located on each row's dataset",
}


def matrix_plots(study: Study, matrix: Matrix, sigma: float) -> list[Plot]:
    """The matrix as drawn in the paper, the same for random neurons, and the overlaps of the located neurons; none
    where the study draws no figures at ``sigma``."""
    if not study.settings.has_figures(sigma):
        return []
    label = f"{study.model} at sigma {sigma:g}" if "/" not in study.model else f"sigma {sigma:g}"
    seed = study.settings.seed
    return [
        Plot("changes", f"Fig. 6: {CAPTION[matrix.intervention]}, {label}", change_data(matrix, seed)),
        Plot(
            "changes",
            f"The same with random neurons, as many in each layer, {label}",
            change_data(_of_random(matrix), seed),
        ),
        Plot(
            "matrix",
            f"Overlap of the neurons located on two datasets, {label}",
            _overlaps(study, matrix, sigma),
        ),
    ]


def change_data(matrix: Matrix, seed: int) -> dict[str, object]:
    """``values``, ``low`` and ``high`` ``[rows][columns]``, nan where there is no such cell."""
    shown: dict[str, list[list[float]]] = {"values": [], "low": [], "high": []}
    for row in matrix.rows:
        changes = [matrix.changes.get((row, column)) for column in matrix.columns]
        ends = [change.interval(seed) if change else None for change in changes]
        shown["values"].append([change.value if change else math.nan for change in changes])
        shown["low"].append([end.low if end else math.nan for end in ends])
        shown["high"].append([end.high if end else math.nan for end in ends])
    return {"rows": matrix.rows, "columns": matrix.columns, **shown}


def _of_random(matrix: Matrix) -> Matrix:
    changes = {
        key: Change(change.base, change.random, change.random)
        for key, change in matrix.changes.items()
        if len(change.random)
    }
    return Matrix(matrix.intervention, changes)


def _overlaps(study: Study, matrix: Matrix, sigma: float) -> dict[str, object]:
    """Of the masks whose neurons the matrix is about, those of an early checkpoint where that was trained."""
    located, threshold = matrix.study or study, study.settings.threshold(sigma)
    names = list(dict.fromkeys([*matrix.rows, *matrix.columns]))
    masks = np.stack([whole_mask(located.shards(name), threshold) for name in names])
    results = [agreement(np.broadcast_to(mask, masks.shape), masks) for mask in masks]
    return {
        "labels": names,
        "values": [result.overlap.tolist() for result in results],
        "chance": [result.chance.tolist() for result in results],
    }
