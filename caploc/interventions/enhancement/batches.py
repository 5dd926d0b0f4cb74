"""Examples as padded batches, in an order that the seed alone decides, and a model that computes only what trains on
them.

MLPs run only at real tokens, in the last layer only at those that predict a trained token; so does the output head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from caploc.errors import ExampleError, OptionError
from caploc.examples import TokenizedExample
from caploc.interventions.enhancement.recipe import Recipe
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import Borrower
from caploc.streams import Stream, stream

_UNREAD = -100


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples padded on the right: ``input_ids [B, T]``.

    Attributes:
        real: ``[M]`` which of the B T tokens are no padding; None if all are.
        read: ``[N]`` which of them predict a token that is trained on.
        targets: ``[N]`` those tokens.
    """

    input_ids: Int[Tensor, "batch tokens"]
    real: Int[Tensor, " real"] | None
    read: Int[Tensor, " read"]
    targets: Int[Tensor, " read"]


class Batches:
    """All examples, made ready once: any of them are a ``Batch`` by their indices.

    Raises:
        ExampleError: an example is longer than the model's context, or has nothing to train on within the limit.
    """

    def __init__(self, lm: LanguageModel, examples: Sequence[TokenizedExample], recipe: Recipe) -> None:
        end = end_token(lm)
        rows = [_row(lm, example, recipe, end) for example in examples]
        self._lengths = np.array([len(ids) for ids, _ in rows])
        shape = (len(rows), int(self._lengths.max()))
        self._ids = torch.zeros(shape, dtype=torch.long)
        self._targets = torch.full(shape, _UNREAD)
        for index, (ids, targets) in enumerate(rows):
            self._ids[index, : len(ids)] = ids
            self._targets[index, : len(ids)] = targets
        self._device = lm.device

    def __len__(self) -> int:
        return len(self._ids)

    def tokens(self, indices: np.ndarray) -> int:
        """How many tokens of the examples ``indices [B]`` are trained on."""
        return int((self._targets[torch.from_numpy(indices)] != _UNREAD).sum())

    def batch(self, indices: np.ndarray) -> Batch:
        """The examples ``indices [B]``."""
        lengths, rows = self._lengths[indices], torch.from_numpy(indices)
        longest = int(lengths.max())
        targets = self._targets[rows, :longest].ravel()
        read = (targets != _UNREAD).nonzero().ravel()
        real = None
        if (lengths < longest).any():
            inside = torch.arange(longest) < torch.from_numpy(lengths)[:, None]
            real = inside.ravel().nonzero().ravel().to(self._device)
        ids = self._ids[rows, :longest].to(self._device)
        return Batch(ids, real, read.to(self._device), targets[read].to(self._device))

    def by_length(self, size: int) -> Iterator[Batch]:
        """All examples once, those of like length together."""
        order = self._lengths.argsort(kind="stable")
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])


def orders(recipe: Recipe, examples: int) -> Iterator[list[np.ndarray]]:
    """For each epoch, the examples of its steps: a random order, cut into batches."""
    generator = stream(Stream.BATCHES, recipe.seed)
    for _ in range(recipe.epochs):
        order = generator.permutation(examples)
        yield [order[start : start + recipe.batch_size] for start in range(0, examples, recipe.batch_size)]


def end_token(lm: LanguageModel) -> int | None:
    """The token that ends a text: the tokenizer's, else the configuration's, if the model has a row for it."""
    end = getattr(lm.tokenizer, "eos_token_id", None)
    if end is None:
        end = lm.model.config.eos_token_id
    if isinstance(end, list):
        end = end[0] if end else None
    return end if isinstance(end, int) and 0 <= end < vocabulary(lm) else None


def vocabulary(lm: LanguageModel) -> int:
    """How many tokens the model has embeddings of."""
    return cast(nn.Embedding, lm.model.get_input_embeddings()).num_embeddings


def check_apart(training: Sequence[TokenizedExample], held_out: Sequence[TokenizedExample]) -> None:
    """Refuse held-out examples that are trained on.

    Raises:
        OptionError: one has the very tokens of a training example.
    """
    trained = {tuple(example.input_ids.tolist()): example.id for example in training}
    for example in held_out:
        twin = trained.get(tuple(example.input_ids.tolist()))
        if twin is not None:
            raise OptionError(
                f"held-out example {example.id!r} has the tokens of the training example {twin!r}; "
                "hold out others than are trained on"
            )


def _row(
    lm: LanguageModel, example: TokenizedExample, recipe: Recipe, end: int | None
) -> tuple[Tensor, Tensor]:
    """The tokens that are fed, and what each is to predict."""
    ids, limit = example.input_ids.cpu(), recipe.length_limit
    if len(ids) > lm.max_length:
        raise ExampleError(
            f"example {example.id!r} has {len(ids)} tokens, the context of {lm.name} holds {lm.max_length}; "
            "leave it out"
        )
    if limit is not None and limit < len(ids):
        ids = ids[:limit]
    elif end is not None and ids[-1] != end:
        ids = torch.cat([ids, torch.tensor([end])])
    first = example.answer_start if recipe.loss_on == "answer" else 1
    if first >= len(ids):
        raise ExampleError(
            f"example {example.id!r}: its prompt of {example.answer_start} tokens fills the length limit of {limit}; "
            "raise length_limit or leave it out"
        )
    targets = ids[1:].clone()
    targets[: first - 1] = _UNREAD
    return ids[:-1], targets


class ReadTokens(Borrower):
    """A model made ready to give the logits of a batch's read tokens; inside ``with``, which restores it.

    Attention needs no mask: padding stands on the right, and no real token attends to what follows it.
    """

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self._batch: Batch | None = None
        self._shape: torch.Size = torch.Size()
        self._gathered: tuple[Tensor, Tensor] | None = None  # gate and up are given the same states

    def _borrow(self, stack: ExitStack) -> None:
        lm, architecture = self._lm, self._lm.architecture
        for number, layer in enumerate(lm.layers):
            last = number == lm.num_layers - 1
            for path in architecture.mlp_in:
                hook = partial(self._gather, last)
                stack.callback(layer.get_submodule(path).register_forward_pre_hook(hook).remove)
            hook_out = partial(self._scatter, last)
            stack.callback(architecture.mlp_out_of(layer).register_forward_hook(hook_out).remove)
        head = cast(nn.Module, lm.model.get_output_embeddings())
        stack.callback(head.register_forward_pre_hook(self._before_head).remove)

    def logits(self, batch: Batch) -> Tensor:
        """``[N, vocabulary]`` at the batch's read tokens."""
        self._batch = batch
        try:
            logits: Tensor = self._lm.model(input_ids=batch.input_ids, use_cache=False).logits
        finally:
            self._batch = self._gathered = None
        return logits

    def _wanted(self, last: bool, device: torch.device) -> Tensor | None:
        """Which tokens, on the layer's ``device``."""
        if self._batch is None:
            return None
        wanted = self._batch.read if last else self._batch.real
        return None if wanted is None else wanted.to(device)

    def _gather(self, last: bool, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        states = args[0]
        wanted = self._wanted(last, states.device)
        if wanted is None:
            return None
        if self._gathered is None or self._gathered[0] is not states:
            self._shape = states.shape  # OPT flattens batch and tokens before its MLP
            self._gathered = states, states.reshape(-1, states.shape[-1]).index_select(0, wanted)
        return (self._gathered[1], *args[1:])

    def _scatter(self, last: bool, module: nn.Module, args: Any, outputs: Tensor) -> Tensor | None:
        wanted = self._wanted(last, outputs.device)
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
