"""What a method located for many prompts, kept sparse, and how much any two of the sets share (eq. 9)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from caploc.neurons import NeuronMask


@dataclass(frozen=True, eq=False)
class LocatedSets:
    """P sets of places: neurons, layers, edges. ``members [P, places]`` is sparse, 1 where a place is in a set.

    ``strata [places]``: the layer of each place, in which random sets must match; all 0 where there is none.

    The overlap of eq. (9) is 0 where one of two sets is empty and nan where both are; see ``kn-empty-sets``.
    """

    members: Any
    strata: np.ndarray

    @classmethod
    def of_places(
        cls, sets: Iterable[Sequence[int] | np.ndarray], places: int, strata: np.ndarray | None = None
    ) -> LocatedSets:
        """From the numbers of each set's places, below ``places``."""
        columns = [np.asarray(one, dtype=np.int64) for one in sets]
        starts = np.concatenate([[0], np.cumsum([len(one) for one in columns])]).astype(np.int64)
        flat = np.concatenate(columns) if columns else np.zeros(0, np.int64)
        content = (np.ones(len(flat), np.int32), flat, starts)
        members = sparse.csr_matrix(content, shape=(len(columns), places))
        return cls(members, np.zeros(places, np.int64) if strata is None else strata)

    @classmethod
    def of_masks(cls, masks: Iterable[NeuronMask], layers: int, neurons: int) -> LocatedSets:
        """From masks ``[layers, neurons]``, read one at a time; strata are the layers."""
        places = (mask.values.numpy(force=True).ravel().nonzero()[0] for mask in masks)
        return cls.of_places(places, layers * neurons, np.repeat(np.arange(layers), neurons))

    def __len__(self) -> int:
        return int(self.members.shape[0])

    def __getitem__(self, chosen: np.ndarray) -> LocatedSets:
        """The sets chosen by number or by a bool for each."""
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        return LocatedSets(self.members[rows], self.strata)

    @property
    def places(self) -> int:
        return int(self.members.shape[1])

    @property
    def counts(self) -> np.ndarray:
        """``[P]`` the sets' sizes."""
        return np.diff(self.members.indptr)

    @property
    def per_stratum(self) -> np.ndarray:
        """``[P, strata]`` how many of each set's places lie in each stratum."""
        found = np.zeros((len(self), int(self.strata.max(initial=0)) + 1))
        rows = np.repeat(np.arange(len(self)), self.counts)
        np.add.at(found, (rows, self.strata[self.members.indices]), 1)
        return found

    def common(self, other: LocatedSets | None = None) -> np.ndarray:
        """``[P, Q]`` how many places every two sets share, those of ``other`` or of one another."""
        second = self if other is None else other
        found: np.ndarray = (self.members @ second.members.T).toarray().astype(np.float64)
        return found

    def overlap(self, other: LocatedSets | None = None) -> np.ndarray:
        """``[P, Q]`` eq. (9)'s overlap of every two sets."""
        second = self if other is None else other
        return _overlap(self.common(second), self.counts, second.counts)

    def chance(self, other: LocatedSets | None = None) -> np.ndarray:
        """``[P, Q]`` the overlap expected of random sets with the same counts in every stratum."""
        second = self if other is None else other
        sizes = np.bincount(self.strata)
        expected = (self.per_stratum / sizes) @ second.per_stratum.T
        return _overlap(expected, self.counts, second.counts)

    def uniform_chance(self) -> np.ndarray:
        """``[P, P]`` the overlap expected of random sets as large, anywhere."""
        expected = np.outer(self.counts, self.counts) / self.places
        return _overlap(expected, self.counts, self.counts)

    def iou(self, other: LocatedSets | None = None) -> np.ndarray:
        """``[P, Q]`` eq. (9)'s IoU of every two sets; nan where both are empty."""
        second = self if other is None else other
        common = self.common(second)
        return _share(common, np.add.outer(self.counts, second.counts) - common)

    def smaller(self, other: LocatedSets | None = None) -> np.ndarray:
        """``[P, Q]`` what every two sets share, over the size of the smaller; nan where both are empty."""
        second = self if other is None else other
        least = np.minimum.outer(self.counts, second.counts)
        both_empty = np.maximum.outer(self.counts, second.counts) == 0
        return np.where(both_empty, np.nan, np.nan_to_num(_share(self.common(second), least)))


def _overlap(common: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Eq. (9)'s overlap from the shared counts ``[P, Q]`` and the sizes."""
    a, b = np.asarray(first, float)[:, None], np.asarray(second, float)[None]
    found = common * (1 / np.maximum(a, 1) + 1 / np.maximum(b, 1)) / 2
    return np.where(np.maximum(a, b) == 0, np.nan, found)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan))
