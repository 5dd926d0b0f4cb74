"""A model's weights: other ones for a while, those that are a neuron's own, and neurons erased by setting theirs to
zero.

A neuron owns a row of every projection into its MLP (gate and up, or fc_in with its bias) and a column of the one
out. With all of them zero, or the column alone, it hands on 0 whatever the text, which is how the paper erases what
it located (section 5.4, Table 3). That equals zeroing its activation at every position:
`caploc.interventions.activations.scaled` with ``factor=0, at=None``, `caploc.evaluation.evaluate` with ``sets``
(caploc/tests/interventions/test_erasure.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from caploc.architectures import input_axis
from caploc.errors import OptionError
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.sizing import refused_if_too_large

Side = Literal["in", "out"]
Weights = Literal["all", "in", "out"]


@contextmanager
def replaced_weights(lm: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it the named parameters of ``lm.model`` hold ``weights``.

    ::

        with replaced_weights(lm, {"model.layers.3.mlp.down_proj.weight": edited}):
            lm.model(input_ids=ids)

    The parameters' own storage is set aside, not copied and not written to, so that leaving, even by an exception,
    gives back the very bits (NaN payloads and all), also where what stood in its place was trained or changed. The
    given tensors are used as they are. Contexts may be nested. Results under changed weights are not mistaken for the
    model's own: ``lm.fingerprint`` is that of the weights in force.

    Args:
        weights: by the names of ``lm.model.named_parameters()``; either name of a tied one.

    Raises:
        OptionError: no such parameter, another shape, dtype or device, or a tied parameter given twice. Nothing has
            been changed then.
    """
    parameters = _checked(lm, weights)
    own = [(parameter, parameter.data) for parameter in parameters.values()]
    fingerprint = lm.__dict__.pop("fingerprint", None)
    try:
        for name, parameter in parameters.items():
            parameter.data = weights[name].detach()
        yield
    finally:
        for parameter, data in own:
            parameter.data = data
        lm.__dict__.pop("fingerprint", None)
        if fingerprint is not None:
            lm.__dict__["fingerprint"] = fingerprint


def _checked(lm: LanguageModel, weights: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    known = dict(lm.model.named_parameters(remove_duplicate=False))
    names: dict[int, str] = {}
    for name, weight in weights.items():
        if name not in known:
            raise OptionError(
                f"{lm.name} has no parameter {name!r}; its names are those of model.named_parameters()"
            )
        parameter = known[name]
        if id(parameter) in names:
            raise OptionError(f"{name!r} and {names[id(parameter)]!r} are one tied parameter; give it once")
        names[id(parameter)] = name
        for what in ("shape", "dtype", "device"):
            given, own = getattr(weight, what), getattr(parameter, what)
            if given != own:
                raise OptionError(
                    f"the {what} of {name!r} is {own}, that of the new weight {given}; make them equal"
                )
    return {name: known[name] for name in weights}


@dataclass(frozen=True, eq=False)
class NeuronWeights:
    """One parameter of a layer's MLP in which every neuron has its own part.

    Attributes:
        path: the parameter's path from the layer.
        name: its name in ``lm.model.named_parameters()``.
        side: ``in`` of an input projection or its bias, ``out`` of the output projection.
        neurons: of the layer.
        dim: the parameter's dimension that counts neurons; twice as many where gate and up are one (Phi-3).
    """

    path: str
    name: str
    parameter: Tensor
    side: Side
    neurons: int
    dim: int

    @property
    def kind(self) -> str:
        """``weight`` or ``bias``."""
        return self.path.rpartition(".")[2]

    def rows(self, indices: Tensor) -> Tensor:
        """Where along ``dim`` the neurons ``indices [k]`` lie: k places, or 2k in a fused projection."""
        fused = self.parameter.shape[self.dim] // self.neurons
        return torch.cat([indices + part * self.neurons for part in range(fused)])

    def row_shape(self, count: int) -> tuple[int, ...]:
        """The shape of a change of ``count`` neurons: rows first."""
        fused = self.parameter.shape[self.dim] // self.neurons
        return (count * fused, *(size for dim, size in enumerate(self.parameter.shape) if dim != self.dim))

    def added(self, weight: Tensor, indices: Tensor, change: Tensor) -> Tensor:
        """A copy of ``weight`` with ``change [rows, ...]`` added to the neurons' rows, rounded once to its dtype."""
        places = self.rows(indices.to(weight.device))
        change = change.to(weight.device).movedim(0, self.dim)
        sums = (weight.index_select(self.dim, places) + change).to(weight.dtype)
        return weight.index_copy(self.dim, places, sums)

    def zeroed(self, indices: Tensor) -> Tensor:
        """A copy of the parameter with the neurons' part of it set to 0."""
        weight = self.parameter.detach()
        return weight.index_fill(self.dim, self.rows(indices.to(weight.device)), 0)


def neuron_weights(lm: LanguageModel, layer: int) -> list[NeuronWeights]:
    """The parameters of one layer that consist of its neurons' parts: input weights and biases, output weights."""
    architecture, module = lm.architecture, lm.layers[layer]
    prefix = f"{architecture.layers}.{layer}."
    found = []
    for projection in (*architecture.mlp_in, architecture.mlp_out):
        side: Side = "out" if projection == architecture.mlp_out else "in"
        transposed = input_axis(module.get_submodule(projection)) == 0
        for kind, parameter in module.get_submodule(projection).named_parameters(recurse=False):
            if kind == "bias" and side == "out":
                continue  # no neuron's own
            dim = 0 if kind == "bias" else int(transposed is (side == "in"))
            path = f"{projection}.{kind}"
            found.append(NeuronWeights(path, prefix + path, parameter, side, lm.num_neurons, dim))
    return found


@contextmanager
def erased(lm: LanguageModel, mask: NeuronMask, weights: Weights = "all") -> Iterator[None]:
    """Within it the weights of the mask's neurons are zero.

    ::

        with erased(lm, scores.mask(sigma=6)):
            lm.model(input_ids=ids)

    Leaving it, even by an exception, gives back the very bits (`replaced_weights`).

    Args:
        weights: which of a neuron's weights. ``all``: rows in, their biases, and the column out. ``out``: the column
            alone, which comes to the same. ``in``: the rows without their biases; the same for a family without them
            (Llama), but elsewhere (GPT-J) the neuron still hands on what its nonlinearity makes of the bias.

    Raises:
        OptionError: an empty mask, one of another model (by shape, or by fingerprint where the mask carries one), or
            unknown ``weights``. Nothing has been changed then.
    """
    _check_mask(lm, mask)
    if weights not in get_args(Weights):
        raise OptionError(f"weights must be one of {', '.join(get_args(Weights))}, got {weights!r}")
    with replaced_weights(lm, zeroed_weights(lm, mask, weights)):
        yield


@refused_if_too_large("a copy of the weights that change")
def zeroed_weights(lm: LanguageModel, mask: NeuronMask, weights: Weights = "all") -> dict[str, Tensor]:
    """Copies, by name, of the parameters in which neurons of ``mask`` have a part, with that part set to 0; ``weights``
    as in `erased`."""
    return {
        part.name: part.zeroed(chosen.nonzero().ravel())
        for layer, chosen in enumerate(mask.values)
        if chosen.any()
        for part in neuron_weights(lm, layer)
        if weights == "all" or (weights == part.side and part.kind == "weight")
    }


def _check_mask(lm: LanguageModel, mask: NeuronMask) -> None:
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
