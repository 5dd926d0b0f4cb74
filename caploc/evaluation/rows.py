"""The engine: (set, item) pairs as rows of a batch, each from where its set first changes something.

Erasing a neuron zeroes its activation at every position. Below the lowest layer in which a set has neurons, and in that
layer up to the output of its MLP, a row is the clean run: it enters there, with the clean output less what the erased
neurons gave, a product as thin as they are few. In the last layer the MLP, and then the head, run at the positions that
are read. The Hugging Face model's own layers do the work.

Equality with weights set to zero and ``generate()``, item by item: ``caploc/tests/evaluation/test_against_oracle.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from caploc.errors import ModelError
from caploc.evaluation.passes import Clean, Pass
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval, keywords, replaced_forward
from caploc.rows.caches import Recorder, Slots


class RowModel:
    """A model prepared for rows; use inside ``with``. Leaving it, even by an exception, restores the model."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._model: Any = lm.model
        self._layers = lm.layers
        self._pass: Pass | None = None
        self._tuples = False  # whether this family's layers return tuples
        self._masks: list[Tensor | None] | None = None  # where the layers' masks are noted, by ``sees``
        self._stack = ExitStack()

    @property
    def device(self) -> torch.device:
        return self._lm.device

    @property
    def dtype(self) -> torch.dtype:
        return self._lm.dtype

    def __enter__(self) -> RowModel:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(frozen_eval(self._model))
            for index, layer in enumerate(self._layers):
                stack.enter_context(self._patched(index, layer))
            head = self._model.get_output_embeddings()
            stack.enter_context(replaced_forward(head, partial(self._head, head.forward)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def clean(
        self, tokens: Tensor, read: Tensor, entries: Sequence[int], keeps: bool
    ) -> tuple[Clean, Tensor]:
        """The unchanged model on ``tokens [I, T]``: its record, and its logits ``[P, vocabulary]`` at ``read``.

        Args:
            entries: the layers at which sets will enter.
            keeps: keep the keys and values.
        """
        made = Clean(tokens, read, inputs=dict.fromkeys(entries))  # type: ignore[arg-type]
        cache = Recorder(keeps)
        logits = self._run(Pass(read=read, clean=made, cache=cache), input_ids=tokens, past_key_values=cache)
        made.kept = [cache.seen[layer] for layer in range(len(self._layers))] if keeps else []
        return made, logits[0]

    def erased(self, clean: Clean, erased: Tensor, lowest: list[int], keeps: bool) -> tuple[Recorder, Tensor]:
        """Sets of neurons erased on the clean pass's items: keys and values, logits ``[sets, P, vocabulary]``.

        Args:
            erased: ``[sets, layers, neurons]``, in ascending order of ``lowest``, each set's lowest layer.
        """
        cache = Recorder(keeps)
        current = Pass(erased, clean.read, clean, lowest, cache)
        # what goes in does not matter: layers below the first entry pass it through, and there it is replaced
        return cache, self._run(current, input_ids=clean.tokens[:1], past_key_values=cache)

    def going_on(self, tokens: Tensor, erased: Tensor | None, cache: Slots, visible: list[Tensor]) -> Tensor:
        """Logits ``[rows, queries, vocabulary]`` of tokens that follow what is in ``cache``, at ``cache.positions``."""
        current = Pass(erased, visible=visible, groups=len(tokens))
        return self._run(
            current,
            input_ids=tokens,
            attention_mask=visible[0],
            position_ids=cache.positions,
            past_key_values=cache,
        )

    def sees(self, length: int) -> list[Tensor]:
        """For each layer ``[length, length]`` bool: which tokens each token may attend to, as the family has it."""
        device = self._model.device
        self._masks = []
        try:
            tokens = torch.zeros(1, length, dtype=torch.long, device=device)
            self._run(Pass(), input_ids=tokens, past_key_values=Recorder(False), logits_to_keep=1)
            masks = self._masks
        finally:
            self._masks = None
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        found: list[Tensor] = []
        for mask in masks:
            seen = causal
            if mask is not None:
                rows = mask[0, 0, :, :length]
                seen = causal & (rows if rows.dtype == torch.bool else rows > -1.0)
            # layers that see the same share one tensor
            found.append(next((other for other in found if torch.equal(other, seen)), seen))
        return found

    def _run(self, current: Pass, **inputs: Any) -> Tensor:
        self._pass = current
        try:
            return self._model(use_cache=True, **inputs).logits
        finally:
            self._pass = None

    @contextmanager
    def _patched(self, index: int, layer: nn.Module) -> Iterator[None]:
        """Let ``layer`` run rows while a pass is under way, and as ever otherwise."""
        architecture = self._lm.architecture
        projection = architecture.mlp_out_of(layer)
        if not (isinstance(projection, nn.Linear) or type(projection).__name__ == "Conv1D"):
            raise ModelError(
                f"layer {index}: the MLP output projection is a {type(projection).__name__}, not a plain linear layer; "
                "merge adapters and load the model unquantized"
            )
        with ExitStack() as stack:
            run = partial(self._layer, index, layer, layer.forward)
            stack.enter_context(replaced_forward(layer, run))
            project = partial(self._project, index, projection.forward)
            stack.enter_context(replaced_forward(projection, project))
            if index == len(self._layers) - 1:
                for path in architecture.mlp_in:
                    module = layer.get_submodule(path)
                    stack.enter_context(replaced_forward(module, partial(self._at_read, module.forward)))
            yield

    def _layer(self, index: int, layer: nn.Module, original: Any, *args: Any, **kwargs: Any) -> Any:
        current = self._pass
        if current is None:
            return original(*args, **kwargs)
        named = keywords(layer, args, kwargs)
        extra, hidden = {}, named.pop("hidden_states")
        if self._masks is not None:
            self._masks.append(named.get("attention_mask"))
            return (hidden, None) if self._tuples else hidden
        if current.visible is not None:
            named["attention_mask"] = current.visible[index]

        def call(states: Tensor) -> Tensor:
            result = original(hidden_states=states, **named, **extra)
            self._tuples = isinstance(result, tuple)
            return result[0] if self._tuples else result

        clean = current.clean
        if current.lowest is not None:
            assert clean is not None and current.cache is not None
            states = self._entering(index, current, clean, current.cache, hidden, call)
        else:
            if clean is not None and index in clean.inputs:
                clean.inputs[index] = hidden
            states = call(hidden)
        return (states, None) if self._tuples else states

    def _entering(
        self, index: int, current: Pass, clean: Clean, cache: Recorder, hidden: Tensor, call: Any
    ) -> Tensor:
        """Rows of lower layers through layer ``index``, then the groups that enter behind its MLP."""
        assert current.lowest is not None
        inside = sum(lowest < index for lowest in current.lowest)
        new = current.lowest.count(index)
        outputs = []
        if inside:
            current.groups = inside
            outputs.append(call(hidden))
        if new:
            current.groups = inside + new
            entry, keeps = clean.inputs[index], cache.keeps
            leaf = self._less_erased(index, current, clean, slice(inside, inside + new))
            leaf = leaf.view(new, *entry.shape)
            if self._lm.architecture.flat_mlp:
                entry, leaf = entry.repeat(new, 1, 1), leaf.flatten(0, 2)
            current.entering, cache.keeps = leaf, False
            try:
                # one group goes in; what stands in for the MLP's output makes it as many as enter
                outputs.append(call(entry).reshape(-1, *entry.shape[1:]))
            finally:
                current.entering, cache.keeps = None, keeps
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0] if outputs else hidden

    def _less_erased(self, layer: int, current: Pass, clean: Clean, groups: slice) -> Tensor:
        """``[groups, I T, width]`` what the layer's projection puts out without the groups' neurons."""
        projection = self._lm.architecture.mlp_out_of(self._layers[layer])
        weight: Tensor = projection.weight.detach()  # type: ignore[operator]
        weight = weight.T if isinstance(projection, nn.Linear) else weight  # [neurons, width]
        activations, output = clean.activations[layer], clean.outputs[layer]
        bias = getattr(projection, "bias", None)
        nothing = torch.zeros_like(output) if bias is None else bias.detach().expand_as(output)
        assert current.erased is not None
        made = []
        for members in current.erased[groups, layer]:
            erased = members.nonzero().ravel()
            if 2 * len(erased) < len(members):
                made.append(output - activations[:, erased] @ weight[erased])
            else:
                left = (~members).nonzero().ravel()
                made.append(nothing + activations[:, left] @ weight[left])
        return torch.stack(made)

    def _project(self, index: int, original: Any, states: Tensor) -> Tensor:
        current = self._pass
        if current is None:
            return original(states)
        if current.entering is not None:
            return current.entering
        output: Tensor = original(current.zeroed(index, states))
        clean = current.clean
        if current.shape is not None:  # back to all positions; what stands at the others is not read
            assert current.read is not None
            everywhere = output.new_zeros(
                current.groups, current.shape.numel() // (current.groups * output.shape[-1]), output.shape[-1]
            )
            everywhere[:, current.read] = output
            output, current.shape = everywhere.view(current.shape), None
        elif clean is not None and current.lowest is None and index in clean.inputs:
            clean.activations[index] = states.reshape(-1, states.shape[-1])
            clean.outputs[index] = output.reshape(-1, output.shape[-1])
        return output

    def _at_read(self, original: Any, states: Tensor) -> Tensor:
        """An input projection of the last layer's MLP, at the positions that are read."""
        current = self._pass
        if current is None or current.read is None or current.entering is not None:
            return original(states)
        clean, last = current.clean, len(self._layers) - 1
        if clean is not None and current.lowest is None and last in clean.inputs:
            return original(states)  # sets will enter here: all positions are recorded
        current.shape = states.shape
        return original(states.reshape(current.groups, -1, states.shape[-1])[:, current.read])

    def _head(self, original: Any, states: Tensor) -> Tensor:
        current = self._pass
        if current is None or current.read is None:
            return original(states)
        return original(states.reshape(current.groups, -1, states.shape[-1])[:, current.read])
