"""The sets of neurons that are erased for a dataset, and what a model still does without each of them.

`Erased` names all outcomes of one dataset and sigma, `LocatedErased` those of the located set alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from caploc.errors import OptionError
from caploc.experiments.evaluating import (
    EvaluationItems,
    GeneralText,
    Items,
    PreparedItems,
    Sets,
    evaluation_flops,
    in_datasets,
    outcome_tasks,
    outcomes_in,
    text_task,
)
from caploc.experiments.locating import Magnitudes, Scores, located_mask
from caploc.experiments.specs import FloorError, Spec, Task
from caploc.experiments.study import Study
from caploc.locators.magnitude import disjoint_sets
from caploc.neurons import NeuronMask
from caploc.statistics import draws_for, few_draws
from caploc.store import Entry

LOCATED, LAYER, UNIFORM, MAGNITUDE, LARGEST, TWIN = (
    "located",
    "by layer",
    "uniform",
    "by magnitude",
    "largest",
    "located in the untrained twin",
)
RANDOM_ARMS = (LAYER, UNIFORM, MAGNITUDE)
RANKED = "by layer, first items"
FEW_SETS = 12
"""Random sets that are evaluated on all items of the dataset located on."""
BESIDE = 3
"""Random sets of the arms that stand beside a verdict."""
ON_OTHERS: Mapping[str, int] = MappingProxyType({LOCATED: 1, LAYER: 6, MAGNITUDE: 2, LARGEST: 1})
"""The arms that are evaluated on other datasets than the one located on, and on general text, and how many of their
sets: those by layer are enough for a p value, whose smallest is 1 / 7 to the power of the datasets located on, those
by magnitude for a mean to stand beside it."""
RANK_ITEMS = 40
"""Items on which all random sets by layer are tried. The first ``FEW_SETS`` are tried on all items, and tell how large
an effect is; the rest serve the rank of the located set, which is exact on any items: on 40 of them a loss of 15 points
stands out from sets that cost a few, and so the many sets that a small p asks for cost a fifth as much."""
LEVEL = 0.05
"""Below which the rank of a located set must lie, after Holm over the study's datasets: so many sets are drawn."""
AT_ONCE = 50
"""Sets in one entry of the store: what two workers can take apart, and a killed run loses at most."""

ByArm = Mapping[str, Mapping[str, np.ndarray]]
"""Arm -> name of an outcome -> ``[sets, items]``."""


@dataclass(frozen=True, eq=False)
class Arms:
    """The sets of neurons erased for one dataset and sigma.

    ``sets``: arm -> bool ``[sets, layers, neurons]``:

    ================================= =============================================================================
    ``located``                       one set: eq. (8) on all of the dataset's locating examples
    ``by layer``                      as many random sets as the study has draws, each with its count in every layer
    ``uniform``                       random sets of its count, over all layers
    ``by magnitude``                  its nearest neurons in magnitude, layer by layer; absent where more than half of
                                      a layer is located
    ``largest``                       one set: the largest in magnitude, as many in every layer
    ``located in the untrained twin`` one set: location without an ability; absent where nothing passes
    ================================= =============================================================================

    No random set has a neuron that any dataset of the study locates at this sigma, where layers have enough others.

    ``magnitude``: arm -> ``[sets]`` the mean magnitude of each set's neurons (`caploc.locators.magnitude.Magnitude`).
    ``notes``: sentences on layers that have too few others.
    """

    sets: Mapping[str, Sets]
    magnitude: Mapping[str, np.ndarray]
    notes: Sequence[str] = ()

    @property
    def located(self) -> NeuronMask:
        return NeuronMask(self.sets[LOCATED][0])


@dataclass(frozen=True)
class ErasedArms(Spec[Arms]):
    """The sets for a dataset at a sigma. FloorError: nothing passes it."""

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield from (Scores(self.dataset), Scores(self.dataset, "untrained"), Magnitudes(self.dataset))
        yield from map(Scores, study.available())

    def read(self, study: Study, entries: Iterator[Entry]) -> Arms:
        seed, family = study.settings.seed, len(study.available())
        draws = draws_for(study.settings.draws, LEVEL, family)
        mask = located_mask(study, self.dataset, self.sigma)
        if mask.count == 0:
            raise nothing_located(self.dataset, self.sigma)
        sizes = study.result(Magnitudes(self.dataset))
        everywhere = located_anywhere(study, self.sigma)
        by_layer, short = disjoint_sets(mask, everywhere, draws, seed)
        sets = {
            LOCATED: mask.values[None],
            LAYER: by_layer,
            UNIFORM: disjoint_sets(mask, everywhere, BESIDE, seed, by_layer=False)[0],
            LARGEST: sizes.top_like(mask).values[None],
        }
        notes = [*few_draws(draws, LEVEL, family), *too_few_others(self.dataset, self.sigma, short)]
        try:
            sets[MAGNITUDE] = sizes.random_like(mask, BESIDE, seed, apart=everywhere)
        except OptionError as error:
            notes.append(f"no sets matched in magnitude: {error}")
        twin = located_mask(study, self.dataset, self.sigma, "untrained").values
        if twin.any():
            sets[TWIN] = twin[None]
        return Arms(sets, {arm: sizes.mean_of(members).numpy() for arm, members in sets.items()}, notes)


