"""Small random models of every family that can be taken apart, and prompts for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from transformers import GPTNeoConfig
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention
from transformers.models.gptj.modeling_gptj import GPTJAttention

from caploc.circuits import GPT_NEO
from caploc.circuits.weights import FAMILIES
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel, wrap
from caploc.tests.attribution.families import CONFIGS, CONTEXT, VOCABULARY, make_model
from caploc.tests.tiny import tokenizer

SUPPORTED = tuple(FAMILIES)
WINDOW = 3


def small_model(
    family: str,
    dtype: torch.dtype = torch.float64,
    layers: int = 2,
    heads: int = 4,
    groups: int = 2,
    seed: int = 0,
) -> LanguageModel:
    """Width 8 x ``heads``; where the family has a window it is shorter than the prompts below."""
    if family == "gpt_neo":
        config: Any = GPTNeoConfig(
            vocab_size=VOCABULARY,
            hidden_size=8 * heads,
            num_layers=layers,
            num_heads=heads,
            intermediate_size=20,
            attention_types=[[["local"], 1], [["global"], layers - 1]],
            window_size=WINDOW,
            max_position_embeddings=CONTEXT,
            bos_token_id=1,
            eos_token_id=2,
        )
    else:
        config = CONFIGS[family](layers, heads, groups, WINDOW)
    architecture = GPT_NEO if family == "gpt_neo" else None  # the table of caploc.architectures refuses it
    return wrap(f"small-{family}", make_model(config, dtype, seed), tokenizer(), architecture)


def random_example(prompt: int = 6, answer: int = 1, seed: int = 0) -> TokenizedExample:
    """Random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return TokenizedExample(
        torch.randint(3, VOCABULARY, (prompt + answer,), generator=generator), prompt, "random"
    )


@contextmanager
def attention_in_its_dtype() -> Iterator[None]:
    """GPT-J and GPT-Neo round queries and keys to float32 whatever the model's dtype; here they do not."""
    with ExitStack() as stack:
        for attention in (GPTJAttention, GPTNeoSelfAttention):
            stack.enter_context(patch.object(attention, "_attn", _attend))
        yield


def _attend(
    self: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any = None
) -> tuple[torch.Tensor, None]:
    scores = query @ key.transpose(-1, -2) / getattr(self, "scale_attn", 1.0)
    tokens = scores.shape[-1]
    visible = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    if isinstance(self, GPTNeoSelfAttention):
        visible = self.bias[0, 0, :tokens, :tokens]
    scores = scores.masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ value, None
