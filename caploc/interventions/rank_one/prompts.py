"""What decides a rank-one edit beside the fact, the layer and the covariance: its settings, and the prompts that a
value is sought over, the fact behind several prefixes and what its subject is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from caploc.datasets.edits import EditRequest
from caploc.errors import ModelError, OptionError
from caploc.examples import Example, subject_tokens, tokenize
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.sizing import refused_if_too_large
from caploc.streams import Stream, stream

Token = Literal["last-subject", "last-prompt"]
Key = Literal["prompt", "mean"]
Divergence = Literal["edited", "last"]
_CANDIDATES = 5  # ROME's code draws from the five most probable tokens


@dataclass(frozen=True)
class Editing:
    """How an edit is made: as ROME's released code makes it in GPT-J, except where brackets say otherwise. Beyond this
    table, the covariance of keys is not Wikipedia's but that of the texts one gives (``key_covariance``).

    ===================  =====================================================================================
    ``token``            whose key is edited: the subject's last token (ROME's), or the prompt's last
    ``key``              which key gets the new value exactly: that of the bare ``prompt``, as in ROME's code, or
                         the ``mean`` over prefixed prompts, as in its paper; the mean gives the direction of
                         the update in both
    ``prefix_tokens``    the length of each text that is drawn from the model and put in front of the prompt,
                         to make more of it [ROME's code: ten of 5 and ten of 10; its paper: 50 of 2 to 10]
    ``prefixes``         texts to be used instead of drawn ones; an empty tuple for the bare prompt alone
    ``steps``            how often the loss is computed; Adam updates the value after each time but the last, so that
                         20 steps are 19 updates, as in ROME's code
    ``learning_rate``    of Adam, in units of the MLP's output
    ``kl_weight``        of KL(edited || unedited) on "SUBJECT is a"
    ``kl_token``         which of its tokens' predictions must not diverge: the ``edited`` one's, as in ROME's code,
                         or the ``last`` one's, as in its paper
    ``decay``            of |delta| / |v|^2, v the unedited output of the MLP at the bare prompt
    ``clamp``            |delta| is at most so many |v|; None for no limit
    ``stop_loss``        a layer's value is left as it is once its loss is below
    ``seed``             of the drawn prefixes
    ===================  =====================================================================================

    Raises:
        OptionError: a value that makes no sense.
    """

    token: Token = "last-subject"
    key: Key = "prompt"
    prefix_tokens: tuple[int, ...] = (2, 4, 6, 8, 10)
    prefixes: tuple[str, ...] | None = None
    steps: int = 20
    learning_rate: float = 0.5
    kl_weight: float = 0.0625
    kl_token: Divergence = "edited"
    decay: float = 0.5
    clamp: float | None = 4.0
    stop_loss: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {"token": get_args(Token), "key": get_args(Key), "kl_token": get_args(Divergence)}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise OptionError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name, least in (("steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if any(not isinstance(length, int) or length < 1 for length in self.prefix_tokens):
            raise OptionError(f"prefix_tokens must be lengths of at least 1, got {self.prefix_tokens!r}")
        for name in ("learning_rate", "clamp"):
            value = getattr(self, name)
            if not ((value is None and name == "clamp") or (_number(value) and value > 0)):
                raise OptionError(f"{name} must be a positive number, got {value!r}")
        for name in ("kl_weight", "decay", "stop_loss"):
            value = getattr(self, name)
            if not (_number(value) and value >= 0):
                raise OptionError(f"{name} must be a number of at least 0, got {value!r}")

    @property
    def settings(self) -> dict[str, Any]:
        """What results are keyed by and a finding records."""
        return asdict(self)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
        essence: "SUBJECT is a", of which one token's prediction should stay as it is; the last of the prompts.
        targets: ``[Y]`` the new answer's tokens.
    """

    rewriting: tuple[EditPrompt, ...]
    essence: EditPrompt
    targets: Int[Tensor, " answer_tokens"]

    @property
    def all(self) -> tuple[EditPrompt, ...]:
        return (*self.rewriting, self.essence)


def edit_prompts(
    lm: LanguageModel,
    request: EditRequest,
    prefixes: Sequence[str],
    token: Token,
    kl_token: Divergence = "edited",
) -> EditPrompts:
    """The prompts of ``request``, on the model's device; ``token`` and ``kl_token`` as in ``Editing``.

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
    essence = Example(
        request.id, f"{request.subject.strip()} is a", request.target_new, subject=request.subject
    )
    ids = tokenize(lm, essence).prompt_ids.to(lm.device)
    edited = _edited(lm, essence, len(ids), token)
    read = edited if kl_token == "edited" else len(ids) - 1
    about = EditPrompt(ids, edited, range(read, read + 1))
    return EditPrompts(tuple(rewriting), about, targets.to(lm.device))


def _edited(lm: LanguageModel, example: Example, prompt_tokens: int, token: Token) -> int:
    subject = subject_tokens(
        lm, example
    )  # also where the prompt's last token is edited: a fact is about something
    return subject[-1] if token == "last-subject" else prompt_tokens - 1


@refused_if_too_large("a text of a few tokens")
@torch.no_grad()
def draw_prefixes(lm: LanguageModel, lengths: Sequence[int], seed: int = 0) -> tuple[str, ...]:
    """One text of so many tokens for each of ``lengths``, each followed by a full stop and a space: put in front of a
    prompt, so that an edit does not hang on how a text begins.

    The model continues its beginning-of-sequence token (or its end-of-sequence token, where it has no other); every
    token is drawn from the five most probable ones that are not special. Each text has its own random numbers, from
    ``seed`` and its place, so that it does not depend on the others.

    Raises:
        ModelError: a tokenizer with neither token.
    """
    tokenizer = lm.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise ModelError(
            f"the tokenizer of {lm.name} has no token that begins a sequence, so that no prefix can be drawn; give "
            "some, Editing(prefixes=('...',))"
        )
    special = torch.tensor(tokenizer.all_special_ids, dtype=torch.long, device=lm.device)
    texts = []
    with frozen_eval(lm.model):
        for place, length in enumerate(lengths):
            random = stream(Stream.PREFIXES, seed, place)
            ids = [int(start)]
            for _ in range(length):
                logits = lm.model(input_ids=torch.tensor([ids], device=lm.device)).logits[0, -1].double()
                logits[special] = -torch.inf
                best = logits.topk(min(_CANDIDATES, len(logits) - len(special)))
                shares = best.values.softmax(0).cpu().numpy()
                drawn = int(np.searchsorted(shares.cumsum(), random.random()).clip(max=len(shares) - 1))
                ids.append(int(best.indices[drawn]))
            text: Any = tokenizer.decode(ids[1:], skip_special_tokens=True)
            texts.append(f"{text.strip()}. ")
    return tuple(texts)
