"""Locating single facts: what a method finds for every prompt of a fact set, each by itself, under every cut, and how
much any two of the sets share (eq. 9), within a fact and across facts.

``LocatedFacts("kn", facts)`` names it, of any method in ``caploc.LOCATORS``. What a method measures on a prompt is an
entry of the store, so that a run resumes and processes share the work; every cut is made from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import sparse

from caploc import statistics as stats
from caploc.errors import ModelError
from caploc.experiments.evidence import bound, difference
from caploc.experiments.facts import BY_SUBJECT, FactSet, passes_flops
from caploc.experiments.specs import NotRunError, Spec, Task
from caploc.experiments.study import Study
from caploc.findings import Bound, Effect
from caploc.locators import LOCATORS
from caploc.locators.method import Arrays, Asked, Conditions, FactMethod, Measure
from caploc.statistics import random_sides
from caploc.store import Entry

PASSES: Mapping[str, float] = MappingProxyType({"kn": 60.0, "rome": 150.0, "kc": 200.0})
"""Roughly how many forward passes of a prompt its location costs, by method; ``OTHER_PASSES`` by any other."""
OTHER_PASSES = 100.0
HALVES = 20
"""Random halves of the facts whose mean scores are compared."""


# ------------------------------------------------------------------------------------------ sets, and what they share


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
        self.within: stats.Within = stats.within_facts(self.matrix, self.fact, len(facts))
        across = stats.across_facts(self.matrix, self.fact, len(facts))
        subject = np.equal.outer(facts.clusters, facts.clusters)
        answer = np.equal.outer(facts.answers, facts.answers)
        self._unrelated = np.where(subject | answer, np.nan, across)
        self._same_answer = np.where(answer & ~subject, across, np.nan)
        self.mean, self.unrelated = (
            stats.defined_mean(self.within.values),
            stats.defined_mean(self._unrelated),
        )
        self.controls = {
            "unrelated facts": self.unrelated,
            "same answer, another subject": stats.defined_mean(self._same_answer),
            "same subject, another answer": stats.defined_mean(across[subject & ~answer]),
        }

    @property
    def chance(self) -> float:
        """The mean overlap of random sets in the place of two wordings', matched in every stratum."""
        return self.mean_chance(self.sets.chance())

    def mean_chance(self, matrix: np.ndarray) -> float:
        """As ``mean``, of the chance levels ``matrix [P, P]`` of every two sets."""
        return stats.defined_mean(stats.within_facts(matrix, self.fact, len(self.facts)).values)

    @property
    def baselines(self) -> np.ndarray:
        """``[F]`` each fact's mean overlap with unrelated ones."""
        return np.array([stats.defined_mean(row) for row in self._unrelated])

    @property
    def of_same_answer(self) -> np.ndarray:
        """``[F]`` each fact's mean overlap with those of other subjects that have its answer."""
        return np.array([stats.defined_mean(row) for row in self._same_answer])

    @property
    def effect_size(self) -> float | None:
        """Within a fact minus its own baseline, in standard deviations over facts."""
        gaps = self.within.values - self.baselines
        gaps = gaps[np.isfinite(gaps)]
        return float(gaps.mean() / gaps.std(ddof=1)) if len(gaps) > 1 and np.ptp(gaps) > 0 else None

    def gaps(self, seed: int) -> tuple[Effect, Effect]:
        """How far wordings of one fact lie above unrelated facts, and above other facts with the same answer."""
        weights = stats.cluster_weights(self.facts.clusters, seed)
        within = stats.weighted_mean(self.within.values, weights)
        unrelated, same_answer = (
            difference(
                self.mean - stats.defined_mean(across),
                stats.defined_interval(within - stats.weighted_pair_mean(across, weights)),
                "facts",
            )
            for across in (self._unrelated, self._same_answer)
        )
        return unrelated, same_answer

    def corrected(self, seed: int) -> tuple[Bound, Bound]:
        """The overlap of wordings corrected for chance, (overlap - chance) / (1 - chance): chance being what unrelated
        facts share, and what other subjects' facts with the same answer share."""
        weights = stats.cluster_weights(self.facts.clusters, seed)
        drawn, usable = stats.weighted_mean(self.within.values, weights), self.within.defined
        least = stats.adjusted_interval(
            self.within.values[usable], (0, 1), clusters=self.facts.clusters[usable]
        )

        def over(across: np.ndarray) -> Bound:
            chance, chances = stats.defined_mean(across), stats.weighted_pair_mean(across, weights)
            with np.errstate(divide="ignore", invalid="ignore"):
                low, high, mean = (
                    (np.float64(one) - chance) / (1 - chance) for one in (least.low, least.high, self.mean)
                )
                own = stats.defined_interval((drawn - chances) / (1 - chances))
            wide = stats.at_least(own, stats.Interval(float(low), float(high), least.level, least.kind))
            return bound(float(mean), wide, BY_SUBJECT)

        return over(self._unrelated), over(self._same_answer)

    def equal_share(self) -> float:
        """Mean over facts of the share of pairs whose sets are the same and not empty."""
        counts = self.sets.counts
        common = self.sets.common()
        equal = (common == counts[:, None]) & (common == counts[None]) & (counts > 0)
        return stats.defined_mean(stats.within_facts(equal.astype(float), self.fact, len(self.facts)).values)