@dataclass(frozen=True, eq=False)
class Erasures:
    """The neurons located on one dataset at one sigma erased, and every other arm's sets.

    Attributes:
        arms: the sets.
        items: dataset -> its items, with ``base`` (outcomes by name, ``[items]``), ``chance`` and ``floor``.
        outcomes: dataset -> arm -> ``score``, ``nll``, ``exact``, ``ended`` ``[sets, items]``, as in
            `caploc.evaluation.Outcomes`. On ``located_on`` all arms, ``by layer`` the first ``FEW_SETS`` sets;
            elsewhere the first sets of those in ``ON_OTHERS``; where the base is at floor ``located`` alone.
        ranked: scores ``[draws, RANK_ITEMS]`` of all sets by layer on the first items of ``located_on``; empty where
            the base is at floor.
        text: arm -> nats a token of general text ``[sets, texts]``, and ``base`` ``[1, texts]``; empty where there is
            none.
    """

    located_on: str
    sigma: float
    arms: Arms
    items: Mapping[str, EvaluationItems]
    outcomes: Mapping[str, ByArm]
    text: Mapping[str, np.ndarray]
    ranked: np.ndarray

    def of(self, dataset: str, arm: str, outcome: str = "score") -> np.ndarray:
        """``[sets, items]`` an arm's outcomes on ``dataset``."""
        return self.outcomes[dataset][arm][outcome]

    @property
    def own(self) -> EvaluationItems:
        """The items of the dataset that was located on."""
        return self.items[self.located_on]


@dataclass(frozen=True)
class Erased(Spec[Erasures]):
    """Every arm's sets of a dataset at a sigma erased and evaluated, on this and, with ``elsewhere``, on the study's
    other datasets.

    NotRunError: the dataset cannot be had here. FloorError: nothing passes sigma.
    """

    dataset: str
    sigma: float
    elsewhere: bool = True

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        if self.elsewhere:
            yield replace(self, elsewhere=False)
        yield ErasedArms(self.dataset, self.sigma)
        yield from (Items(name) for name in dict.fromkeys((self.dataset, *study.available())))
        yield GeneralText()

    def _erased(self, study: Study) -> Iterator[tuple[EvaluationItems, str, Sets]]:
        """Which sets are evaluated on which items, arm by arm and chunk by chunk."""
        own = study.result(Items(self.dataset))
        arms = study.result(ErasedArms(self.dataset, self.sigma))
        others = in_datasets(study, Items) if self.elsewhere else {}
        for dataset, one in {self.dataset: own, **others}.items():
            at_home = dataset == self.dataset
            worth = arms.sets if at_home else ON_OTHERS
            for arm, sets in arms.sets.items():
                # where no loss can show, the located set alone is worth evaluating
                if arm == LOCATED or (arm in worth and one.floor is None):
                    few = sets[:FEW_SETS] if at_home else sets[: ON_OTHERS[arm]]
                    for chunk in few.split(AT_ONCE):
                        yield one, arm, chunk
        if own.floor is None:
            prepared = own.prepared.first(RANK_ITEMS)
            first = replace(own, prepared=prepared, fingerprint=f"{own.fingerprint}, first {prepared.items}")
            for chunk in arms.sets[LAYER][FEW_SETS:].split(AT_ONCE):
                if len(chunk):
                    yield first, RANKED, chunk

    def _texts(self, study: Study) -> dict[str, Sets | None]:
        if not study.result(GeneralText()):
            return {}
        arms = study.result(ErasedArms(self.dataset, self.sigma))
        chosen = {arm: arms.sets[arm][:count] for arm, count in ON_OTHERS.items() if arm in arms.sets}
        return {"base": None, **chosen}

    def tasks(self, study: Study) -> Iterable[Task]:
        for items, _, sets in self._erased(study):
            yield from outcome_tasks(study, items, sets)
        for chosen in self._texts(study).values():
            yield text_task(study, study.result(GeneralText()), chosen)

    def read(self, study: Study, entries: Iterator[Entry]) -> Erasures:
        outcomes: dict[str, dict[str, dict[str, list[np.ndarray]]]] = {}
        for items, arm, sets in self._erased(study):
            by_name = outcomes.setdefault(items.dataset, {}).setdefault(arm, {})
            for name, values in outcomes_in(entries, study, items, sets).items():
                by_name.setdefault(name, []).append(values)
        joined = {
            dataset: {
                arm: {name: np.concatenate(values) for name, values in by_name.items()}
                for arm, by_name in by_arm.items()
            }
            for dataset, by_arm in outcomes.items()
        }
        text = {arm: next(entries).arrays["nats"] for arm in self._texts(study)}
        arms = study.result(ErasedArms(self.dataset, self.sigma))
        own = joined[self.dataset]
        further = own.pop(RANKED, None)
        ranked = np.zeros((0, 0))
        if LAYER in own:
            ranked = own[LAYER]["score"][:, :RANK_ITEMS]
            ranked = ranked if further is None else np.concatenate([ranked, further["score"]])
        return Erasures(self.dataset, self.sigma, arms, in_datasets(study, Items), joined, text, ranked)

    def flops(self, study: Study) -> float:
        at_home = 3 + FEW_SETS + 2 * BESIDE + study.settings.draws // 2
        if not self.elsewhere:
            return evaluation_flops(study, study.result(PreparedItems(self.dataset)), at_home)
        return sum(  # what it has at home is counted there
            evaluation_flops(study, items, sum(ON_OTHERS.values()))
            for dataset, items in in_datasets(study, PreparedItems).items()
            if dataset != self.dataset
        )


