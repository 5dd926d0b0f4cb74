"""Whether a model knows an answer: does it rank every token of it first?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from caploc.attribution.restoring import frozen_eval
from caploc.errors import ModelError
from caploc.examples import TokenizedExample
from caploc.models import LanguageModel
from caploc.store import Store, fingerprint

CODE_VERSION = 1


def answer_ranks(
    lm: LanguageModel, examples: Sequence[TokenizedExample], store: Store, progress: bool = True
) -> np.ndarray:
    """``[examples]`` the worst rank, from 1, of an answer's tokens among the whole vocabulary, each after those before.

    1 means that greedy decoding gives the answer. Ties rank the answer first. The ranks are kept in ``store``.

    Raises:
        ModelError: the model's logits are not finite.
    """
    key = fingerprint(
        {
            "what": "ranks of answers",
            "code": CODE_VERSION,
            "model": lm.fingerprint,
            "dtype": str(lm.dtype),
            "device": lm.device.type,
            "examples": [[example.answer_start, *example.input_ids.tolist()] for example in examples],
        }
    )

    def compute() -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
        bar = tqdm(examples, desc="known facts", unit="prompt", disable=None if progress else True)
        with frozen_eval(lm.model), torch.no_grad():
            return {"ranks": np.array([_rank(lm, example) for example in bar])}, {}

    (entry,) = store.compute_all([(key, compute)])
    return entry.arrays["ranks"]


def _rank(lm: LanguageModel, example: TokenizedExample) -> int:
    ids = example.input_ids.to(lm.device)
    logits = lm.model(input_ids=ids[None, :-1], use_cache=False).logits[0, example.answer_start - 1 :]
    if not logits.isfinite().all():
        raise ModelError(f"example {example.id!r}: logits of {lm.name} are not finite; try dtype float32")
    own = logits.gather(1, ids[example.answer_start :, None])
    return int((logits > own).sum(1).max()) + 1
