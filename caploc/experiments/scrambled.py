"""The control text: the same tokens without their meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from caploc.examples import TokenizedExample
from caploc.streams import Stream, stream


def scrambled(
    examples: Sequence[TokenizedExample], seed: int, first_token: int | None = None
) -> list[TokenizedExample]:
    """Text without meaning but with the same tokens: prompts shuffled inside, answers dealt out anew and shuffled.

    A prompt that begins with ``first_token``, the beginning-of-sequence token, keeps it in its place.
    """
    generator = stream(Stream.SCRAMBLED, seed)
    longest = max(len(example.input_ids) for example in examples)
    dealt = generator.permutation(len(examples))
    result = []
    for example, donor in zip(examples, (examples[index] for index in dealt), strict=True):
        fixed = int(example.input_ids[0] == first_token) if first_token is not None else 0
        order = fixed + generator.permutation(example.answer_start - fixed)
        prompt = example.prompt_ids[torch.from_numpy(np.concatenate([np.arange(fixed), order]))]
        answer = donor.answer_ids[torch.from_numpy(generator.permutation(donor.num_answer_tokens))]
        answer = answer[: longest - len(prompt)]  # never beyond what fitted the context
        result.append(TokenizedExample(torch.cat([prompt, answer]), len(prompt), f"{example.id}-scrambled"))
    return result
