"""Fig. 6 and 10 as data: what an intervention on the neurons of one dataset does to the scores on others.

`TrainingMatrix` and `ErasingMatrix` are read off what is stored of training (`caploc.experiments.enhancement_runs`) and
erasing (`caploc.experiments.erasure_sets`): they cost no run of their own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from caploc.experiments.commonality_halves import overlap_matrix
from caploc.experiments.enhancement_arms import LAST, LOCATED, NEAREST, RANDOM
from caploc.experiments.enhancement_runs import Enhanced, Enhancements, trained_datasets
from caploc.experiments.erasure_sets import LARGEST, LAYER, MAGNITUDE, Erased
from caploc.experiments.erasure_sets import LOCATED as ERASED
from caploc.experiments.locating import Scores, whole_mask
from caploc.experiments.specs import FloorError, Need, NotRunError, Spec
from caploc.experiments.study import Study
from caploc.findings import Plot
from caploc.statistics import (
    Effect,
    Interval,
    Pair,
    bootstrap_mean,
    compare_with_random,
    effect_of,
    holm,
    no_change,
    resampled_changes,
    sets_p,
)
from caploc.store import Entry

Intervention = Literal["training", "erasing"]
Arm = Literal["base", "random", "nearest", "largest"]
CellKey = tuple[str, str]
"""(located on, tested on)."""

CAPTION: Mapping[Intervention, str] = {
    "training": "change after training the neurons located on each row's dataset",
    "erasing": "change after erasing the neurons located on each row's dataset",
}


@dataclass(frozen=True, eq=False)
class Change:
    """Scores on the same items of one dataset: ``base [items]`` of the untouched model, and after an intervention on
    neurons, ``located [runs, items]``, ``random [draws, items]`` matched by layer, ``nearest [draws, items]`` in
    magnitude, and the ``largest [1, items]`` in magnitude, None where they were not tried. A run is a seed of
    training; erasing has one."""

    base: np.ndarray
    located: np.ndarray
    random: np.ndarray
    nearest: np.ndarray | None = None
    largest: np.ndarray | None = None

    @property
    def items(self) -> int:
        return len(self.base)

    @property
    def value(self) -> float:
        """The number that Fig. 6 shows: score afterwards minus score before."""
        return float(self.located.mean() - self.base.mean())

    @property
    def of_random(self) -> Change | None:
        """The same for random neurons in place of the located ones; None where none were tried."""
        return Change(self.base, self.random, self.random) if len(self.random) else None

    def interval(self, seed: int) -> Interval:
        """95 %, bootstrap over items; where none changes, as wide as so many items allow."""
        differences = self.located.mean(0) - self.base
        return bootstrap_mean(differences, seed=seed) if differences.any() else no_change(self.items, 0.95)


@dataclass(frozen=True, eq=False)
class Matrix:
    """Fig. 6, as the basis of a measurement.

    Attributes:
        changes: by (located on, tested on), its rows and columns.
        left_out: which row or column, such as ``tested on gsm8k``, -> why, in words that name the floor or ceiling
            effect.
        made: how the changes were made.
        study: of the model that was changed.
    """

    intervention: Intervention
    changes: Mapping[CellKey, Change]
    left_out: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    study: Study | None = None

    @property
    def rows(self) -> list[str]:
        return list(dict.fromkeys(row for row, _ in self.changes))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for _, column in self.changes))

    @property
    def sign(self) -> int:
        """1 where a gain is what is claimed, -1 where a loss is."""
        return 1 if self.intervention == "training" else -1

    @property
    def others(self) -> list[CellKey]:
        """The cells off the diagonal."""
        return [(row, column) for row, column in self.changes if row != column]

    @property
    def draws(self) -> int:
        """Random sets of each row, those that were tried on other datasets."""
        return min(len(self.changes[key].random) for key in self.others)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {f"{self.intervention}: {name}": value for name, value in self.made.items()}

    @property
    def notes(self) -> Sequence[str]:
        return [f"{self.intervention}, {place}: left out, {why}" for place, why in self.left_out.items()]

    def require_others(self) -> Matrix:
        """This matrix, if it has a cell off the diagonal.

        Raises:
            FloorError: floor or ceiling effects have left none.
            NotRunError: there is one dataset only.
        """
        if self.others:
            return self
        if self.left_out:
            raise FloorError("; ".join(self.notes))
        raise NotRunError("needs a second dataset to test on; give another --dataset")

    def pairs(self, arm: Arm, cells: Collection[CellKey] | None = None) -> list[Pair]:
        """Located against ``arm`` in ``cells`` (default: `others`), outcomes turned so that higher is what is claimed.

        Cells in which the arm was not tried are left out.
        """
        found = []
        for key in self.others if cells is None else cells:
            change = self.changes[key]
            second = change.base[None] if arm == "base" else getattr(change, arm)
            if second is not None:
                found.append(Pair(*key, self.sign * change.located, self.sign * second))
        return found

    def lead(self, arm: Arm, seed: int = 0, cells: Collection[CellKey] | None = None) -> Effect | None:
        """The mean over ``cells`` (default: off the diagonal) of located minus ``arm``, turned so that positive speaks
        for the claim; None where the arm was not tried there.

        Interval and ``p_items`` as `caploc.statistics.effect_of`: sampling error of items, and of located minus a
        further draw. ``p_sets`` (drawn arms): which of a row's sets is the located one is dealt anew, row by row, and
        the statistic is the mean over rows of its lead. Given the items, sets of a row are exchangeable under the null
        that located is one of them, so it is exact; several runs make located's mean steadier than one draw's, which
        can only raise p.
        """
        pairs = self.pairs(arm, cells)
        if not pairs:
            return None
        drawn = arm in ("random", "nearest")
        effect = effect_of(pairs, drawn=drawn, seed=seed)
        return replace(effect, p_sets=sets_p(pairs, seed)) if drawn else effect

    def cell_leads(self, seed: int = 0) -> tuple[dict[CellKey, Effect], dict[CellKey, float]]:
        """Each cell's lead over random sets, where two were drawn, and its p, Holm-corrected over the cells drawn.

        With m draws no p lies below 1 / (1 + m) before the correction: few draws cannot single out a cell.
        """
        effects = {}
        for key in self.changes:
            for pair in self.pairs("random", [key]):
                if len(pair.second) > 1:
                    effects[key] = compare_with_random(pair.first.mean(0), pair.second, seed=seed)
        if not effects:
            return {}, {}
        corrected = holm([effect.p for effect in effects.values()])
        return effects, {key: float(p) for key, p in zip(effects, corrected, strict=True)}

    def values(self, cells: Iterable[CellKey] | None = None) -> dict[CellKey, np.ndarray]:
        """The number that Fig. 6 shows in each of ``cells``; in all of them unless given."""
        return {key: np.array(self.changes[key].value) for key in (self.changes if cells is None else cells)}

    def resampled(self, resamples: int, seed: int) -> dict[CellKey, np.ndarray]:
        """``[resamples]`` values of every cell on bootstrap samples (`caploc.statistics.resampled_changes`)."""
        cells = {key: (change.base, change.located) for key, change in self.changes.items()}
        return resampled_changes(cells, resamples, seed)

    @property
    def of_random(self) -> Matrix:
        """The changes that random neurons make, where they were tried."""
        changes = {key: change.of_random for key, change in self.changes.items()}
        return Matrix(self.intervention, {key: one for key, one in changes.items() if one is not None})


def items_of(matrices: Sequence[Matrix]) -> int:
    """How many evaluation items the matrices rest on, each dataset's counted once."""
    items = {column: change.items for one in matrices for (_, column), change in one.changes.items()}
    return sum(items.values())


