"""What is measured: sizes, the bounds that caploc promises at them, and the models and examples of those sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel, wrap

VOCABULARY = 1024
MAX_LENGTH = 1024


@dataclass(frozen=True)
class Sizes:
    """Prompts of X and answers of Y tokens; a Llama of ``layers``, ``width`` and an MLP of 4 times that.

    ``least_ratio`` (over the naive method, by (X, Y)) and ``most_growth`` (longest prompt over shortest) are what
    caploc promises; None and empty where nothing is promised.
    """

    layers: int
    width: int
    ratios: tuple[tuple[int, int], ...]
    prompts: tuple[int, ...]
    answers: tuple[int, ...]
    depths: tuple[int, ...]
    typical: tuple[int, int]
    memory: tuple[tuple[int, int], ...]
    examples: int
    least_ratio: Mapping[tuple[int, int], float]
    most_growth: float | None


FULL = Sizes(
    layers=8,
    width=256,
    ratios=((32, 8), (128, 8), (128, 64), (256, 64)),
    prompts=(32, 64, 128, 256),
    answers=(8, 16, 32, 64),
    depths=(2, 4, 8),
    typical=(128, 64),
    memory=((128, 64), (256, 64)),
    examples=8,
    least_ratio=MappingProxyType({(128, 64): 150.0, (256, 64): 250.0}),
    most_growth=1.5,
)

QUICK = Sizes(
    layers=3,
    width=32,
    ratios=((8, 4),),
    prompts=(4, 8),
    answers=(2, 4),
    depths=(2, 3),
    typical=(8, 4),
    memory=((8, 4),),
    examples=1,
    least_ratio=MappingProxyType({}),
    most_growth=None,
)


def bench_llama(layers: int, width: int) -> LanguageModel:
    """A Llama with random weights in float32: 8 heads, an MLP of 4 x ``width``, untied embeddings of 1,024 tokens.

    Parameters are frozen, so that no method pays for gradients of weights. The random state is left as it was.
    """
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        max_position_embeddings=MAX_LENGTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    return wrap(f"llama-{layers}x{width}", model, cast(Any, None))  # no text, so no tokenizer


def random_example(prompt: int, answer: int) -> TokenizedExample:
    """``prompt`` and ``answer`` random tokens, the same on every call."""
    generator = torch.Generator().manual_seed(prompt)
    ids = torch.randint(3, VOCABULARY, (prompt + answer,), generator=generator)
    return TokenizedExample(ids, prompt, f"random-{prompt}+{answer}")
