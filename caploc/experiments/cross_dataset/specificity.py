"""Do located neurons act within a type of dataset (math, program, language) and hardly beyond it (poster, Fig. 4)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caploc.datasets import DATASETS
from caploc.experiments.cross_dataset.matrix import CellKey, Matrix
from caploc.experiments.cross_dataset.report import finding_of, left_out
from caploc.experiments.cross_dataset.sources import erasing, training
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.statistics import Change, dealt_labels_p, percentile_interval, stratified_permutation

RESAMPLES = 2000


@ends_in_a_finding
def same_type_specificity(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``cross-same-type-specificity``: part ``own``, mean |change| of score on other datasets of the same type
    minus that on datasets of other types; part ``other``, the mean change on other types.

    Training and erasing count alike: each part is the mean over the two of the mean over cells, D' != D. Changes are
    turned in the direction intended, gains of training and losses of erasing, or the two would cancel in ``other``.
    Intervals: percentiles of the bootstrap over items and runs of training. p of ``own`` deals out anew, row by row,
    which of the other datasets share the row's type; a row's two interventions move together. Dealing out the types of
    the datasets themselves stands beside: it is stricter, but too few datasets are there for it to decide.
    """
    sigma = float(cell.sigma or 0)
    matrices = [training(study, sigma), erasing(study, sigma)]
    types = types_of([name for one in matrices for name in (*one.rows, *one.columns)])
    kept = [split for one in matrices if (split := Split.of(one, types)) is not None]
    if not kept:
        raise _nothing(matrices)
    own, other = _parts(kept, _observed)
    drawn_own, drawn_other = _parts(kept, lambda one: one.resampled(RESAMPLES, study.settings.seed))
    wide = percentile_interval(drawn_own, 0.95)
    return finding_of(
        study,
        matrices,
        cell,
        claim,
        "mean |change| on datasets of the same type minus other types",
        estimate=float(own),
        interval=(wide.low, wide.high),
        interval_kind=f"95 % of {RESAMPLES} bootstraps over items and runs",
        p_values={
            "effect:own": rows_p(kept, study.settings.seed),
            "types of datasets": datasets_p([one.matrix for one in kept], types, study.settings.seed),
        },
        quantities={
            **_ends("effect:own", float(own), drawn_own),
            **_ends("effect:other", float(other), drawn_other),
            **{name: value for one in kept for name, value in _details(one).items()},
        },
        settings={"types": types, "resamples": RESAMPLES},
        notes=_notes(matrices, kept, types),
    )


def types_of(names: Sequence[str]) -> dict[str, str]:
    """The type of each dataset that has one; those of a user's own have none."""
    return {name: DATASETS[name].task for name in dict.fromkeys(names) if name in DATASETS}


