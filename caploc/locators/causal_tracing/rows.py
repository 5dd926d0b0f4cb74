"""What a pass of restored rows carries while the model's own forward runs: their states, keys and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from caploc.locators.causal_tracing.settings import Kind
from caploc.rows.clean import CleanPass

# Attention on a CPU takes up to three times as long for 30 keys as for 32: the number of keys is made a multiple of it.
_KEYS = 16


@dataclass
class Rows:
    """One pass: rows of the C columns ``first``..T-1, in the order in which they join.

    Attributes:
        clean: an ordinary run of the same tokens, for what the family lets each of them see.
        first: the token of the first column.
        read: how many columns, the last ones, have their logits read.
        entries: for each layer behind which rows join, their states ``[rows, C, width]``.
        keys, values: per layer ``[P, key heads, T, head size]`` of the runs that rows differ from, of which they see
            the part in front of ``first``: row r that of run ``r mod P``.
        kind: whose output is ``held``.
        held: for a layer, which of the rows that have joined before have their first column's MLP or attention put out
            a value ``[width]`` there.
    """

    clean: CleanPass
    first: int
    read: int
    entries: Mapping[int, Tensor]
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    kind: Kind
    held: Mapping[int, tuple[Tensor, Tensor]]
    _masks: dict[int, Tensor] = field(default_factory=dict, init=False)

    @property
    def columns(self) -> int:
        return self.keys[0].shape[2] - self.first

    @property
    def padding(self) -> int:
        """Keys that no token sees, in front of all others: see ``_KEYS``."""
        return -self.keys[0].shape[2] % _KEYS

    def mask(self, layer: int) -> Tensor:
        """Additive ``[1, 1, C, padding + T]``: the earlier tokens that the family lets this layer see, and the token
        itself."""
        visible = self.clean.visible[layer]  # one tensor for all layers that see the same
        if id(visible) not in self._masks:
            own = torch.eye(len(visible), dtype=torch.bool, device=visible.device)
            allowed = nn.functional.pad((visible | own)[self.first :], (self.padding, 0))
            mask = torch.zeros(allowed.shape, dtype=self.keys[layer].dtype, device=visible.device)
            self._masks[id(visible)] = mask.masked_fill_(~allowed, -torch.inf)[None, None]
        return self._masks[id(visible)]


class KeysKnown(Exception):
    """Ends a layer's run when its attention has made keys and values."""

    def __init__(self, keys_and_values: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.keys_and_values = keys_and_values


class PrefixCache(Cache):
    """Hands each attention layer the keys and values in front of the rows' first token, followed by their own.

    With ``only_keys`` it raises ``KeysKnown`` instead; with ``known`` it hands out those.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__(layers=[])
        self.rows = rows
        self.only_keys = False
        self.known: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.known is not None:
            return self.known
        keys, values = self.rows.keys[layer_idx], self.rows.values[layer_idx]
        both = self._behind(keys, key_states), self._behind(values, value_states)
        if self.only_keys:
            raise KeysKnown(both)
        return both

    def _behind(self, kept: Tensor, own: Tensor) -> Tensor:
        padding, first = self.rows.padding, self.rows.first
        heads, columns, size = own.shape[1:]
        joined = own.new_empty(len(own), heads, padding + first + columns, size)
        joined[:, :, :padding] = 0
        joined[:, :, padding:-columns] = kept[:, :, :first].repeat(len(own) // len(kept), 1, 1, 1)
        joined[:, :, -columns:] = own
        return joined

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.rows.first
