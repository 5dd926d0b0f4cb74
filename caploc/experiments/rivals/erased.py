"""What the model still scores where one method's neurons are erased."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from caploc.evaluation import evaluate
from caploc.experiments.evaluating import arrays_of
from caploc.experiments.evaluation_data import evaluation_items
from caploc.experiments.facts.stored import stored
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study


@dataclass(frozen=True, eq=False)
class Erased:
    """Outcomes on the evaluation items of the dataset that was located on, by method: ``score`` in 0 to 1 and ``nll``
    in nats a token of the reference answer; ``base`` the untouched model's score, ``chance`` that of guessing."""

    base: Float[np.ndarray, " items"]
    score: Mapping[str, Float[np.ndarray, " items"]]
    nll: Mapping[str, Float[np.ndarray, " items"]]
    chance: float
    notes: tuple[str, ...] = ()


def require_ability(study: Study, dataset: str) -> None:
    """Raise FloorError if the untouched model has nothing to lose on ``dataset``, NotRunError without enough items."""
    floor = evaluation_items(study, dataset).floor
    if floor:
        raise FloorError(floor)


def erased_of(study: Study, dataset: str, sets: Mapping[str, Bool[np.ndarray, "layers neurons"]]) -> Erased:
    """Erase each of ``sets``, by method, and evaluate; the outcomes are stored. Raises NotRunError."""
    items = evaluation_items(study, dataset)
    masks = torch.from_numpy(np.stack(list(sets.values())))
    places = [mask.nonzero().tolist() for mask in masks]
    outcomes = stored(
        study,
        "outcomes",
        {"items": items.fingerprint, "sets": places},
        lambda: arrays_of(evaluate(study.model_for(), items.prepared, masks)),
    )
    return Erased(
        items.base["score"],
        dict(zip(sets, outcomes["score"], strict=True)),
        dict(zip(sets, outcomes["nll"], strict=True)),
        items.chance,
        tuple(items.notes),
    )
