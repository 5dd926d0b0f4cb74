"""The engine: rows run by the model's own layers, each from where it first differs from a clean run.

A layer whose rows have not come yet is passed through; a row that enters is one more in the batch from there on. What
rows are is said by a subclass of ``Rows``; what they have in common stands here: how they join, masks, positions and
caches in place of the family's own, outputs put in the place of a projection's, the last layer run at the columns
alone that are read, and a model that is given back as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from caploc.architectures import Architecture, context_of, input_axis
from caploc.errors import ModelError
from caploc.rows.borrowing import Borrower, frozen_eval, keywords, replaced_forward, states_of
from caploc.rows.caches import KeysKnown, RowCache, masks
from caploc.rows.clean import CleanPass, check_reproduced, run_clean, target_log_probs

_PROBE = 16  # tokens of the self-check's text
_SHOWN: WeakSet[nn.Module] = WeakSet()


class Rows:
    """One pass, described. Nothing overridden, it is a pass without rows; a method overrides what its rows need.

    Rows have C columns each, the tokens that are run. They join the batch in the order of the layers at which they
    enter, and in a layer those that enter in front of it first, then behind its MLP, then behind the layer.

    Attributes:
        cache: what attention is handed.
        positions: ``[1, C]`` of the columns in their sequence, or ``[rows, C]``; None lets the model count.
        tokens: what is fed to the model where rows begin at its bottom; None where all enter further up.
        tuples: whether a decoder layer of this family returns a tuple that begins with its states; noted by each layer
            that runs.
        joined: how many rows are in the batch.
        entering: what the MLP projection of the layer at work is to put out; None but for rows that enter behind it.
        narrow: if set, only so many columns, the last ones, go on behind the keys and values of the last layer.
    """

    narrow: int | None = None
    entering: Tensor | None = None

    def __init__(
        self,
        cache: Cache,
        positions: Tensor | None = None,
        tokens: Tensor | None = None,
        tuples: bool = False,
    ) -> None:
        self.cache, self.positions, self.tokens, self.tuples = cache, positions, tokens, tuples
        self.joined = 0 if tokens is None else len(tokens)

    def mask(self, layer: int, rows: int) -> Tensor | None:
        """What ``rows`` rows see in ``layer``, additive ``[rows or 1, 1, C, keys]``; None leaves it to the model."""
        return None

    def in_front(self, layer: int, states: Tensor) -> Tensor | None:
        """``[rows, C, width]`` of the rows that enter in front of ``layer``; ``states``, of those in the batch."""
        return None

    def behind_mlp(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Of n groups of rows that enter behind the layer's MLP: its clean input ``[G, C, width]``, of one group, and
        what its projection puts out ``[n, G, C, width]``."""
        return None

    def behind(self, layer: int) -> Tensor | None:
        """``[rows, C, width]`` of the rows that enter behind ``layer``."""
        return None

    def into_last_mlp(self, states: Tensor) -> Tensor:
        """What the input projections of the last layer's MLP are fed, from ``states`` of the rows in the batch."""
        return states

    def activations(self, layer: int, states: Tensor) -> Tensor:
        """What the layer's MLP projection is fed instead of ``states``."""
        return states

    def mlp_output(self, layer: int, states: Tensor, output: Tensor) -> Tensor:
        """What the projection, fed ``states``, puts out instead of ``output``."""
        return output

    def attention_output(self, layer: int, output: Tensor) -> Tensor:
        """What the attention's projection puts out instead of ``output``."""
        return output

    def read(self, states: Tensor) -> Tensor:
        """What of the last states passes the head."""
        return states


class _ProbeRow(Rows):
    """All tokens of a clean run in one row that enters at the bottom, each for itself; in front of them, unread, the
    last one at position ``end``: neither the order of columns nor their number says where a token stands."""

    def __init__(self, clean: CleanPass, end: int) -> None:
        positions = torch.cat([clean.positions.new_tensor([end]), clean.positions])
        front = list(zip(clean.keys, clean.values, strict=True))
        super().__init__(RowCache(front), positions[None], tuples=clean.tuples)
        states = clean.layer_inputs[0]
        self._entering = torch.cat([states[:, -1:], states], dim=1)

        def allowed(visible: Tensor) -> Tensor:
            own = torch.eye(len(positions), dtype=torch.bool, device=visible.device)
            return torch.cat([torch.cat([visible[-1:], visible]), own], dim=1)

        self._masks = masks(clean.visible, allowed, states.dtype)

    def mask(self, layer: int, rows: int) -> Tensor:
        return self._masks[layer]

    def in_front(self, layer: int, states: Tensor) -> Tensor | None:
        return self._entering if layer == 0 else None

    def read(self, states: Tensor) -> Tensor:
        return states[:, 1:]


