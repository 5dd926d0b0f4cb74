"""Put a trained difference into a model: for a while, or for good."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from caploc.interventions.enhancement.difference import RowDifference
from caploc.interventions.enhancement.placing import neuron_weights, zeroed_weights
from caploc.interventions.weights import replaced_weights
from caploc.model.loading import LanguageModel


@contextmanager
def enhanced(lm: LanguageModel, difference: RowDifference) -> Iterator[None]:
    """Within it ``lm`` is the trained model: the difference is in its weights, rounded to their dtype.

    Only the matrices that have trained neurons are copied. Leaving it, even by an exception, gives back the very bits.

    Raises:
        DifferenceError: the difference was trained on another model. Nothing has been changed then.
    """
    with replaced_weights(lm, changed_weights(lm, difference)):
        yield


def merge(lm: LanguageModel, difference: RowDifference) -> PreTrainedModel:
    """A copy of ``lm.model`` with the difference in its weights, plain transformers: ``save_pretrained`` writes it.

    Raises:
        DifferenceError: the difference was trained on another model.
    """
    weights = changed_weights(lm, difference)
    merged = copy.deepcopy(lm.model)
    with torch.no_grad():
        for name, weight in weights.items():
            merged.get_parameter(name).copy_(weight)
    return merged


def changed_weights(lm: LanguageModel, difference: RowDifference) -> dict[str, Tensor]:
    """By name, the parameters of ``lm.model`` that the difference changes, as they are with it.

    Raises:
        DifferenceError: the difference was trained on another model.
    """
    difference.check(lm)
    weights = {} if difference.zeroed is None else zeroed_weights(lm, difference.zeroed)
    for layer, rows in difference.layers.items():
        for part in neuron_weights(lm, layer):
            if part.path in rows.changes:
                name = part.name
                weights[name] = part.added(
                    weights.get(name, part.parameter.detach()), rows.indices, rows.changes[part.path]
                )
    return weights
