"""Examples as padded batches, in an order that the seed alone decides, and which of their tokens are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from caploc.errors import ExampleError, OptionError
from caploc.examples import TokenizedExample
from caploc.interventions.enhancement.recipe import Recipe
from caploc.model.loading import LanguageModel

_ORDER = 5021  # tags the draws of the order among all that a seed is used for
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
    generator = np.random.default_rng([recipe.seed, _ORDER])
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