# ------------------------------------------------------------------------------------------------- the two matrices


@dataclass(frozen=True)
class TrainingMatrix(Spec[Matrix]):
    """Scores after training, after the last epoch (ambiguity ``cross-enhancement``), of a study's early checkpoint.

    Rows: the datasets of Table 2 that the study has. A row on which nothing passes sigma, or a run of located or random
    neurons diverged, and a column whose base leaves no gain that counts, are left out, with the reason.
    """

    sigma: float

    @staticmethod
    def need(study: Study, sigma: float) -> Need:
        """Of a study: its early checkpoint's."""
        return Need(study.early, TrainingMatrix(sigma))

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Enhanced(row, self.sigma) for row in trained_datasets(study))

    def read(self, study: Study, entries: Iterator[Entry]) -> Matrix:
        changes: dict[CellKey, Change] = {}
        left_out: dict[str, str] = {}
        made: dict[str, Any] = {}
        least = study.settings.margin("least-gain-across")
        for row in trained_datasets(study):
            try:
                found = study.result(Enhanced(row, self.sigma))
            except FloorError as error:
                left_out[f"located on {row}"] = str(error)
                continue
            if lost := _diverged(found):
                left_out[f"located on {row}"] = lost
                continue
            made = {
                "checkpoint": study.model,
                "checkpoint fingerprint": study.lm.fingerprint[:16],
                "epochs": LAST,
                "runs": {arm: len(found.indices(arm)) for arm in (LOCATED, RANDOM, NEAREST)},
            }
            for column in found.datasets:
                base = found.base_score[column]
                if (why := ceiling_effect(column, base, least)) is not None:
                    left_out[f"tested on {column}"] = why
                    continue
                nearest = np.empty((0, len(base)))
                if found.indices(NEAREST):
                    nearest = found.of(NEAREST, column, LAST)
                located, random = (found.of(arm, column, LAST) for arm in (LOCATED, RANDOM))
                changes[row, column] = Change(base, located, random, nearest)
        return Matrix("training", changes, left_out, made, study)


