"""What a method located for many prompts, kept sparse: how much any two of the sets share (eq. 9), within a fact and
across facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from caploc.experiments.evidence import difference
from caploc.experiments.facts import FactSet
from caploc.findings import Effect
from caploc.neurons import NeuronMask
from caploc.statistics import (
    Within,
    across_facts,
    cluster_weights,
    defined_interval,
    defined_mean,
    weighted_mean,
    weighted_pair_mean,
    within_facts,
)


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


class Agreements:
    """Overlaps of the sets of chosen prompts, within facts and across them; F counts all facts, chosen or not.

    Unrelated facts, the baseline, have another subject and another answer.
    """

    def __init__(self, facts: FactSet, sets: LocatedSets, chosen: np.ndarray) -> None:
        self.facts, self.sets, self.fact = facts, sets[chosen], facts.fact[chosen]
        self.matrix = self.sets.overlap()
        self.within: Within = within_facts(self.matrix, self.fact, len(facts))
        across = across_facts(self.matrix, self.fact, len(facts))
        subject = np.equal.outer(facts.clusters, facts.clusters)
        answer = np.equal.outer(facts.answers, facts.answers)
        self._unrelated = np.where(subject | answer, np.nan, across)
        self._same_answer = np.where(answer & ~subject, across, np.nan)
        self.mean, self.unrelated = defined_mean(self.within.values), defined_mean(self._unrelated)
        self.controls = {
            "unrelated facts": self.unrelated,
            "same answer, another subject": defined_mean(self._same_answer),
            "same subject, another answer": defined_mean(across[subject & ~answer]),
        }

    @property
    def chance(self) -> float:
        """The mean overlap of random sets in the place of two wordings', matched in every stratum."""
        return self.mean_chance(self.sets.chance())

    def mean_chance(self, matrix: np.ndarray) -> float:
        """As ``mean``, of the chance levels ``matrix [P, P]`` of every two sets."""
        return defined_mean(within_facts(matrix, self.fact, len(self.facts)).values)

    @property
    def baselines(self) -> np.ndarray:
        """``[F]`` each fact's mean overlap with unrelated ones."""
        return np.array([defined_mean(row) for row in self._unrelated])

    @property
    def of_same_answer(self) -> np.ndarray:
        """``[F]`` each fact's mean overlap with those of other subjects that have its answer."""
        return np.array([defined_mean(row) for row in self._same_answer])

    @property
    def effect_size(self) -> float | None:
        """Within a fact minus its own baseline, in standard deviations over facts."""
        gaps = self.within.values - self.baselines
        gaps = gaps[np.isfinite(gaps)]
        return float(gaps.mean() / gaps.std(ddof=1)) if len(gaps) > 1 and np.ptp(gaps) > 0 else None

    def gaps(self, seed: int) -> tuple[Effect, Effect]:
        """How far wordings of one fact lie above unrelated facts, and above other facts with the same answer."""
        weights = cluster_weights(self.facts.clusters, seed)
        within = weighted_mean(self.within.values, weights)
        unrelated, same_answer = (
            difference(
                self.mean - defined_mean(across),
                defined_interval(within - weighted_pair_mean(across, weights)),
                "facts",
            )
            for across in (self._unrelated, self._same_answer)
        )
        return unrelated, same_answer

    def equal_share(self) -> float:
        """Mean over facts of the share of pairs whose sets are the same and not empty."""
        counts = self.sets.counts
        common = self.sets.common()
        equal = (common == counts[:, None]) & (common == counts[None]) & (counts > 0)
        return defined_mean(within_facts(equal.astype(float), self.fact, len(self.facts)).values)


def _overlap(common: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Eq. (9)'s overlap from the shared counts ``[P, Q]`` and the sizes."""
    a, b = np.asarray(first, float)[:, None], np.asarray(second, float)[None]
    found = common * (1 / np.maximum(a, 1) + 1 / np.maximum(b, 1)) / 2
    return np.where(np.maximum(a, b) == 0, np.nan, found)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan))
