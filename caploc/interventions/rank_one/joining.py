"""Edits of many layers as rows of one batch: each enters the forward pass in front of its own layer, with its own
change of that layer's MLP, and the model's own layers do all the work.

A change of layer l's MLP at token t reaches no token before t and no layer below l. So an edit of one layer over P
prompts is P rows of the columns t, t+1, ...; they attend to the unedited run's keys and values in front of t, and join
the batch of those that entered further down with the unedited run's input of layer l. The layer runs them all; behind
its MLP, its own rows get their delta. One forward and one backward give the gradients of all layers' deltas.

Equality with runs of the whole sequence: ``caploc/tests/interventions/test_rank_one_layers.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import Cache

from caploc.interventions.rank_one.recording import Recorded
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import keywords, replaced_forward, states_of


@dataclass
class _Pass:
    """One pass under way: the recorded prompts, the deltas by layer, and how many rows have joined."""

    recorded: Recorded
    deltas: Mapping[int, Tensor]
    joined: int = 0

    @property
    def first(self) -> int:
        return min(self.deltas)

    @property
    def rows(self) -> int:
        return len(self.deltas) * self.recorded.prompts


class EditedLayers:
    """A model whose layers let edited rows join; use inside ``with``. Leaving it, even by an exception, restores the
    model.

    ::

        with EditedLayers(lm) as model:
            logits = model.run(recorded, {layer: delta})      # [layers, reads, vocabulary]
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._stack = ExitStack()
        self._pass: _Pass | None = None

    def __enter__(self) -> EditedLayers:
        with ExitStack() as stack:
            for index, layer in enumerate(self._lm.layers):
                stack.enter_context(self._joined(index, layer))
            head = self._lm.model.get_output_embeddings()
            stack.callback(head.register_forward_pre_hook(self._before_head).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(
        self, recorded: Recorded, deltas: Mapping[int, Float[Tensor, " width"]]
    ) -> Float[Tensor, "layers reads vocabulary"]:
        """The logits that are read where each layer alone has its delta added, layers in ascending order."""
        current = _Pass(recorded, {layer: deltas[layer] for layer in sorted(deltas)})
        embedding: Tensor = self._lm.model.get_input_embeddings().weight  # type: ignore[assignment]
        positions = recorded.positions.repeat(len(deltas), 1)
        # what goes in does not matter: layers below the first entry pass it through, and there it is replaced
        dummy = embedding.new_zeros(*positions.shape, embedding.shape[1])
        self._pass = current
        try:
            logits = self._lm.model(
                inputs_embeds=dummy,
                attention_mask=recorded.mask(0, current.rows),
                position_ids=positions,
                past_key_values=_Prefix(recorded),
                use_cache=True,
            ).logits
        finally:
            self._pass = None
        return logits.unflatten(1, (len(deltas), -1))[0]

    @contextmanager
    def _joined(self, index: int, layer: nn.Module) -> Iterator[None]:
        original = layer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            current = self._pass
            if current is None:
                return original(*args, **kwargs)
            named = keywords(layer, args, kwargs)
            states = named["hidden_states"]
            if index >= current.first:
                if index in current.deltas:
                    below = [states] if current.joined else []
                    states = torch.cat([*below, current.recorded.inputs[index]])
                    current.joined = len(states)
                named = {
                    **_rows_of(named, current.rows, len(states)),
                    "hidden_states": states,
                    "attention_mask": current.recorded.mask(index, len(states)),
                }
                states = states_of(original(**named))
            return (states, None) if current.recorded.tuples else states

        def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            current = self._pass
            if current is None or index not in current.deltas:
                return None
            prompts, columns = current.recorded.positions.shape
            changed = output.reshape(
                -1, columns, output.shape[-1]
            ).clone()  # OPT's MLP flattens rows and columns
            changed[-prompts:, 0] += current.deltas[index]
            return changed.view(output.shape)

        handle = self._lm.architecture.mlp_out_of(layer).register_forward_hook(add)
        try:
            with replaced_forward(layer, forward):
                yield
        finally:
            handle.remove()

    def _before_head(self, head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Only what is read passes the head, ``[1, layers x reads, width]``."""
        if self._pass is None:
            return None
        recorded, states = self._pass.recorded, args[0]
        by_layer = states.unflatten(0, (-1, recorded.prompts))  # [layers, P, C, width]
        return (by_layer[:, recorded.read_prompts, recorded.read_columns].flatten(0, 1)[None], *args[1:])


def _rows_of(value: Any, rows: int, joined: int) -> Any:
    """What of a layer's arguments is by row, positions and what is made of them, cut to the rows that have joined."""
    if isinstance(value, Tensor):
        return value[:joined] if value.dim() > 1 and len(value) == rows else value
    if isinstance(value, tuple):
        return tuple(_rows_of(item, rows, joined) for item in value)
    if isinstance(value, dict):
        return {name: _rows_of(item, rows, joined) for name, item in value.items()}
    return value


class _Prefix(Cache):
    """Hands each attention layer the unedited keys and values in front of the rows' first column, then their own."""

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(layers=[])
        self._recorded = recorded

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        recorded = self._recorded
        times = len(key_states) // recorded.prompts
        keys, values = recorded.keys[layer_idx], recorded.values[layer_idx]
        return (
            torch.cat([keys.repeat(times, 1, 1, 1), key_states], dim=2),
            torch.cat([values.repeat(times, 1, 1, 1), value_states], dim=2),
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._recorded.keys[layer_idx].shape[2]
