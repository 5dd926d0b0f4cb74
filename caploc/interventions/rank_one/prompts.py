"""The prompts that a value is sought over: the fact behind several prefixes, and what its subject is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from caploc.datasets.edits import EditRequest
from caploc.examples import Example, subject_tokens, tokenize
from caploc.interventions.rank_one.settings import Token
from caploc.model.loading import LanguageModel


@dataclass(frozen=True, eq=False)
class EditPrompt:
    """Tokens that are fed, which of them has its MLP output changed, and which ones' predictions are read."""

    fed: Int[Tensor, " tokens"]
    edited: int
    read: range


@dataclass(frozen=True, eq=False)
class EditPrompts:
    """P prompts of one fact.

    Attributes:
        rewriting: the fact's prompt, bare first, then behind each prefix, with all but the last of the new answer's
            tokens; the predictions of the whole answer are read.
        essence: "SUBJECT is a", whose next token's distribution should stay; the last of the prompts.
        targets: ``[Y]`` the new answer's tokens.
    """

    rewriting: tuple[EditPrompt, ...]
    essence: EditPrompt
    targets: Int[Tensor, " answer_tokens"]

    @property
    def all(self) -> tuple[EditPrompt, ...]:
        return (*self.rewriting, self.essence)


def edit_prompts(
    lm: LanguageModel, request: EditRequest, prefixes: Sequence[str], token: Token
) -> EditPrompts:
    """The prompts of ``request``, on the model's device.

    Raises:
        ExampleError: the subject is not in the prompt, a text is empty, or one is too long for the model's context.
    """
    rewriting = []
    targets = torch.empty(0)
    for prefix in ("", *prefixes):
        example = request.example(prefix)
        tokenized = tokenize(lm, example)
        start, targets = tokenized.answer_start, tokenized.answer_ids
        edited = _edited(lm, example, start, token)
        fed = tokenized.input_ids[:-1].to(lm.device)
        rewriting.append(EditPrompt(fed, edited, range(start - 1, len(fed))))
    essence = Example(request.id, f"{request.subject} is a", request.target_new, subject=request.subject)
    ids = tokenize(lm, essence).prompt_ids.to(lm.device)
    last = EditPrompt(ids, _edited(lm, essence, len(ids), token), range(len(ids) - 1, len(ids)))
    return EditPrompts(tuple(rewriting), last, targets.to(lm.device))


def _edited(lm: LanguageModel, example: Example, prompt_tokens: int, token: Token) -> int:
    subject = subject_tokens(
        lm, example
    )  # also where the prompt's last token is edited: a fact is about something
    return subject[-1] if token == "last-subject" else prompt_tokens - 1