def _overlap(common: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Eq. (9)'s overlap from the shared counts ``[P, Q]`` and the sizes."""
    a, b = np.asarray(first, float)[:, None], np.asarray(second, float)[None]
    found = common * (1 / np.maximum(a, 1) + 1 / np.maximum(b, 1)) / 2
    return np.where(np.maximum(a, b) == 0, np.nan, found)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan))


# ---------------------------------------------------------------------------------------------------------- locating


def where(study: Study, measure: Measure, control: str = "") -> str:
    """The control, in float32 where the measure needs that."""
    return study.precise(control) if measure.precise else control


def measured_task(study: Study, measure: Measure, asked: Asked, control: str = "") -> Task:
    """What is measured on one example under a control."""
    control = where(study, measure, control)

    def compute() -> tuple[Arrays, Mapping[str, Any]]:
        return study.hold(measure, control, measure.measuring)(asked), {"example": asked.tokens.id}

    return Task(measure.key(study.named(control), asked), compute)


@dataclass(frozen=True, eq=False)
class FactLocations:
    """What a method located for P prompts.

    Attributes:
        sets: by the cut that verdicts rest on, whose name is ``cut``.
        variants: by the other cuts, which show how much hangs on it.
        share: ``[P]`` of the model's parameters in the located places.
        numbers: what the method measured that is one number a prompt, ``[P]`` each, such as the answer's probability.
        settings: how the method measures and cuts.
    """

    sets: LocatedSets
    cut: str
    variants: Mapping[str, LocatedSets]
    share: np.ndarray
    numbers: Mapping[str, np.ndarray]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class LocatedFacts(Spec[FactLocations]):
    """What ``method`` locates for every prompt of ``facts``, under a control (`caploc.experiments.study.Study`).

    NotRunError: the method cannot be applied to the model. Raises what ``facts`` raises, too.
    """

    method: str
    facts: Spec[FactSet]
    control: str = ""

    @property
    def title(self) -> str:
        return f"{self.method} on facts {self.control}".strip()

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, method = study.result(self.facts), self.method_of(study)
        lm = study.named(where(study, method, self.control))
        try:
            method.check(lm)
        except ModelError as error:
            raise NotRunError(str(error)) from error
        for tokens, example in zip(facts.prompts, facts.examples, strict=True):
            yield measured_task(study, method, Asked(tokens, example), self.control)

    def read(self, study: Study, entries: Iterator[Entry]) -> FactLocations:
        method, lm = self.method_of(study), study.named(self.control)
        places: dict[str, list[np.ndarray]] = {}
        shares: list[float] = []
        numbers: dict[str, list[float]] = {}
        strata = np.zeros(0, np.int64)
        for entry in entries:
            cuts = method.cuts(lm, entry.arrays)
            for name, one in cuts.items():
                places.setdefault(name, []).append(one.values.numpy(force=True).ravel().nonzero()[0])
            decides = next(iter(cuts.values()))
            shares.append(decides.parameter_share(lm))
            for name, values in entry.arrays.items():
                if values.ndim == 0:
                    numbers.setdefault(name, []).append(float(values))
            if not len(strata):
                strata = decides.strata
        sets = {name: LocatedSets.of_places(found, len(strata), strata) for name, found in places.items()}
        cut = next(iter(sets))
        return FactLocations(
            sets.pop(cut),
            cut,
            sets,
            np.array(shares),
            {name: np.array(values) for name, values in numbers.items()},
            method.settings(lm),
        )

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, PASSES.get(self.method, OTHER_PASSES))

    def method_of(self, study: Study) -> FactMethod:
        """The method, with the study's seed and reading of eq. (7)."""
        settings = study.settings
        conditions = Conditions(settings.seed, settings.attribution, settings.restored)
        return LOCATORS[self.method].on_facts(conditions)


@dataclass(frozen=True, eq=False)
class AveragedHalves:
    """``overlap [HALVES]`` of what is located by the mean scores of two random halves of the known facts, each in its
    original wording, with ``facts`` in each half."""

    overlap: np.ndarray
    facts: int


@dataclass(frozen=True)
class LocatedHalves(Spec[AveragedHalves]):
    """What averaging alone does to an overlap: the method's cut on scores summed over each half of the known facts.

    Of methods whose measurements are scores, ``values``.
    """

    located: LocatedFacts

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, tasks = study.result(self.located.facts), study.tasks(self.located)
        yield from (tasks[index] for index in facts.first[facts.known])

    def read(self, study: Study, entries: Iterator[Entry]) -> AveragedHalves:
        known = int(study.result(self.located.facts).known.sum())
        method, lm = self.located.method_of(study), study.named(self.located.control)
        sides = random_sides(known, HALVES, study.settings.seed)
        sums = np.zeros((HALVES, 2, lm.num_layers, lm.num_neurons))
        for number, entry in enumerate(entries):
            values = entry.arrays["values"].astype(np.float64)
            for draw, side in enumerate(sides[:, number]):
                sums[draw, side] += values
        overlaps = []
        for pair in sums:
            first, second = (next(iter(method.cuts(lm, {"values": half}).values())) for half in pair)
            overlaps.append(first.overlap(second))
        return AveragedHalves(np.array(overlaps), known // 2)
