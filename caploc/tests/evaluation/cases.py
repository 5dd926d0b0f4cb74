"""Examples that small random models answer in part: references begin as the model itself would write."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc.examples import Example, tokenize
from caploc.model.loading import LanguageModel
from caploc.tests.tiny import tiny_lm

# the tokenizer's own end of sequence, and letters, so that a random model ends some of its texts
ENDS = (2, *range(14, 24))
_LETTERS = "abcdefghij 0123456789\n#:"


def tiny_ending_lm(family: str, dtype: torch.dtype, seed: int) -> LanguageModel:
    """A random model whose generation stops at ``ENDS``."""
    lm = tiny_lm(family, dtype, seed)
    lm.model.generation_config.eos_token_id = list(ENDS)  # type: ignore[union-attr]
    return lm


@torch.no_grad()
def examples(lm: LanguageModel, count: int, seed: int, own: bool = True) -> list[Example]:
    """Prompts of several lengths. Answers are random or, with ``own``, also what the model writes itself, as it is or
    with a letter changed."""
    generator = np.random.default_rng([seed, 1])
    made = []
    for number in range(count):
        prompt = _random(generator, int(generator.integers(3, 14)))
        answer = _random(generator, int(generator.integers(1, 7)))
        if own and number % 4:
            written = _written(lm, prompt, int(generator.integers(2, 8)))
            if number % 4 == 3 and len(written) > 1:
                place = int(generator.integers(len(written)))
                written = written[:place] + "z" + written[place + 1 :]
            answer = written if written.strip() else answer
        made.append(Example(f"e{number}", prompt, answer))
    return made


def labelled(labels: tuple[str, ...], count: int, seed: int) -> list[Example]:
    """Random prompts with one of the labels each."""
    generator = np.random.default_rng([seed, 2])
    return [
        Example(
            f"l{number}",
            _random(generator, int(generator.integers(3, 14))),
            f" {labels[int(generator.integers(len(labels)))]}",
        )
        for number in range(count)
    ]


def sets(lm: LanguageModel, seed: int) -> Tensor:
    """Sets that enter at every layer, one of most neurons, one of none; not in the order of their layers."""
    generator = np.random.default_rng([seed, 3])
    shape = (lm.num_layers, lm.num_neurons)
    made = [generator.random(shape) < share for share in (0.1, 0.8)]
    for lowest in range(lm.num_layers):
        one = generator.random(shape) < 0.15
        one[:lowest] = False
        one[lowest, int(generator.integers(lm.num_neurons))] = True
        made.insert(int(generator.integers(len(made) + 1)), one)
    made.insert(int(generator.integers(len(made) + 1)), np.zeros(shape, dtype=bool))
    return torch.from_numpy(np.stack(made))


def _random(generator: np.random.Generator, length: int) -> str:
    return "x" + "".join(_LETTERS[place] for place in generator.integers(len(_LETTERS), size=length))


def _written(lm: LanguageModel, prompt: str, most: int) -> str:
    ids = tokenize(lm, Example("own", prompt, "x")).prompt_ids
    model: Any = lm.model
    made = model.generate(
        input_ids=ids[None],
        attention_mask=torch.ones_like(ids)[None],
        max_new_tokens=most,
        do_sample=False,
        eos_token_id=list(ENDS),
        pad_token_id=0,
    )[0, len(ids) :].tolist()
    ends = [
        place for place, token in enumerate(made) if token < 4 or token in ENDS
    ]  # specials are no letters
    return str(lm.tokenizer.decode(made[: ends[0]] if ends else made))
