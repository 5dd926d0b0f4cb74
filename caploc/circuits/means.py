"""Mean ablation: what a sender writes on average, which a pruned edge may carry instead of zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caploc.circuits.decomposed import DecomposedModel
from caploc.errors import ExampleError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.model.loading import LanguageModel


def mean_outputs(lm: LanguageModel, examples: Sequence[Example]) -> Float[Tensor, "senders width"]:
    """Every sender's output, mean over all tokens of all prompts (answers are left out), each token counted once.

    Raises:
        ExampleError: no example, one that cannot be tokenized, or a prompt of a single token.
    """
    if not examples:
        raise ExampleError("there is no example to take means over; give at least one")
    model = DecomposedModel(lm)
    total, tokens = torch.zeros_like(model.means), 0
    for example in examples:
        ids = tokenize(lm, example).prompt_ids
        if len(ids) < 2:
            raise ExampleError(f"example {example.id!r}: its prompt has one token; means need at least two")
        everything = model.prompt(
            TokenizedExample(ids, 1, example.id)
        )  # an answer from the start: all rows are read
        total += everything.deviations.sum(1)
        tokens += everything.tokens
    return total / tokens
