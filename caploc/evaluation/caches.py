"""What attention layers are handed as their cache while rows of an evaluation run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer, keys and values ``[rows, key heads, tokens, head size]``."""


class Recorder(Cache):
    """Of whole sequences: attention sees their own keys and values, which are kept by layer where ``keeps``."""

    def __init__(self, keeps: bool) -> None:
        super().__init__(layers=[])
        self.keeps = keeps
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.keeps:
            self.seen[layer_idx] = (key_states, value_states)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0


class Slots(Cache):
    """Of rows that go on from what they have, each at a place of its own: slot j of a row holds its token j.

    Args:
        kept: ``[rows, key heads, slots, head size]`` for each layer; written to.
    """

    def __init__(self, kept: KeysValues) -> None:
        super().__init__(layers=[])
        self.kept = kept
        self._rows = torch.arange(len(kept[0][0]), device=kept[0][0].device)[:, None]
        self.positions = self._rows  # [rows, queries], set for each call
        self.used = 0  # slots that the call looks at

    def at(self, positions: Tensor, used: int) -> None:
        """Let the next call write its tokens at ``positions [rows, queries]`` and see the first ``used`` slots."""
        self.positions, self.used = positions, used

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.kept[layer_idx]
        keys[self._rows, :, self.positions] = key_states.transpose(1, 2)
        values[self._rows, :, self.positions] = value_states.transpose(1, 2)
        return keys[:, :, : self.used], values[:, :, : self.used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.used - self.positions.shape[1]

    def select(self, rows: Tensor) -> Slots:
        """The cache of some of its rows."""
        return Slots([(keys[rows], values[rows]) for keys, values in self.kept])


def widened(kept: KeysValues, slots: int) -> KeysValues:
    """The same with room for ``slots`` tokens; tokens beyond that fall away."""

    def wide(states: Tensor) -> Tensor:
        rows, heads, tokens, size = states.shape
        made = states.new_zeros(rows, heads, slots, size)
        made[:, :, :tokens] = states[:, :, :slots]
        return made

    return [(wide(keys), wide(values)) for keys, values in kept]


def joined(parts: list[KeysValues], slots: int) -> KeysValues:
    """Rows of several batches one below the other, with room for ``slots`` tokens."""
    wide = [widened(part, slots) for part in parts]
    return [(torch.cat([k for k, _ in of]), torch.cat([v for _, v in of])) for of in zip(*wide, strict=True)]


def additive(visible: list[Tensor], positions: Tensor, used: int, dtype: torch.dtype) -> list[Tensor]:
    """For each layer ``[rows, 1, queries, used]``: 0 where a query sees a slot, else the most negative number."""
    made: dict[int, Tensor] = {}
    for seen in visible:
        if id(seen) not in made:
            hidden = ~seen[positions][..., :used]
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            made[id(seen)] = mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None]
    return [made[id(seen)] for seen in visible]