class RowModel(Borrower):
    """A model whose layers run rows; use inside ``with``. Leaving it, even by an exception, restores the model.

    ::

        with RowModel(model, architecture) as rows:
            logits = rows.logits(SomeRows(clean, ...))

    A call of the model that is no pass of rows is as ever. Not for several threads at once.

    Entering it for the first time shows, on a short text, that rows are the model's own forward pass: each token of one
    that enters at the bottom for itself, which sees nothing but what stands before it, and beside it a token at the end
    of the context. So no prediction depends on what follows it, nor on what else is in a batch, in whatever method:
    attention that looks ahead, positions that depend on the length, and attention that does not obey its mask, cache
    and positions are refused, with a ModelError.
    """

    def __init__(self, model: PreTrainedModel, architecture: Architecture) -> None:
        self._model: Any = model
        self._architecture = architecture
        self._layers = architecture.decoder_layers(model)
        self._projections = [architecture.mlp_out_of(layer) for layer in self._layers]
        self._home: torch.device = (
            model.device
        )  # where rows are; a layer may lie elsewhere (caploc.model.splitting)
        self._rows: Rows | None = None

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(frozen_eval(self._model))
        for index, layer in enumerate(self._layers):
            stack.enter_context(self._patched(index, layer))
        for path in self._architecture.mlp_in:
            module = self._layers[-1].get_submodule(path)
            stack.enter_context(replaced_forward(module, partial(self._into_last_mlp, module.forward)))
        head = self._model.get_output_embeddings()
        stack.enter_context(replaced_forward(head, partial(self._head, head.forward)))
        if self._model not in _SHOWN:
            self._show()
            _SHOWN.add(self._model)

    @torch.no_grad()
    def _show(self) -> None:
        """The self-check."""
        if getattr(self._model.config, "alibi", False):
            raise ModelError(
                f"this {self._architecture.family} model's positions are by ALiBi (alibi in config.json), which it "
                "reads off a mask of one text; rows have positions of their own, so use a model with rotary positions"
            )
        context, embedding = context_of(self._model.config), self._model.get_input_embeddings().weight
        # 7919 is prime: tokens from all over the vocabulary; the last one is not fed
        ids = torch.arange(min(context, _PROBE) + 1, device=embedding.device) * 7919 % len(embedding)
        logits: list[Tensor] = []
        with ExitStack() as stack:
            keep = self._model.register_forward_hook(lambda model, args, output: logits.append(output.logits))
            stack.callback(keep.remove)
            clean = run_clean(self._model, self._architecture, ids, 1)
        likeliest = logits[0].argmax(-1)
        expected = target_log_probs(logits[0], likeliest)
        found = target_log_probs(self.logits(_ProbeRow(clean, context - 1)), likeliest)
        check_reproduced(found, expected, self._model.dtype, "probe", "the model's own forward pass")

    def logits(self, rows: Rows) -> Tensor:
        """Run a pass: the logits of what ``rows.read`` lets through."""
        named: dict[str, Any] = {"input_ids": rows.tokens}
        if rows.tokens is None:
            # what goes in does not matter: layers below the first entry pass it through, and there it is replaced
            assert rows.positions is not None
            embedding = self._model.get_input_embeddings().weight
            named = {"inputs_embeds": embedding.new_zeros(*rows.positions.shape, embedding.shape[1])}
        if rows.positions is not None:
            mask = rows.mask(0, len(rows.positions))
            named |= {"position_ids": rows.positions, "attention_mask": mask}
        self._rows = rows
        try:
            logits: Tensor = self._model(past_key_values=rows.cache, use_cache=True, **named).logits
        finally:
            self._rows = None
        return logits

    @contextmanager
    def _patched(self, index: int, layer: nn.Module) -> Iterator[None]:
        """Let ``layer`` run rows while a pass is under way, and as ever otherwise."""
        projection = self._projections[index]
        try:
            input_axis(projection)
        except ModelError as error:
            raise ModelError(f"layer {index}, MLP output: {error}") from None
        attention = layer.get_submodule(self._architecture.attention_out)
        with ExitStack() as stack:
            for module, forward in (
                (layer, partial(self._layer, index, layer, layer.forward)),
                (projection, partial(self._project, index, projection.forward)),
                (attention, partial(self._attend, index, attention.forward)),
            ):
                stack.enter_context(replaced_forward(module, forward))
            yield

    def _layer(self, index: int, layer: nn.Module, original: Any, *args: Any, **kwargs: Any) -> Any:
        rows = self._rows
        if rows is None:
            return original(*args, **kwargs)
        named = keywords(layer, args, kwargs)
        states: Tensor = named["hidden_states"]
        entering = rows.in_front(index, states)
        if entering is not None:
            states = torch.cat([states, entering]) if rows.joined else entering
            rows.joined = len(states)
        parts = []
        if rows.joined:
            narrow = rows.narrow not in (None, states.shape[1]) and index == len(self._layers) - 1
            parts.append((_call_last if narrow else _call)(rows, index, original, named, states))
        behind_mlp = rows.behind_mlp(index)
        if behind_mlp is not None:
            parts.append(self._enter_behind_mlp(rows, index, original, named, *behind_mlp))
        behind = rows.behind(index)
        if behind is not None:
            parts.append(behind)
        if parts:
            states = torch.cat(parts) if len(parts) > 1 else parts[0]
            rows.joined = len(states)
        return (states, None) if rows.tuples else states

    def _enter_behind_mlp(
        self,
        rows: Rows,
        index: int,
        original: Any,
        named: dict[str, Any],
        states: Tensor,
        output: Tensor,
    ) -> Tensor:
        """Rows that enter behind a layer's MLP: one group goes in; what stands in for the MLP's output makes it n."""
        shape = states.shape
        if self._architecture.flat_mlp:
            states, output = states.repeat(len(output), 1, 1), output.flatten(0, 2)
        cache = rows.cache
        keeps = isinstance(cache, RowCache) and cache.keeps
        if isinstance(cache, RowCache):
            cache.keeps = False  # the keys and values that go in are the clean run's
        rows.entering = output
        try:
            return _call(rows, index, original, named, states).reshape(-1, *shape[1:])
        finally:
            rows.entering = None
            if isinstance(cache, RowCache):
                cache.keeps = keeps

    def _project(self, index: int, original: Any, states: Tensor) -> Tensor:
        rows = self._rows
        if rows is None:
            found: Tensor = original(states)
            return found
        if rows.entering is not None:
            output = rows.entering.to(states.device)
        elif states.device == self._home:
            states = rows.activations(index, states)
            output = rows.mlp_output(index, states, original(states))
        else:
            here = states.device
            states = rows.activations(index, states.to(self._home))
            output = rows.mlp_output(index, states, original(states.to(here)).to(self._home)).to(here)
        # what rows keep or share must not be what the layer writes to
        return output.clone() if self._architecture.adds_in_place else output

    def _attend(self, index: int, original: Any, states: Tensor) -> Tensor:
        output: Tensor = original(states)
        if self._rows is None:
            return output
        return self._rows.attention_output(index, output.to(self._home)).to(output.device)

    def _into_last_mlp(self, original: Any, states: Tensor) -> Tensor:
        rows = self._rows
        if rows is not None and rows.entering is None:
            states = rows.into_last_mlp(states.to(self._home)).to(states.device)
        found: Tensor = original(states)
        return found

    def _head(self, original: Any, states: Tensor) -> Tensor:
        found: Tensor = original(states if self._rows is None else self._rows.read(states))
        return found