@dataclass(frozen=True)
class ErasedWithLoss(Spec[Erasures]):
    """As `Erased` at home, where the untouched model has something to lose on the dataset. FloorError: it has not."""

    dataset: str
    sigma: float

    @property
    def _all(self) -> Erased:
        return Erased(self.dataset, self.sigma, elsewhere=False)

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self._all, *self._all.after(study))

    def tasks(self, study: Study) -> Iterable[Task]:
        self._check(study)
        return study.tasks(self._all)

    def read(self, study: Study, entries: Iterator[Entry]) -> Erasures:
        self._check(study)
        return study.result(self._all)

    def flops(self, study: Study) -> float:
        return self._all.flops(study)

    def _check(self, study: Study) -> None:
        floor = study.result(Items(self.dataset)).floor
        if floor is not None:
            raise FloorError(floor)


@dataclass(frozen=True)
class LocatedErased(Spec[Mapping[str, np.ndarray]]):
    """Outcomes ``[items]`` by name without what a dataset locates at a sigma; the base ones where that is nothing."""

    dataset: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Scores(self.dataset), Items(self.dataset))

    def tasks(self, study: Study) -> Iterable[Task]:
        mask = located_mask(study, self.dataset, self.sigma)
        if mask.count:
            yield from outcome_tasks(study, study.result(Items(self.dataset)), mask.values[None])

    def read(self, study: Study, entries: Iterator[Entry]) -> Mapping[str, np.ndarray]:
        items, mask = study.result(Items(self.dataset)), located_mask(study, self.dataset, self.sigma)
        if not mask.count:
            return items.base
        return {
            name: values[0] for name, values in outcomes_in(entries, study, items, mask.values[None]).items()
        }

    def flops(self, study: Study) -> float:
        return evaluation_flops(study, study.result(PreparedItems(self.dataset)))


@dataclass(frozen=True)
class FewErased(Spec[tuple[np.ndarray, np.ndarray]]):
    """At one more sigma: scores ``[items]`` located and ``[FEW_SETS, items]`` of random sets matched by layer.

    Only where fewer than ``fewer_than`` neurons are located at ``sigma``; else it is a FloorError.
    """

    dataset: str
    sigma: float
    lower: float
    fewer_than: int

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield from map(Scores, dict.fromkeys((self.dataset, *study.available())))
        yield Items(self.dataset)

    def _erased(self, study: Study) -> list[Sets]:
        mask = located_mask(study, self.dataset, self.lower)
        apart = located_anywhere(study, self.lower)
        return [mask.values[None], disjoint_sets(mask, apart, FEW_SETS, study.settings.seed)[0]]

    def tasks(self, study: Study) -> Iterable[Task]:
        count = located_mask(study, self.dataset, self.sigma).count
        items = study.result(Items(self.dataset))
        if count == 0 or count >= self.fewer_than or self.sigma <= self.lower or items.floor is not None:
            raise FloorError(
                f"{count} neurons pass sigma {self.sigma:g} on {self.dataset}: no lower one is needed"
            )
        for sets in self._erased(study):
            yield from outcome_tasks(study, items, sets)

    def read(self, study: Study, entries: Iterator[Entry]) -> tuple[np.ndarray, np.ndarray]:
        items = study.result(Items(self.dataset))
        located, random = (outcomes_in(entries, study, items, sets)["score"] for sets in self._erased(study))
        return located[0], random

    def flops(self, study: Study) -> float:
        return evaluation_flops(study, study.result(PreparedItems(self.dataset)), 1 + FEW_SETS)


def located_anywhere(study: Study, sigma: float) -> Bool[Tensor, "layers neurons"]:
    """What any dataset of the study locates at a sigma."""
    return torch.stack([located_mask(study, one, sigma).values for one in study.available()]).any(0)


def too_few_others(dataset: str, sigma: float, layers: Sequence[int]) -> list[str]:
    """Says where random sets cannot keep clear of all that is located."""
    if not layers:
        return []
    which = ", ".join(map(str, layers))
    return [
        f"random sets for {dataset} at sigma {sigma:g} hold neurons that other datasets locate, or fewer than are "
        f"located, in layer {which}: too few others are left there"
    ]


def nothing_located(dataset: str, sigma: float) -> FloorError:
    """Why nothing can be erased."""
    return FloorError(f"floor effect: no neuron passes sigma {sigma:g} on {dataset}, so none can be erased")
