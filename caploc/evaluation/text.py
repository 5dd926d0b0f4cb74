"""The loss on general text: tells broken output from a lost skill (control-general-perplexity)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caploc.errors import ExampleError, OptionError, TooLongError
from caploc.evaluation.ends import Ends
from caploc.evaluation.evaluating import evaluate
from caploc.evaluation.preparing import Item, Prepared
from caploc.evaluation.scorings import SCORINGS
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel


def text_loss(
    lm: LanguageModel,
    texts: Sequence[str],
    sets: Bool[Tensor, "sets layers neurons"] | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool | str = False,
) -> Float[np.ndarray, "*sets texts"]:
    """Nats a token of each text, all tokens but its first; ``sets`` and the rest as in ``evaluate``.

    A text has the special tokens that the tokenizer puts in front of a prompt, so that often its first token is the
    beginning of sequence and all of its own count.

    Raises what ``evaluate`` raises; ExampleError for a text of fewer than two tokens, TooLongError for one that exceeds
    the model's context, OptionError for no texts.
    """
    if isinstance(texts, str) or not len(texts):
        raise OptionError("no texts to measure the loss on; pass a list of at least one")
    items = tuple(Item(_tokens(lm, number, text), text) for number, text in enumerate(texts))
    prepared = Prepared("text", SCORINGS["tokens"], items, (), 1, Ends(()), (), lm.tokenizer)
    outcomes = evaluate(
        lm,
        prepared,
        sets,
        batch_tokens=batch_tokens,
        progress=progress and (progress if isinstance(progress, str) else "text loss"),
    )
    return outcomes.nll


def _tokens(lm: LanguageModel, number: int, text: str) -> TokenizedExample:
    ids = lm.tokenizer(text, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise ExampleError(f"text {number} ({text[:40]!r}) has fewer than two tokens; leave it out")
    if len(ids) > lm.max_length:
        raise TooLongError(
            f"text {number} has {len(ids)} tokens, the context of {lm.name} holds {lm.max_length}; shorten it"
        )
    return TokenizedExample(torch.tensor(ids), 1, f"text-{number}")
