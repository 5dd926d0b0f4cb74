"""Run the MLPs and the output head only at the tokens that matter: padding never does, and in the last layer only those
that predict a trained token do."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from caploc.interventions.enhancement.batches import Batch
from caploc.model.loading import LanguageModel


class ReadTokens:
    """A model made ready to give the logits of a batch's read tokens; inside ``with``, which restores it.

    Attention needs no mask: padding stands on the right, and no real token attends to what follows it.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._batch: Batch | None = None
        self._stack = ExitStack()
        self._shape: torch.Size = torch.Size()
        self._gathered: tuple[Tensor, Tensor] | None = None  # gate and up are given the same states

    def __enter__(self) -> ReadTokens:
        lm, architecture = self._lm, self._lm.architecture
        with ExitStack() as stack:
            for number, layer in enumerate(lm.layers):
                last = number == lm.num_layers - 1
                for path in architecture.mlp_in:
                    hook = partial(self._gather, last)
                    stack.callback(layer.get_submodule(path).register_forward_pre_hook(hook).remove)
                hook_out = partial(self._scatter, last)
                stack.callback(architecture.mlp_out_of(layer).register_forward_hook(hook_out).remove)
            head = cast(nn.Module, lm.model.get_output_embeddings())
            stack.callback(head.register_forward_pre_hook(self._before_head).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def logits(self, batch: Batch) -> Tensor:
        """``[N, vocabulary]`` at the batch's read tokens."""
        self._batch = batch
        try:
            logits: Tensor = self._lm.model(input_ids=batch.input_ids, use_cache=False).logits
        finally:
            self._batch = self._gathered = None
        return logits

    def _wanted(self, last: bool) -> Tensor | None:
        if self._batch is None:
            return None
        return self._batch.read if last else self._batch.real

    def _gather(self, last: bool, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        wanted, states = self._wanted(last), args[0]
        if wanted is None:
            return None
        if self._gathered is None or self._gathered[0] is not states:
            self._shape = states.shape  # OPT flattens batch and tokens before its MLP
            self._gathered = states, states.reshape(-1, states.shape[-1]).index_select(0, wanted)
        return (self._gathered[1], *args[1:])

    def _scatter(self, last: bool, module: nn.Module, args: Any, outputs: Tensor) -> Tensor | None:
        wanted = self._wanted(last)
        if wanted is None:
            return None
        self._gathered = None
        everywhere = outputs.new_zeros(self._shape[:-1].numel(), outputs.shape[-1])
        return everywhere.index_copy_(0, wanted, outputs).view(*self._shape[:-1], -1)

    def _before_head(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._batch is None:
            return None
        states = args[0]
        return (states.reshape(-1, states.shape[-1]).index_select(0, self._batch.read), *args[1:])
