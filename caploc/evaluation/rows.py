"""(set, item) pairs as rows, each from where its set first changes something, and rows that are written on.

Erasing a neuron zeroes its activation at every position. Below the lowest layer in which a set has neurons, and in that
layer up to the output of its MLP, a row is the clean run: it enters there, with the clean output less what the erased
neurons gave, a product as thin as they are few. In the last layer the MLP, and then the head, run at the positions that
are read.

Equality with weights set to zero and ``generate()``, item by item: ``caploc/tests/evaluation/test_against_oracle.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from caploc.architectures import weight_by_input
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import keywords
from caploc.rows.caches import KeysValues, RowCache, Slots, shared
from caploc.rows.clean import visible_tokens
from caploc.rows.model import RowModel, Rows


@dataclass
class Clean:
    """The unchanged model on I items of T tokens, shorter ones padded on the right (nothing looks ahead).

    tokens      ``[I, T]``
    read        ``[P]`` positions whose predictions are read, as indices into ``tokens`` laid flat
    kept        keys and values of every layer; empty unless they were asked for
    inputs      for layers at which sets enter, the layer's input ``[I, T, width]``
    activations likewise ``[I T, neurons]``, what enters the MLP's output projection
    outputs     likewise ``[I T, width]``, what it puts out
    tuples      whether this family's layers return tuples
    """

    tokens: Tensor
    read: Tensor
    kept: KeysValues = field(default_factory=list)
    inputs: dict[int, Tensor] = field(default_factory=dict)
    activations: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    tuples: bool = False

    def rows(self, cache: RowCache, lowest: list[int], rows: Tensor) -> KeysValues:
        """Keys and values of some rows of an erased pass, row = set x I + item.

        Up to the attention of the lowest layer in which a set has a neuron, a row's are the clean ones.
        """
        items = len(self.tokens)
        sets = torch.tensor(lowest, device=rows.device)[rows // items]
        found = []
        for layer, clean in enumerate(self.kept):
            own = cache.seen.get(layer)
            rows, sets = rows.to(clean[0].device), sets.to(clean[0].device)
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


class ReadRows(Rows):
    """Groups of I whole sequences, of which some positions are read: there alone the last layer's MLP and the head run.

    Args:
        tokens: what is fed to the model.
        clean: the items, and what is read of them.
        last: the number of the last layer.
    """

    def __init__(self, tokens: Tensor, clean: Clean, last: int, keeps: bool) -> None:
        self.cache: RowCache
        super().__init__(RowCache(keeps=keeps), tokens=tokens, tuples=clean.tuples)
        self._clean, self._last = clean, last
        self._everywhere = False  # whether the last MLP runs at all positions nevertheless
        self._shape: torch.Size | None = None  # of what the last MLP would have been fed

    @property
    def groups(self) -> int:
        """That are in the batch."""
        return self.joined // len(self._clean.tokens)

    def into_last_mlp(self, states: Tensor) -> Tensor:
        if self._everywhere:
            return states
        self._shape = states.shape
        return self.read(states)

    def mlp_output(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        """Back to all positions; what stands at the others is not read."""
        if layer < self._last or self._shape is None:
            return output
        everywhere = output.new_zeros(len(output), self._clean.tokens.numel(), output.shape[-1])
        everywhere[:, self._clean.read] = output
        return everywhere.view(self._shape)

    def read(self, states: Tensor) -> Tensor:
        return states.reshape(-1, self._clean.tokens.numel(), states.shape[-1])[:, self._clean.read]


class CleanRows(ReadRows):
    """The unchanged model, recorded where ``clean.inputs`` has layers, at all positions."""

    def __init__(self, clean: Clean, last: int, keeps: bool) -> None:
        super().__init__(clean.tokens, clean, last, keeps)
        self._everywhere = last in clean.inputs

    def in_front(self, layer: int, states: Tensor) -> None:
        if layer in self._clean.inputs:
            self._clean.inputs[layer] = states

    def mlp_output(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        if layer in self._clean.inputs:
            self._clean.activations[layer] = states.reshape(-1, states.shape[-1])
            self._clean.outputs[layer] = output.reshape(-1, output.shape[-1])
            return output
        return super().mlp_output(layer, states, output)


class ErasedRows(ReadRows):
    """A group for each set of neurons, ``erased [sets, layers, neurons]``, in ascending order of ``lowest``, the layer
    behind whose MLP it enters."""

    def __init__(
        self,
        clean: Clean,
        erased: Tensor,
        lowest: list[int],
        projections: Sequence[nn.Module],
        keeps: bool,
    ) -> None:
        # what goes in does not matter: layers below the first entry pass it through, and there it is replaced
        super().__init__(clean.tokens[:1], clean, len(projections) - 1, keeps)
        self.joined = 0
        self.lowest, self._erased, self._projections = lowest, erased, projections

    def behind_mlp(self, layer: int) -> tuple[Tensor, Tensor] | None:
        new = self.lowest.count(layer)
        if not new:
            return None
        entry = self._clean.inputs[layer]
        return entry, self._less_erased(layer, slice(self.groups, self.groups + new)).view(new, *entry.shape)

    def activations(self, layer: int, states: Tensor) -> Tensor:
        return zeroed(self._erased[: self.groups, layer], states)

    def _less_erased(self, layer: int, groups: slice) -> Tensor:
        """``[groups, I T, width]`` what the layer's projection puts out without the groups' neurons."""
        projection = self._projections[layer]
        weight = weight_by_input(projection)  # [neurons, width]
        activations, output = self._clean.activations[layer], self._clean.outputs[layer]
        bias = getattr(projection, "bias", None)
        nothing = (
            torch.zeros_like(output) if bias is None else bias.detach().to(output.device).expand_as(output)
        )
        made = []
        for members in self._erased[groups, layer]:
            erased = members.nonzero().ravel()
            if 2 * len(erased) < len(members):
                taken = weight[erased.to(weight.device)].to(output.device)
                made.append(output - activations[:, erased] @ taken)
            else:
                left = (~members).nonzero().ravel()
                given = weight[left.to(weight.device)].to(output.device)
                made.append(nothing + activations[:, left] @ given)
        return torch.stack(made)


class GoingRows(Rows):
    """Rows that go on from what is in ``cache``, each with its own ``erased [rows, layers, neurons]``, if any: their
    ``tokens [rows, queries]`` stand at ``cache.positions``."""

    def __init__(self, tokens: Tensor, erased: Tensor | None, cache: Slots, visible: list[Tensor]) -> None:
        super().__init__(cache, cache.positions, tokens)
        self._erased, self._visible = erased, visible

    def mask(self, layer: int, rows: int) -> Tensor:
        return self._visible[layer]

    def activations(self, layer: int, states: Tensor) -> Tensor:
        return states if self._erased is None else zeroed(self._erased[:, layer], states)


class Unrun(Rows):
    """One sequence that no layer runs, to see what the model hands its layers."""

    def __init__(self, tokens: Tensor, tuples: bool) -> None:
        super().__init__(RowCache(), tokens=tokens, tuples=tuples)
        self.joined = 0

    def read(self, states: Tensor) -> Tensor:
        return states[:, -1:]


def zeroed(members: Tensor, activations: Tensor) -> Tensor:
    """``activations`` of groups of equal size, 0 at each group's ``members [groups, neurons]``; changed in place where
    they are few."""
    group, neuron = members.nonzero(as_tuple=True)
    if not len(group):
        return activations
    states = activations.reshape(len(members), -1, activations.shape[-1])
    if 4 * len(group) > members.numel():
        states = states.masked_fill(members[:, None], 0)
    else:
        states[group, :, neuron] = 0
    return states.view(activations.shape)


class ErasingModel(RowModel):
    """A model prepared for rows of an evaluation; use inside ``with``, which restores it."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm.model, lm.architecture)
        self.device, self.dtype = lm.device, lm.dtype
        self._tuples = False  # whether this family's layers return tuples, as the last clean pass found

    def clean(
        self, tokens: Tensor, read: Tensor, entries: Sequence[int], keeps: bool
    ) -> tuple[Clean, Tensor]:
        """The unchanged model on ``tokens [I, T]``: its record, and its logits ``[P, vocabulary]`` at ``read``.

        Args:
            entries: the layers at which sets will enter.
            keeps: keep the keys and values.
        """
        made = Clean(tokens, read, inputs=dict.fromkeys(entries))  # type: ignore[arg-type]
        rows = CleanRows(made, len(self._layers) - 1, keeps)
        logits = self.logits(rows)
        made.kept = [rows.cache.seen[layer] for layer in range(len(self._layers))] if keeps else []
        made.tuples = self._tuples = rows.tuples
        return made, logits[0]

    def erased(self, clean: Clean, erased: Tensor, lowest: list[int], keeps: bool) -> tuple[RowCache, Tensor]:
        """Sets of neurons erased on the clean pass's items: keys and values, logits ``[sets, P, vocabulary]``.

        Args:
            erased: ``[sets, layers, neurons]``, in ascending order of ``lowest``, each set's lowest layer.
        """
        rows = ErasedRows(clean, erased, lowest, self._projections, keeps)
        logits = self.logits(rows)
        return rows.cache, logits

    def sees(self, length: int) -> list[Tensor]:
        """For each layer ``[length, length]`` bool: which tokens each token may attend to, as the family has it.

        Call it after a clean pass.
        """
        positions = torch.arange(length, device=self.device)
        itself = torch.eye(length, dtype=torch.bool, device=self.device)
        found: list[Tensor] = []

        def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            mask = keywords(layer, args, kwargs).get("attention_mask")
            found.append(visible_tokens(mask, positions, length) | itself)

        with ExitStack() as hooks:
            for layer in self._layers:
                hooks.callback(layer.register_forward_pre_hook(before_layer, with_kwargs=True).remove)
            tokens = torch.zeros(1, length, dtype=torch.long, device=self.device)
            self.logits(Unrun(tokens, self._tuples))
        return shared(found)
