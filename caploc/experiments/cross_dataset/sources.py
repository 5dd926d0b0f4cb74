"""The two matrices of a study, read off what the experiments of enhancement and erasure have stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from caploc.experiments.cross_dataset.matrix import CellKey, Change, Matrix
from caploc.experiments.enhancement_arms import EPOCHS, LOCATED, NEAREST, RANDOM, RUNS
from caploc.experiments.enhancement_runs import Enhanced as enhancements
from caploc.experiments.enhancement_runs import Enhancements, trained_datasets
from caploc.experiments.erasure.arms import LARGEST, LAYER, MAGNITUDE
from caploc.experiments.erasure.arms import LOCATED as ERASED
from caploc.experiments.erasure.measured import erasures
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study

LEAST_GAIN = 0.02
"""The smallest gain that counts as one (claims of group H: equivalence margin)."""


def training(study: Study, sigma: float) -> Matrix:
    """Scores after training, after the last epoch (ambiguity ``cross-enhancement``); made once.

    Rows: the datasets of Table 2 that the study has. A row on which nothing passes ``sigma``, or a run of located or
    random neurons diverged, and a column whose base leaves no gain that counts, are left out, with the reason.
    """
    return study.once(("training matrix", sigma), lambda: _training(study, sigma))


def _training(study: Study, sigma: float) -> Matrix:
    changes: dict[CellKey, Change] = {}
    left_out: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for row in trained_datasets(study.early):
        try:
            found = enhancements(study, row, sigma)
        except FloorError as error:
            left_out[f"located on {row}"] = str(error)
            continue
        if lost := _diverged(found):
            left_out[f"located on {row}"] = lost
            continue
        settings = {
            "checkpoint": found.study.model,
            "checkpoint fingerprint": found.study.lm.fingerprint[:16],
            "epochs": EPOCHS[-1],
            "runs": {arm: RUNS[arm] for arm in (LOCATED, RANDOM, NEAREST)},
        }
        for column in found.datasets:
            base = found.base_score[column]
            if (why := ceiling_effect(column, base)) is not None:
                left_out[f"tested on {column}"] = why
                continue
            nearest = (
                found.of(NEAREST, column, EPOCHS[-1]) if found.indices(NEAREST) else np.empty((0, len(base)))
            )
            changes[row, column] = Change(
                base, found.of(LOCATED, column, EPOCHS[-1]), found.of(RANDOM, column, EPOCHS[-1]), nearest
            )
    return Matrix("training", changes, left_out, settings, study.early)


def erasing(study: Study, sigma: float) -> Matrix:
    """Scores after erasing the neurons located on each of the study's datasets; made once.

    A row on which nothing passes ``sigma``, and a column on which the untouched model has nothing to lose, are left
    out, with the reason.
    """
    return study.once(("erasing matrix", sigma), lambda: _erasing(study, sigma))


def _erasing(study: Study, sigma: float) -> Matrix:
    changes: dict[CellKey, Change] = {}
    left_out: dict[str, str] = {}
    absent: list[NotRunError] = []
    for row in study.available():
        try:
            found = erasures(study, row, sigma)
        except FloorError as error:
            left_out[f"located on {row}"] = str(error)
            continue
        except NotRunError as error:
            absent.append(error)
            continue
        for column, outcomes in found.outcomes.items():
            if (why := found.items[column].floor) is not None:
                left_out[f"tested on {column}"] = why
                continue
            sets = {
                arm: outcomes[arm]["score"] for arm in (ERASED, LAYER, MAGNITUDE, LARGEST) if arm in outcomes
            }
            changes[row, column] = Change(
                found.items[column].base["score"],
                sets[ERASED],
                sets[LAYER],
                sets.get(MAGNITUDE),
                sets.get(LARGEST),
            )
    if absent and not changes and not left_out:
        raise absent[0]
    return Matrix("erasing", changes, left_out, {}, study)


def ceiling_effect(dataset: str, base: np.ndarray) -> str | None:
    """Why no gain can show on a dataset, in words; None where one can."""
    if 1 - base.mean() > LEAST_GAIN:
        return None
    return (
        f"ceiling effect: the untouched model scores {100 * base.mean():.1f} % on {dataset}, so no gain of "
        f"{100 * LEAST_GAIN:g} points can show"
    )


def _diverged(found: Enhancements) -> str:
    lost = [
        run.arm
        for run, step in zip(found.runs, found.diverged, strict=True)
        if step is not None and run.arm in (LOCATED, RANDOM)
    ]
    return f"training diverged ({', '.join(dict.fromkeys(lost))})" if lost else ""
