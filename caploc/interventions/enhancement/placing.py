"""Where a neuron's own weights lie in its layer: rows of the input projections, a column of the output projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from caploc.architectures import input_axis
from caploc.models import LanguageModel
from caploc.neurons import NeuronMask

Side = Literal["in", "out"]


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

    def cleared(self, indices: Tensor) -> Tensor:
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


def zeroed_weights(lm: LanguageModel, mask: NeuronMask) -> dict[str, Tensor]:
    """Copies, by name, of the parameters in which neurons of ``mask`` have a part, with that part set to 0."""
    return {
        part.name: part.cleared(chosen.nonzero().ravel())
        for layer, chosen in enumerate(mask.values)
        if chosen.any()
        for part in neuron_weights(lm, layer)
    }
