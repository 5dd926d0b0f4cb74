"""Fig. 6 without a model: outcomes with known effects planted in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from caploc.experiments.cross_dataset_matrix import (
    Change,
    ErasingMatrix,
    Intervention,
    Matrix,
    TrainingMatrix,
)
from caploc.findings import Cell
from caploc.tests.experiments.planted import PlantedStudy, noise

DATASETS = ("gsm8k", "meta_math", "code25k", "emotion", "imdb")
TRAINED = ("gsm8k", "emotion", "code25k")
SIGMA = 6.0

Effect = Callable[[str, str], float]
"""(located on, tested on) -> the share of items that an intervention changes."""


def nothing(row: str, column: str) -> float:
    return 0.0


def everywhere(row: str, column: str) -> float:
    return 0.4


def same_type(row: str, column: str) -> float:
    types = {"gsm8k": "math", "meta_math": "math", "emotion": "language", "imdb": "language"}
    return 0.5 if row in types and types[row] == types.get(column) else 0.0


def planted_matrix(
    intervention: Intervention,
    located: Effect,
    random: Effect = nothing,
    *,
    seed: int = 0,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] = DATASETS,
    items: int = 40,
    draws: int = 20,
    noisy: float = 0.02,
) -> Matrix:
    """Right and wrong answers: training turns wrong ones right, erasing right ones wrong, at the effects' rates and
    ``noisy`` ones more, whatever is erased. Training has three runs and five random draws, erasing ``draws``."""
    generator = np.random.default_rng(seed)
    training = intervention == "training"
    rows = rows or (TRAINED if training else columns)
    runs, draws = (3, 5) if training else (1, draws)
    base = {name: (generator.random(items) < (0.1 if training else 0.95)).astype(float) for name in columns}

    def changed(name: str, count: int, share: float) -> np.ndarray:
        hit = generator.random((count, items)) < share + noisy
        return np.where(hit, 1.0 if training else 0.0, base[name])

    return Matrix(
        intervention,
        {
            (row, column): Change(
                base[column],
                changed(column, runs, located(row, column)),
                changed(column, draws, random(row, column)),
            )
            for row in rows
            for column in columns
        },
    )


def study_with(
    training: Matrix | None = None, erasing: Matrix | None = None, model: str = ""
) -> PlantedStudy:
    """A study that has these matrices already, and scores in which nothing is located."""
    names = (training or erasing or Matrix("erasing", {})).columns or list(DATASETS)
    given = {TrainingMatrix(SIGMA): training, ErasingMatrix(SIGMA): erasing}
    study = PlantedStudy(
        {(name, ""): noise(5, 16) for name in names},
        results={spec: matrix for spec, matrix in given.items() if matrix is not None},
        sigmas=(SIGMA,),
    )
    study.model = model or study.model
    return study


def cell_of(model: str = "llama2-7b") -> Cell:
    return Cell(model, None, SIGMA)