@dataclass(frozen=True)
class ErasingMatrix(Spec[Matrix]):
    """Scores after erasing the neurons located on each of the study's datasets.

    A row on which nothing passes sigma, and a column on which the untouched model has nothing to lose, are left out,
    with the reason.
    """

    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Erased(row, self.sigma) for row in study.available())

    def read(self, study: Study, entries: Iterator[Entry]) -> Matrix:
        changes: dict[CellKey, Change] = {}
        left_out: dict[str, str] = {}
        absent: list[NotRunError] = []
        for row in study.available():
            try:
                found = study.result(Erased(row, self.sigma))
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
                    arm: outcomes[arm]["score"]
                    for arm in (ERASED, LAYER, MAGNITUDE, LARGEST)
                    if arm in outcomes
                }
                base = found.items[column].base["score"]
                changes[row, column] = Change(
                    base, sets[ERASED], sets[LAYER], sets.get(MAGNITUDE), sets.get(LARGEST)
                )
        if absent and not changes and not left_out:
            raise absent[0]
        return Matrix("erasing", changes, left_out, {}, study)


def ceiling_effect(dataset: str, base: np.ndarray, least_gain: float) -> str | None:
    """Why no gain can show on a dataset, in words; None where one can. ``least_gain``: the smallest that counts."""
    if 1 - base.mean() > least_gain:
        return None
    return (
        f"ceiling effect: the untouched model scores {100 * base.mean():.1f} % on {dataset}, so no gain of "
        f"{100 * least_gain:g} points can show"
    )


def _diverged(found: Enhancements) -> str:
    lost = [run.arm for run, _ in found.lost if run.arm in (LOCATED, RANDOM)]
    return f"training diverged ({', '.join(dict.fromkeys(lost))})" if lost else ""


# ---------------------------------------------------------------------------------------------------------- figures


def matrix_plots(study: Study, matrix: Matrix, sigma: float) -> list[Plot]:
    """The matrix as drawn in the paper, the same for random neurons, and the overlaps of the located neurons; none
    where the study draws no figures at ``sigma``."""
    if not study.settings.has_figures(sigma):
        return []
    label = f"{study.model} at sigma {sigma:g}" if "/" not in study.model else f"sigma {sigma:g}"
    seed, threshold = study.settings.seed, study.settings.threshold(sigma)
    located = matrix.study or study  # the early checkpoint, where that was trained
    names = dict.fromkeys([*matrix.rows, *matrix.columns])
    masks = {name: whole_mask(located.result(Scores(name)), threshold) for name in names}
    return [
        Plot("changes", f"Fig. 6: {CAPTION[matrix.intervention]}, {label}", change_data(matrix, seed)),
        Plot(
            "changes",
            f"The same with random neurons, as many in each layer, {label}",
            change_data(matrix.of_random, seed),
        ),
        Plot("matrix", f"Overlap of the neurons located on two datasets, {label}", overlap_matrix(masks)),
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
