"""What attention layers are handed while rows run: keys and values in front of the rows' own, and masks to match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

KeysValues = list[tuple[Tensor, Tensor]]
"""For each layer, keys and values ``[rows, key heads, tokens, head size]``."""


class KeysKnown(Exception):
    """Ends a layer's run when its attention has made keys and values."""

    def __init__(self, keys_and_values: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.keys_and_values = keys_and_values


class RowCache(Cache):
    """Hands each attention layer the keys and values in front of the rows' first token, followed by the rows' own.

    Args:
        front: for each layer ``[P, key heads, F, head size]``, or None where rows are whole sequences; row r sees
            those of prefix ``r mod P``.
        length: how many tokens of ``front`` are real, for the model's own bookkeeping.
        rows: how many there will be at most. Given for passes without gradients, all layers are handed one buffer's
            keys and values, each while it runs: fresh memory for each of them costs a CPU a tenth of its time.

    Attributes:
        keeps: whether the rows' own keys and values are noted in ``seen``, by layer.
        only_keys: raise ``KeysKnown`` instead.
        known: hand out these instead.
    """

    def __init__(
        self,
        front: KeysValues | None = None,
        length: int | None = None,
        rows: int | None = None,
        keeps: bool = False,
    ) -> None:
        super().__init__(layers=[])
        self._front, self._rows, self.keeps = front, rows, keeps
        self._buffers: dict[tuple[torch.device, int], Tensor] = {}
        self._length = (front[0][0].shape[2] if front else 0) if length is None else length
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}
        self.only_keys = False
        self.known: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.known is not None:
            return self.known
        if self.keeps:
            self.seen[layer_idx] = (key_states, value_states)
        both = [key_states, value_states]
        if self._front is not None:
            for place, before in enumerate(self._front[layer_idx]):
                # [rows, key heads, F + C, head size], copied once: the fronts are expanded, not repeated
                after = both[place]
                times = len(after) // len(before)
                parts = [before.expand(times, *before.shape), after.unflatten(0, (times, len(before)))]
                buffer = None
                if self._rows is not None:
                    key = after.device, place
                    if key not in self._buffers:
                        heads, tokens, size = after.shape[1:]
                        self._buffers[key] = after.new_empty(
                            self._rows, heads, before.shape[2] + tokens, size
                        )
                    buffer = self._buffers[key][: len(after)].unflatten(0, (times, len(before)))
                both[place] = torch.cat(parts, dim=3, out=buffer).flatten(0, 1)
        if self.only_keys:
            raise KeysKnown((both[0], both[1]))
        return both[0], both[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._length


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
        rows, positions = self._rows.to(keys.device), self.positions.to(keys.device)
        keys[rows, :, positions] = key_states.transpose(1, 2)
        values[rows, :, positions] = value_states.transpose(1, 2)
        return keys[:, :, : self.used], values[:, :, : self.used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.used - self.positions.shape[1]

    @staticmethod
    def masks(visible: Sequence[Tensor], positions: Tensor, used: int, dtype: torch.dtype) -> list[Tensor]:
        """For each layer ``[rows, 1, queries, used]``, of queries at ``positions [rows, queries]``.

        Args:
            visible: for each layer ``[T, T]`` bool, what each token sees; layers that see the same share one tensor.
        """
        return masks(visible, lambda seen: seen[positions][..., :used], dtype)

    def select(self, rows: Tensor) -> Slots:
        """The cache of some of its rows."""
        return Slots(
            [(keys[rows.to(keys.device)], values[rows.to(keys.device)]) for keys, values in self.kept]
        )


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


def masks(visible: Sequence[Tensor], allowed: Callable[[Tensor], Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Additive masks of the layers ``[rows or 1, 1, queries, keys]``, one for all that see the same: 0 where a query
    sees a key, else the most negative number.

    Args:
        visible: for each layer what its queries may see, bool; layers that see the same share one tensor.
        allowed: what of it, and beside it, the rows may see: ``[..., queries, keys]`` bool, from a layer's ``visible``.
    """
    made: dict[int, Tensor] = {}
    for seen in visible:
        if id(seen) not in made:
            hidden = ~allowed(seen)
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            mask.masked_fill_(hidden, torch.finfo(dtype).min)
            made[id(seen)] = mask[:, None] if mask.dim() == 3 else mask[None, None]
    return [made[id(seen)] for seen in visible]


def shared(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, equal ones as one, so that ``masks`` can tell layers that see the same by identity."""
    found: list[Tensor] = []
    for tensor in tensors:
        found.append(next((other for other in found if torch.equal(other, tensor)), tensor))
    return found
