"""What one run of the model does in its layers: which neurons are zero, where rows join, which positions are read."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from caploc.rows.caches import KeysValues, Recorder


@dataclass
class Clean:
    """The unchanged model on I items of T tokens, shorter ones padded on the right (nothing looks ahead).

    tokens      ``[I, T]``
    read        ``[P]`` positions whose predictions are read, as indices into ``tokens`` laid flat
    kept        keys and values of every layer; empty unless they were asked for
    inputs      for layers at which sets enter, the layer's input ``[I, T, width]``
    activations likewise ``[I T, neurons]``, what enters the MLP's output projection
    outputs     likewise ``[I T, width]``, what it puts out
    """

    tokens: Tensor
    read: Tensor
    kept: KeysValues = field(default_factory=list)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    activations: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)

    def rows(self, cache: Recorder, lowest: list[int], rows: Tensor) -> KeysValues:
        """Keys and values of some rows of an erased pass, row = set x I + item.

        Up to the attention of the lowest layer in which a set has a neuron, a row's are the clean ones.
        """
        items = len(self.tokens)
        sets = torch.tensor(lowest, device=rows.device)[rows // items]
        found = []
        for layer, clean in enumerate(self.kept):
            own = cache.seen.get(layer)
            erased = sets < layer
            if own is None or not erased.any():
                found.append((clean[0][rows % items], clean[1][rows % items]))
            elif erased.all():
                found.append((own[0][rows], own[1][rows]))
            else:
                pair = []
                for of_clean, of_rows in zip(clean, own, strict=True):
                    states = of_clean[rows % items]
                    states[erased] = of_rows[rows[erased]]
                    pair.append(states)
                found.append((pair[0], pair[1]))
        return found


@dataclass
class Pass:
    """The run under way. Rows stand in groups of equal size that share a set of erased neurons.

    erased    ``[groups, layers, neurons]`` bool, each group's; None: nothing is erased
    read      as in ``Clean``, for each group; None: every position of the model's input
    clean     for whole sequences the record that is made, or that the groups enter from
    lowest    ascending, the layer behind whose MLP each group enters; None: all rows run from the bottom
    visible   for rows that go on from a cache, what each layer's queries see: ``[rows, 1, queries, slots]``, additive
    """

    erased: Tensor | None = None
    read: Tensor | None = None
    clean: Clean | None = None
    lowest: list[int] | None = None
    cache: Recorder | None = None
    visible: list[Tensor] | None = None
    groups: int = 1  # that are running in the layer at work
    entering: Tensor | None = None  # what the MLP's projection of the layer at work is to put out
    shape: torch.Size | None = None  # of the input of an MLP that is run at read positions alone

    def zeroed(self, layer: int, activations: Tensor) -> Tensor:
        """``activations`` of the running groups, 0 at each group's neurons of ``layer``."""
        if self.erased is None:
            return activations
        members = self.erased[: self.groups, layer]
        group, neuron = members.nonzero(as_tuple=True)
        if not len(group):
            return activations
        states = activations.reshape(self.groups, -1, activations.shape[-1])
        if 4 * len(group) > members.numel():
            states = states.masked_fill(members[:, None], 0)
        else:
            states[group, :, neuron] = 0
        return states.view(activations.shape)