def _call(
    rows: Rows, index: int, original: Any, named: dict[str, Any], states: Tensor, last: int | None = None
) -> Tensor:
    """A layer's own forward for some rows, or for the ``last`` columns of them."""
    named = {**named, "hidden_states": states}
    mask = rows.mask(index, len(states))
    if mask is not None:
        named["attention_mask"] = mask
    if rows.positions is not None and len(rows.positions) > len(states):
        named = _first_rows(named, len(rows.positions), len(states))
    if last is not None:
        named = {name: _last_columns(value, last) for name, value in named.items()}
    output = original(**named)
    rows.tuples = isinstance(output, tuple)
    return states_of(output)


def _call_last(rows: Rows, index: int, original: Any, named: dict[str, Any], states: Tensor) -> Tensor:
    """The last layer where few columns are read: keys and values of all columns first, then those columns, the others
    zero."""
    cache, read = rows.cache, rows.narrow
    assert isinstance(cache, RowCache) and read is not None
    cache.only_keys = True
    try:
        _call(rows, index, original, named, states)
    except KeysKnown as known:
        cache.known = known.keys_and_values
    cache.only_keys = False
    found = _call(rows, index, original, named, states, read)
    return nn.functional.pad(found, (0, 0, states.shape[1] - read, 0))


def _first_rows(value: Any, rows: int, joined: int) -> Any:
    """What of a layer's arguments is by row, positions and what is made of them, cut to the rows that have joined."""
    if isinstance(value, Tensor):
        return value[:joined] if value.dim() > 1 and len(value) == rows else value
    if isinstance(value, tuple):
        return tuple(_first_rows(item, rows, joined) for item in value)
    if isinstance(value, dict):
        return {name: _first_rows(item, rows, joined) for name, item in value.items()}
    return value


def _last_columns(value: Any, count: int) -> Any:
    """A layer's argument for the last columns: states, positions and masks have one entry for each column."""
    if isinstance(value, tuple):
        return tuple(_last_columns(part, count) for part in value)
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 4:  # the mask
        return value[:, :, -count:]
    return value[-count:] if value.dim() == 1 else value[:, -count:]
