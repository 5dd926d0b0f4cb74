"""What a model still does once neurons are erased: outcomes of every set on every dataset, kept in the store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from caploc.evaluation import evaluate, text_loss
from caploc.experiments.endings import FloorError
from caploc.experiments.erasure.arms import (
    FEW_SETS,
    LARGEST,
    LAYER,
    LOCATED,
    MAGNITUDE,
    Arms,
    arms_of,
    located_mask,
)
from caploc.experiments.evaluation_data import EvaluationItems, arrays_of, evaluation_items
from caploc.experiments.facts.stored import Make, stored, stored_all
from caploc.experiments.general_text import general_texts
from caploc.experiments.study import NotRunError, Study
from caploc.locators.magnitude import random_sets

AT_ONCE = 50
"""Sets in one entry of the store: what two workers can take apart, and a killed run loses at most."""
ON_OTHERS: Mapping[str, int] = MappingProxyType({LOCATED: 1, LAYER: FEW_SETS, MAGNITUDE: 5, LARGEST: 1})
"""The arms that are evaluated on other datasets than the one located on, and on general text, and how many of their
sets: those by layer are enough for a p value, those by magnitude for a mean to stand beside it."""
ByArm = Mapping[str, Mapping[str, np.ndarray]]
"""Arm -> name of an outcome -> ``[sets, items]``."""


@dataclass(frozen=True, eq=False)
class Erasures:
    """The neurons located on one dataset at one sigma erased, and every other arm's sets.

    Attributes:
        arms: the sets (`caploc.experiments.erasure.arms.Arms`).
        items: dataset -> its items, with ``base`` (outcomes by name, ``[items]``), ``chance`` and ``floor``.
        outcomes: dataset -> arm -> ``score``, ``nll``, ``exact``, ``ended`` ``[sets, items]``, as in
            `caploc.evaluation.Outcomes`. On ``located_on`` all arms; elsewhere the first sets of
            those in ``ON_OTHERS``; where the base is at floor ``located`` alone.
        text: arm -> nats a token of general text ``[sets, texts]``, and ``base`` ``[1, texts]``; empty where there is
            none.
    """

    located_on: str
    sigma: float
    arms: Arms
    items: Mapping[str, EvaluationItems]
    outcomes: Mapping[str, ByArm]
    text: Mapping[str, np.ndarray]

    def of(self, dataset: str, arm: str, outcome: str = "score") -> np.ndarray:
        """``[sets, items]`` an arm's outcomes on ``dataset``."""
        return self.outcomes[dataset][arm][outcome]

    @property
    def own(self) -> EvaluationItems:
        """The items of the dataset that was located on."""
        return self.items[self.located_on]


def erasures(study: Study, located_on: str, sigma: float) -> Erasures:
    """Every arm's sets of ``located_on`` at ``sigma`` erased and evaluated; made once, and stored set by set.

    Raises:
        NotRunError: the dataset cannot be had here.
        FloorError: nothing passes sigma.
    """

    def make() -> Erasures | NotRunError | FloorError:
        try:
            return _erasures(study, located_on, sigma)
        except (NotRunError, FloorError) as error:
            return error

    found = study.once(("erasures", located_on, float(sigma)), make)
    if isinstance(found, Exception):
        raise found
    return found


def nothing_located(dataset: str, sigma: float) -> FloorError:
    """Why nothing can be erased."""
    return FloorError(f"floor effect: no neuron passes sigma {sigma:g} on {dataset}, so none can be erased")


def located_outcomes(study: Study, dataset: str, sigma: float) -> Mapping[str, np.ndarray]:
    """Outcomes ``[items]`` of ``dataset`` without what it locates at ``sigma``; the base ones where that is nothing."""
    items, mask = evaluation_items(study, dataset), located_mask(study, dataset, sigma)
    if mask.count == 0:
        return items.base
    (found,) = _evaluated(study, [(items, mask.values[None])])
    return {name: values[0] for name, values in found.items()}


