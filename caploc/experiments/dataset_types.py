"""Do neurons act within a type of dataset (math, program, language), and hardly beyond it?

The cells of a matrix by type, what is made of them, and the permutation tests of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caploc.datasets import DATASETS
from caploc.experiments.cross_dataset_matrix import CellKey, Matrix
from caploc.statistics import dealt_labels_p, stratified_permutation

Values = Mapping[CellKey, np.ndarray]


def types_of(names: Sequence[str]) -> dict[str, str]:
    """The type of each dataset that has one; those of a user's own have none."""
    return {name: DATASETS[name].task for name in dict.fromkeys(names) if name in DATASETS}


def types_in(matrices: Sequence[Matrix]) -> dict[str, str]:
    """Of all datasets that matrices have."""
    return types_of([name for one in matrices for name in (*one.rows, *one.columns)])


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

    def parts(self, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """``own``, how much more cells of the same type change than the others, and ``other``, how much those change
        in the direction intended, from the cells' changes."""

        def size(cells: Sequence[CellKey]) -> np.ndarray:
            return np.mean([np.abs(values[key]) for key in cells], axis=0)

        other = self.matrix.sign * np.mean([values[key] for key in self.different], axis=0)
        return size(self.same) - size(self.different), other

    @property
    def sizes(self) -> dict[str, float]:
        """How large changes are by kind of cell, and those of random neurons, which show how fragile datasets are."""
        name, found = self.matrix.intervention, {}
        random = self.matrix.of_random.changes
        for kind, cells in (("same type", self.same), ("other types", self.different)):
            found[f"{name}, {kind}"] = float(np.mean([abs(self.matrix.changes[key].value) for key in cells]))
            if tried := [abs(random[key].value) for key in cells if key in random]:
                found[f"{name} of random neurons, {kind}"] = float(np.mean(tried))
        return found


def splits_of(matrices: Sequence[Matrix], types: Mapping[str, str]) -> list[Split]:
    """Of those matrices that have both kinds of cell."""
    return [split for one in matrices if (split := Split.of(one, types)) is not None]


def parts_of(splits: Sequence[Split], values: Callable[[Matrix], Values]) -> tuple[np.ndarray, np.ndarray]:
    """``own`` and ``other`` (`Split.parts`), the mean over interventions."""
    found = [split.parts(values(split.matrix)) for split in splits]
    return np.mean([own for own, _ in found], axis=0), np.mean([other for _, other in found], axis=0)


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
        splits = splits_of(matrices, dict(zip(names, deal, strict=True)))
        return float(parts_of(splits, Matrix.values)[0]) if splits else None

    return dealt_labels_p(list(types.values()), lead, seed)


def notes_on(matrices: Sequence[Matrix], splits: Sequence[Split], types: Mapping[str, str]) -> list[str]:
    """What was left out, and which types stand alone."""
    used = {split.matrix.intervention for split in splits}
    notes = [
        f"{one.intervention} left out: it has not both a pair of datasets of one type and one of two"
        for one in matrices
        if one.intervention not in used
    ]
    names = {name for one in matrices for name in (*one.rows, *one.columns)}
    notes += [f"{name} left out: a dataset of your own has no type" for name in sorted(names - types.keys())]
    alone = [kind for kind in dict.fromkeys(types.values()) if list(types.values()).count(kind) == 1]
    return notes + [
        f"one dataset only of type {kind}: it counts as another type for the rest" for kind in alone
    ]
