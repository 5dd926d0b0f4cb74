"""Whether a model knows an answer: does it rank every token of it first, and how probable is it?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.models import LanguageModel
from caploc.rows.borrowing import frozen_eval


def answers_known(
    lm: LanguageModel, examples: Sequence[TokenizedExample], progress: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """``[examples]`` the worst rank of an answer's tokens, and ``[examples]`` log P(answer | prompt), teacher forced.

    Ranks are from 1 among the whole vocabulary, each token's after those before it; 1 means that greedy decoding gives
    the answer. Ties rank the answer first.

    Raises:
        ModelError: the model's logits are not finite.
    """
    bar = tqdm(examples, desc="known facts", unit="prompt", disable=None if progress else True)
    with frozen_eval(lm.model), torch.no_grad():
        found = [_answer(lm, example) for example in bar]
    return np.array([rank for rank, _ in found], np.int64), np.array([log for _, log in found], np.float64)


def _answer(lm: LanguageModel, example: TokenizedExample) -> tuple[int, float]:
    ids = example.input_ids.to(lm.device)
    logits = lm.model(input_ids=ids[None, :-1], use_cache=False).logits[0, example.answer_start - 1 :]
    if not logits.isfinite().all():
        raise ModelError(f"example {example.id!r}: logits of {lm.name} are not finite; try dtype float32")
    answer = ids[example.answer_start :, None]
    logs = logits.double().log_softmax(1).gather(1, answer)
    return int((logits > logits.gather(1, answer)).sum(1).max()) + 1, float(logs.sum())