def few_by_layer(study: Study, dataset: str, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[items]`` located and ``[FEW_SETS, items]`` of random sets matched by layer, at one more sigma."""
    items, mask = evaluation_items(study, dataset), located_mask(study, dataset, sigma)
    sets = random_sets(mask, FEW_SETS, study.settings.seed)
    located, random = _evaluated(study, [(items, mask.values[None]), (items, sets)])
    return located["score"][0], random["score"]


def evaluated_datasets(study: Study) -> dict[str, EvaluationItems]:
    """The items of every dataset of the study that can be located and evaluated on here."""
    found = {}
    for dataset in study.available():
        try:
            found[dataset] = evaluation_items(study, dataset)
        except NotRunError:
            continue
    return found


def with_something_to_lose(study: Study, sigma: float) -> tuple[dict[str, Erasures], list[str]]:
    """The erasures of every dataset whose base score can fall and that locates something, and why others are left out.

    Raises:
        FloorError: none is left; the message names every floor.
    """
    found, notes = {}, []
    for dataset, items in evaluated_datasets(study).items():
        if items.floor is not None:
            notes.append(items.floor)
            continue
        try:
            found[dataset] = erasures(study, dataset, sigma)
        except FloorError as error:
            notes.append(str(error))
    if not found:
        raise FloorError("; ".join(notes) or "no dataset of the study can be evaluated on here")
    return found, notes


def _erasures(study: Study, located_on: str, sigma: float) -> Erasures:
    own = evaluation_items(study, located_on)
    if located_mask(study, located_on, sigma).count == 0:
        raise nothing_located(located_on, sigma)
    arms = arms_of(study, located_on, sigma)
    items = evaluated_datasets(study)
    places, tasks = [], []
    for dataset, one in {located_on: own, **items}.items():
        for arm, sets in arms.sets.items():
            if arm not in _worth(one, dataset == located_on, arms):
                continue
            for chunk in (sets if dataset == located_on else sets[: ON_OTHERS[arm]]).split(AT_ONCE):
                places.append((dataset, arm))
                tasks.append((one, chunk))
    outcomes: dict[str, dict[str, dict[str, list[np.ndarray]]]] = {}
    title = f"erasing what {located_on} locates at sigma {sigma:g}"
    for (dataset, arm), arrays in zip(places, _evaluated(study, tasks, title), strict=True):
        for name, values in arrays.items():
            outcomes.setdefault(dataset, {}).setdefault(arm, {}).setdefault(name, []).append(values)
    joined = {
        dataset: {
            arm: {name: np.concatenate(values) for name, values in named.items()}
            for arm, named in by_arm.items()
        }
        for dataset, by_arm in outcomes.items()
    }
    return Erasures(located_on, sigma, arms, items, joined, _text(study, arms))


def _worth(items: EvaluationItems, own: bool, arms: Arms) -> Collection[str]:
    """The arms that are worth evaluating: where no loss can show, the located set alone."""
    if items.floor is not None:
        return (LOCATED,)
    return arms.sets if own else ON_OTHERS


def _evaluated(
    study: Study,
    tasks: Sequence[tuple[EvaluationItems, Bool[Tensor, "sets layers neurons"]]],
    progress: str | None = None,
) -> list[Mapping[str, np.ndarray]]:
    """Outcomes ``[sets, items]`` by name, for each task."""

    def make(items: EvaluationItems, sets: Tensor) -> Make:
        return lambda: arrays_of(evaluate(study.model_for(), items.prepared, sets))

    keyed = [
        ({"items": items.fingerprint, "sets": _places(sets)}, make(items, sets)) for items, sets in tasks
    ]
    return stored_all(study, "outcomes", keyed, progress)


def _text(study: Study, arms: Arms) -> dict[str, np.ndarray]:
    texts = list(general_texts(study))
    if not texts:
        return {}
    found = {}
    by_arm = {arm: arms.sets[arm][:count] for arm, count in ON_OTHERS.items() if arm in arms.sets}
    for arm, sets in {"base": None, **by_arm}.items():
        key = {"texts": texts, "sets": None if sets is None else _places(sets)}

        def make(sets: Tensor | None = sets) -> dict[str, np.ndarray]:
            return {"nats": np.atleast_2d(text_loss(study.model_for(), texts, sets))}

        found[arm] = stored(study, "text loss", key, make)["nats"]
    return found


def _places(sets: Tensor) -> list[list[int]]:
    """Each set's neurons, numbered through the layers."""
    return [one.ravel().nonzero()[:, 0].tolist() for one in sets]
