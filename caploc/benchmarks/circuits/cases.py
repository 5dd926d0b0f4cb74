"""What is measured: embedded models with facts that they know, and a Llama of the same shape with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import caploc
from caploc.errors import CaplocError
from caploc.examples import TokenizedExample, tokenize
from caploc.model.loading import LanguageModel, load_model, wrap

DATASET = "counterfact"
_DATA = Path(caploc.__file__).resolve().parent.parent / "fixtures" / "data"


@dataclass(frozen=True)
class Sizes:
    """``layers`` of the random Llama; prompts of about ``tokens``; ``facts`` behind each row on methods.

    ``least_ratio`` by (model, threshold) is what caploc promises.
    """

    layers: int
    embedded: tuple[str, ...]
    thresholds: tuple[float, ...]
    tokens: int
    facts: int
    least_ratio: Mapping[tuple[str, float], float]


FULL = Sizes(
    layers=6,
    embedded=("tiny-llama", "tiny-gptj"),
    thresholds=(0.1, 0.01, 0.001, 0.0),
    tokens=12,
    facts=12,
    least_ratio=MappingProxyType({("tiny-llama", 0.01): 8.0, ("tiny-gptj", 0.01): 8.0}),
)

QUICK = Sizes(
    layers=2,
    embedded=(),
    thresholds=(0.01,),
    tokens=4,
    facts=1,
    least_ratio=MappingProxyType({}),
)


@dataclass(frozen=True)
class Case:
    """One model and the facts it is measured on."""

    lm: LanguageModel
    examples: list[TokenizedExample]


def cases(sizes: Sizes, facts: int) -> tuple[list[Case], list[str]]:
    """The models with ``facts`` facts each, and why others are missing."""
    made, missing = [_random_case(sizes, facts)], []
    for name in sizes.embedded:
        try:
            made.append(_embedded_case(name, sizes, facts))
        except CaplocError as error:
            missing.append(f"{name} not measured: {error}")
    return made, missing


def _embedded_case(name: str, sizes: Sizes, facts: int) -> Case:
    lm = load_model(name)
    tokenized = [
        tokenize(lm, example) for example in caploc.load_examples(DATASET, path=_DATA, split="locate")
    ]
    tokenized.sort(
        key=lambda example: abs(example.answer_start - sizes.tokens)
    )  # stable: the same on every call
    return Case(lm, tokenized[:facts])


def _random_case(sizes: Sizes, facts: int) -> Case:
    config = LlamaConfig(
        vocab_size=1280,
        hidden_size=96,
        intermediate_size=512,
        num_hidden_layers=sizes.layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        initializer_range=0.05,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        drawn = torch.randint(3, 1280, (facts, sizes.tokens + 1))
    lm = wrap(f"random-llama-{sizes.layers}x96", model, cast(Any, None))  # no text, so no tokenizer
    return Case(lm, [TokenizedExample(ids, sizes.tokens, f"random-{n}") for n, ids in enumerate(drawn)])
