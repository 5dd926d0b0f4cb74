"""Erase neurons: their parameters set to zero, as the paper erases what it located (section 5.4, Table 3).

A neuron owns a row of every projection into its MLP (gate and up, or fc_in with its bias) and a column of the one out.
With all of them zero, or the column alone, it hands on 0 whatever the text. That equals zeroing its activation at every
position: `caploc.interventions.activations.scaled` with ``factor=0, at=None``, `caploc.evaluation.evaluate` with
``sets`` (caploc/tests/interventions/test_erasure.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from torch import Tensor, nn

from caploc.architectures import input_axis
from caploc.errors import OptionError
from caploc.interventions.weights import replaced_weights
from caploc.models import LanguageModel
from caploc.neurons import NeuronMask

Weights = Literal["all", "in", "out"]


@contextmanager
def erased(lm: LanguageModel, mask: NeuronMask, weights: Weights = "all") -> Iterator[None]:
    """Within it the weights of the mask's neurons are zero.

    ::

        with erased(lm, scores.mask(sigma=6)):
            lm.model(input_ids=ids)

    Leaving it, even by an exception, gives back the very bits (`caploc.interventions.weights.replaced_weights`).

    Args:
        weights: which of a neuron's weights. ``all``: rows in, their biases, and the column out. ``out``: the column
            alone, which comes to the same. ``in``: the rows without their biases; the same for a family without them
            (Llama), but elsewhere (GPT-J) the neuron still hands on what its nonlinearity makes of the bias.

    Raises:
        OptionError: an empty mask, one of another model (by shape, or by fingerprint where the mask carries one), or
            unknown ``weights``. Nothing has been changed then.
    """
    with replaced_weights(lm, erased_weights(lm, mask, weights)):
        yield


def erased_weights(lm: LanguageModel, mask: NeuronMask, weights: Weights = "all") -> dict[str, Tensor]:
    """The parameters that `erased` puts in place, by name: copies with zeros in them. Raises as `erased`."""
    check_mask(lm, mask)
    if weights not in get_args(Weights):
        raise OptionError(f"weights must be one of {', '.join(get_args(Weights))}, got {weights!r}")
    model: nn.Module = lm.model
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}

    def zero(parameter: object, members: Tensor, dim: int) -> None:
        if isinstance(parameter, nn.Parameter):  # a projection may have no bias
            found[names[id(parameter)]] = _zeroed(parameter, members, dim)

    for layer, members in zip(lm.layers, mask.values.to(lm.device), strict=True):
        if not members.any():
            continue
        out = lm.architecture.mlp_out_of(layer)
        if weights != "in":
            zero(out.weight, members, input_axis(out))
        for path in lm.architecture.mlp_in if weights != "out" else ():
            into = layer.get_submodule(path)
            zero(into.weight, members, 1 - input_axis(into))
            if weights == "all":
                zero(into.bias, members, 0)
    return found


def check_mask(lm: LanguageModel, mask: NeuronMask) -> None:
    """Refuse a mask that cannot be of ``lm``'s neurons, or holds none.

    Raises:
        OptionError: see `erased`.
    """
    shape = (lm.num_layers, lm.num_neurons)
    if mask.values.shape != shape:
        raise OptionError(
            f"the mask is of {tuple(mask.values.shape)} layers and neurons, {lm.name} has {shape}: it is of another "
            "model; locate in this one"
        )
    if mask.model is not None and mask.model != lm.fingerprint:
        raise OptionError(
            f"the mask was located in another model than {lm.name} as it is now (fingerprint {mask.model[:12]}, not "
            f"{lm.fingerprint[:12]}); locate in this one, or take NeuronMask(mask.values) if that is meant"
        )
    if mask.count == 0:
        raise OptionError("the mask is empty: no neuron passes the threshold; locate with a lower sigma")


def _zeroed(weight: Tensor, members: Tensor, dim: int) -> Tensor:
    """A copy of ``weight``, zero at the neurons' places along ``dim``; gate and up may stand there one after the other
    (Phi-3)."""
    places = members.repeat(weight.shape[dim] // len(members)).nonzero()[:, 0]
    return weight.detach().clone().index_fill_(dim, places, 0)
