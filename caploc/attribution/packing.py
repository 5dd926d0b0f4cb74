"""What a packed pass carries while the model's own forward runs: its tokens, their masks, the clean keys they see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from caploc.attribution.clean import CleanPass

# The tokens of a row attend to, and mask, each other's keys: wider rows waste attention.
MOST_COLUMNS = 64


class PrefixCache(Cache):
    """Hands each attention layer the clean keys and values followed by the packed tokens' own."""

    def __init__(self, clean: CleanPass) -> None:
        super().__init__(layers=[])
        self._clean = clean

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        rows = key_states.shape[0]
        clean_key, clean_value = self._clean.keys[layer_idx], self._clean.values[layer_idx]
        return (
            torch.cat([clean_key.expand(rows, -1, -1, -1), key_states], dim=2),
            torch.cat([clean_value.expand(rows, -1, -1, -1), value_states], dim=2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._clean.keys[layer_idx].shape[2]


class PackedPass:
    """The state of one packed pass while the model's forward runs."""

    def __init__(self, clean: CleanPass, columns: Tensor, leaves: dict[int, Tensor], additive: bool) -> None:
        self.clean, self.columns, self.leaves, self.additive = clean, columns, leaves, additive
        self.first = min(leaves)
        self.entering: Tensor | None = None
        self._masks: dict[int, Tensor] = {}

    def substitute(self, output: Tensor) -> Tensor:
        if self.entering is None:
            return output
        entering, self.entering = self.entering, None
        return output + entering.reshape(output.shape) if self.additive else entering

    def mask(self, layer: int) -> Tensor:
        """Additive ``[1, 1, C, T + C]``: clean tokens the family lets this layer see, and the token's own key."""
        visible = self.clean.visible[layer]
        if id(visible) in self._masks:
            return self._masks[id(visible)]
        count = len(self.columns)
        own = torch.eye(count, dtype=torch.bool, device=visible.device)
        allowed = torch.cat([visible[self.columns], own], dim=1)
        dtype = self.clean.layer_inputs[layer].dtype
        made = torch.zeros(allowed.shape, dtype=dtype, device=visible.device)
        made = made.masked_fill_(~allowed, torch.finfo(dtype).min)[None, None]
        self._masks[id(visible)] = made
        return made


def layers_in_chunks(
    rows: Sequence[tuple[int, int]], columns: int, chunk_tokens: int
) -> list[list[tuple[int, int]]]:
    """Cut (layer, row count) pairs into passes of at most ``chunk_tokens`` tokens, at least one row each."""
    most = max(1, chunk_tokens // max(1, columns))
    chunks: list[list[tuple[int, int]]] = []
    room = 0
    for layer, count in rows:
        left = count
        while left:
            if not room:
                chunks.append([])
                room = most
            taken = min(left, room)
            chunks[-1].append((layer, taken))
            left, room = left - taken, room - taken
    return chunks
