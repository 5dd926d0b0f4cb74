"""Restored runs as rows of one batch: each joins behind the layer that it is restored in, and the model's own layers
do all the work.

Putting back a state of (token t, layer l) reaches no token before t and no layer up to l. So a row has the columns
t..T-1 only, attends to the corrupted run's keys and values in front of t, and joins the batch behind layer l. In the
last layer all columns have keys and values, but only those that predict the answer go on behind them.

Equality with runs of the whole sequence: ``caploc/tests/locators/test_causal_tracing.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from caploc.locators.causal_tracing.layer_calls import keywords, last_logits, last_projection, states_of
from caploc.locators.causal_tracing.rows import KeysKnown, PrefixCache, Rows
from caploc.models import LanguageModel
from caploc.rows.borrowing import replaced_forward


class JoiningModel:
    """A model whose layers let rows join; use inside ``with``. Leaving it, even by an exception, restores the model.

    ::

        with JoiningModel(lm) as model:
            logits = model.run(rows)        # [R, read, vocabulary]
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm, self._layers = lm, lm.layers
        self._stack = ExitStack()
        self._cache: PrefixCache | None = None

    def __enter__(self) -> JoiningModel:
        with ExitStack() as stack:
            for index, layer in enumerate(self._layers):
                stack.enter_context(self._joined(index, layer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @torch.no_grad()
    def run(self, rows: Rows) -> Tensor:
        """The logits ``[R, read, vocabulary]``."""
        embedding: Tensor = self._lm.model.get_input_embeddings().weight  # type: ignore[assignment]
        # what goes in does not matter: layers up to the first entry pass it through, and there it is replaced
        dummy = embedding.new_zeros(1, rows.columns, embedding.shape[1])
        positions = torch.arange(rows.first, rows.first + rows.columns, device=dummy.device)
        self._cache = PrefixCache(rows)
        try:
            with last_logits(self._lm, rows.read), self._holding(rows):
                return self._lm.model(
                    inputs_embeds=dummy,
                    attention_mask=rows.mask(0),
                    position_ids=positions[None],
                    past_key_values=self._cache,
                    use_cache=True,
                ).logits
        finally:
            self._cache = None

    @contextmanager
    def _joined(self, index: int, layer: nn.Module) -> Iterator[None]:
        """Let rows join behind ``layer`` while a pass is under way."""
        original = layer.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._cache is None:
                return original(*args, **kwargs)
            rows, named = self._cache.rows, keywords(layer, args, kwargs)
            parts = []
            if index > min(rows.entries):
                named["attention_mask"] = rows.mask(index)
                run = self._run_last if layer is self._layers[-1] else _run
                parts.append(run(original, named))
            if index in rows.entries:
                parts.append(rows.entries[index])
            states = torch.cat(parts) if parts else named["hidden_states"]
            return (states, None) if rows.clean.tuples else states

        with replaced_forward(layer, forward):
            yield

    def _run_last(self, original: Callable[..., Any], named: dict[str, Any]) -> Tensor:
        """The last layer: keys and values of all columns first, then the columns that are read, the others zero."""
        cache = self._cache
        assert cache is not None
        columns, read = cache.rows.columns, cache.rows.read
        if columns == read:
            return states_of(original(**named))
        cache.only_keys = True
        try:
            original(**named)
        except KeysKnown as known:
            cache.known = known.keys_and_values
        cache.only_keys = False
        narrow = {name: _last_columns(value, read) for name, value in named.items()}
        return nn.functional.pad(states_of(original(**narrow)), (0, 0, columns - read, 0))

    @contextmanager
    def _holding(self, rows: Rows) -> Iterator[None]:
        """Put out the held values."""

        def holding(chosen: Tensor, value: Tensor) -> Any:
            def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
                output.view(-1, rows.columns, output.shape[-1])[chosen, 0] = value  # OPT's is [rows C, width]
                return output

            return after

        last = len(self._layers) - 1
        with ExitStack() as stack:
            for layer, (chosen, value) in rows.held.items():
                if layer < last or rows.columns == rows.read:  # else nobody reads the first column there
                    module = last_projection(self._lm, layer, rows.kind)
                    stack.callback(module.register_forward_hook(holding(chosen, value)).remove)
            yield


def _run(original: Callable[..., Any], named: dict[str, Any]) -> Tensor:
    return states_of(original(**named))


def _last_columns(value: Any, read: int) -> Any:
    """A layer's argument for the last ``read`` columns: states, positions and masks have one entry for each column."""
    if isinstance(value, tuple):
        return tuple(_last_columns(part, read) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 4:  # the mask
        return value[:, :, -read:]
    return value[-read:] if value.dim() == 1 else value[:, -read:]