@dataclass(frozen=True)
class Split:
    """A matrix with its cells of the same type and of other types; there are both."""

    matrix: Matrix
    same: Sequence[CellKey]
    different: Sequence[CellKey]

    @classmethod
    def of(cls, matrix: Matrix, types: Mapping[str, str]) -> Split | None:
        """The matrix's cells off the diagonal by type; None where one kind is missing."""
        typed = [(row, column) for row, column in matrix.others if row in types and column in types]
        same = [(row, column) for row, column in typed if types[row] == types[column]]
        different = [key for key in typed if key not in same]
        return cls(matrix, same, different) if same and different else None

    def parts(self, values: Mapping[CellKey, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """``own`` and ``other`` of `same_type_specificity` for this intervention, from the cells' changes."""

        def size(cells: Sequence[CellKey]) -> np.ndarray:
            return np.mean([np.abs(values[key]) for key in cells], axis=0)

        other = self.matrix.sign * np.mean([values[key] for key in self.different], axis=0)
        return size(self.same) - size(self.different), other


def _parts(
    splits: Sequence[Split], values: Callable[[Matrix], Mapping[CellKey, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """``own`` and ``other``, the mean over interventions."""
    found = [split.parts(values(split.matrix)) for split in splits]
    return np.mean([own for own, _ in found], axis=0), np.mean([other for _, other in found], axis=0)


def _observed(matrix: Matrix) -> dict[CellKey, np.ndarray]:
    return {key: np.array(change.value) for key, change in matrix.changes.items()}


def rows_p(splits: Sequence[Split], seed: int) -> float:
    """p, one-sided, of the null that in each row the sizes of the changes on other datasets are exchangeable.

    A dataset that breaks whatever is erased is dealt as if it did so in each row by itself, which makes p too large
    rather than too small. 1 where no row has both kinds of cell.
    """
    sizes: dict[CellKey, list[float]] = {}
    tried: dict[CellKey, str] = {}
    same = {key for split in splits for key in split.same}
    for split in splits:
        for key in (*split.same, *split.different):
            sizes.setdefault(key, []).append(abs(split.matrix.changes[key].value))
            tried[key] = tried.get(key, key[0]) + f" {split.matrix.intervention}"
    # cells of a row that were both trained and erased are dealt among themselves
    strata = [tried[key] for key in sizes]
    labels = [key in same for key in sizes]
    if not any(
        {True, False} <= {b for a, b in zip(strata, labels, strict=True) if a == one} for one in strata
    ):
        return 1.0
    values = [float(np.mean(found)) for found in sizes.values()]
    return stratified_permutation(values, labels, strata, alternative="greater", seed=seed).p


def datasets_p(matrices: Sequence[Matrix], types: Mapping[str, str], seed: int) -> float:
    """p, one-sided, of dealing the types out anew among the datasets, rows and columns together (Mantel's way).

    Five datasets, two of math, two of language, can be dealt in 15 ways that differ: it cannot lie below 1 / 15.
    Deals that leave one kind of cell empty are left out.
    """
    names = list(types)

    def lead(deal: Sequence[str]) -> float | None:
        dealt = dict(zip(names, deal, strict=True))
        splits = [split for one in matrices if (split := Split.of(one, dealt)) is not None]
        return float(_parts(splits, _observed)[0]) if splits else None

    return dealt_labels_p(list(types.values()), lead, seed)


def _ends(part: str, value: float, drawn: np.ndarray) -> dict[str, float]:
    return Change(value, percentile_interval(drawn, 0.95), percentile_interval(drawn, 0.90)).quantities(part)


def _details(split: Split) -> dict[str, float]:
    """The sizes of one intervention, and those of random neurons, which show how fragile the datasets are."""
    name, changes = split.matrix.intervention, split.matrix.changes
    found = {}
    for kind, cells in (("same type", split.same), ("other types", split.different)):
        found[f"{name}, {kind}"] = float(np.mean([abs(changes[key].value) for key in cells]))
        random = [
            abs(changes[key].random.mean() - changes[key].base.mean())
            for key in cells
            if len(changes[key].random)
        ]
        if random:
            found[f"{name} of random neurons, {kind}"] = float(np.mean(random))
    return found


def _notes(matrices: Sequence[Matrix], kept: Sequence[Split], types: Mapping[str, str]) -> list[str]:
    used = {split.matrix.intervention for split in kept}
    notes = [
        f"{one.intervention} left out: it has not both a pair of datasets of one type and one of two"
        for one in matrices
        if one.intervention not in used
    ]
    names = {name for one in matrices for name in (*one.rows, *one.columns)}
    notes += [f"{name} left out: a dataset of your own has no type" for name in sorted(names - types.keys())]
    alone = [kind for kind in dict.fromkeys(types.values()) if list(types.values()).count(kind) == 1]
    notes += [f"one dataset only of type {kind}: it counts as another type for the rest" for kind in alone]
    return notes


def _nothing(matrices: Sequence[Matrix]) -> FloorError | NotRunError:
    if floors := left_out(matrices):
        return FloorError("; ".join(floors))
    return NotRunError(
        "needs two datasets of one type and one of another, such as gsm8k, meta_math and emotion"
    )
