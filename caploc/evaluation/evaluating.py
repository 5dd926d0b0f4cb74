"""Score a model on prepared items or general text, as it is or with sets of neurons erased."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caploc.errors import ExampleError, ModelError, OptionError, TooLongError
from caploc.evaluation.evaluator import Evaluator, Outcomes
from caploc.evaluation.preparing import Item, Prepared
from caploc.evaluation.scorings import SCORINGS, Ends
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel


def evaluate(
    lm: LanguageModel,
    prepared: Prepared,
    sets: Bool[Tensor, "sets layers neurons"] | None = None,
    *,
    batch_tokens: int | None = None,
    progress: bool | str = False,
) -> Outcomes:
    """Score ``lm`` on ``prepared``; for each of ``sets`` with its neurons' activations 0 at every position.

    Zero activations are what zero weights into and out of the neurons give (``caploc.interventions.weights``).

    Args:
        sets: bool; an empty set gives the model's own outcomes, and None does, without an axis of sets.
        batch_tokens: tokens that are run at once; None chooses by device. No result depends on it but by rounding.
        progress: show a progress bar on a terminal, under a name if one is given.

    The model is left as it was found. On CUDA, what does not fit into memory is tried again in halves.

    Raises:
        OptionError: sets of another shape or type, batch_tokens below 1, or items prepared with another tokenizer.
        ModelError: a single row does not fit into the GPU's memory, or losses are not finite.
    """
    if batch_tokens is not None and (isinstance(batch_tokens, bool) or batch_tokens < 1):
        raise OptionError(f"batch_tokens must be at least 1, got {batch_tokens}; None chooses")
    if prepared.tokenizer is not lm.tokenizer and prepared.tokenizer.get_vocab() != lm.tokenizer.get_vocab():
        raise OptionError(
            f"{prepared.dataset} was prepared with another tokenizer than that of {lm.name}; prepare it with this model"
        )
    if sets is not None:
        _check(lm, sets)
    evaluator = Evaluator(lm, prepared, None if sets is None else sets.to(lm.device), batch_tokens)
    outcomes = evaluator.run(progress)
    if not np.isfinite(outcomes.nll).all():
        item = prepared.ids[int(np.argwhere(~np.isfinite(outcomes.nll))[0][-1])]
        raise ModelError(
            f"{prepared.dataset}: the loss of {lm.name} on {item!r} is not finite; try dtype float32"
        )
    return outcomes if sets is not None else outcomes.of_set(0)


def _check(lm: LanguageModel, sets: Tensor) -> None:
    shape = (lm.num_layers, lm.num_neurons)
    if sets.dim() != 3 or sets.shape[1:] != shape or sets.dtype != torch.bool or not len(sets):
        raise OptionError(
            f"sets must be bool of shape (sets, {shape[0]}, {shape[1]}) to fit {lm.name}, got {str(sets.dtype)[6:]} of "
            f"{tuple(sets.shape)}; stack masks that were located in the same model"
        )


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
