"""Fig. 6 and 10 as data: what an intervention on the neurons of one dataset does to the scores on others."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from caploc.experiments.study import Study
from caploc.statistics import Interval, Pair, bootstrap_mean, no_change, resampled_changes

Intervention = Literal["training", "erasing"]
Arm = Literal["base", "random", "nearest", "largest"]
CellKey = tuple[str, str]
"""(located on, tested on)."""


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

    def interval(self, seed: int) -> Interval:
        """95 %, bootstrap over items; where none changes, as wide as so many items allow."""
        differences = self.located.mean(0) - self.base
        return bootstrap_mean(differences, seed=seed) if differences.any() else no_change(self.items, 0.95)


@dataclass(frozen=True, eq=False)
class Matrix:
    """Fig. 6: ``changes`` by (located on, tested on), its rows and columns; ``left_out``: which row or column, such as
    ``tested on gsm8k``, -> why, in words that name the floor or ceiling effect; ``settings``: how the changes
    were made; ``study``: of the model that was changed."""

    intervention: Intervention
    changes: Mapping[CellKey, Change]
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
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

    def resampled(self, resamples: int, seed: int) -> dict[CellKey, np.ndarray]:
        """``[resamples]`` values of every cell on bootstrap samples (`caploc.statistics.resampled_changes`)."""
        cells = {key: (change.base, change.located) for key, change in self.changes.items()}
        return resampled_changes(cells, resamples, seed)
