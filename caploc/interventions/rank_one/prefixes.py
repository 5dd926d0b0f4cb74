"""Texts to put in front of a prompt, drawn from the model itself, so that an edit does not hang on how a text
begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from caploc.errors import ModelError
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.streams import Stream, stream

_CANDIDATES = 5  # ROME's code draws from the five most probable tokens


@torch.no_grad()
def draw_prefixes(lm: LanguageModel, lengths: Sequence[int], seed: int = 0) -> tuple[str, ...]:
    """One text of so many tokens for each of ``lengths``, each followed by a full stop and a space.

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
