"""What is measured on: models of any size with random weights, random tokens, and where the embedded data lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

import caploc
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel, wrap

DATA = Path(caploc.__file__).resolve().parent.parent / "fixtures" / "data"
VOCABULARY = 1024
MAX_LENGTH = 1024


def random_llama(layers: int, width: int, **fields: Any) -> LanguageModel:
    """A Llama with random weights in float32: 8 heads, an MLP of 4 x ``width``, untied embeddings of 1,024 tokens.

    Parameters are frozen, so that no method pays for gradients of weights. The random state is left as it was.

    Args:
        fields: of the configuration, instead of these.
    """
    own = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "max_position_embeddings": MAX_LENGTH,
    }
    return _random(LlamaForCausalLM, LlamaConfig(**(own | fields)), f"llama-{layers}x{width}")


def random_gptj(layers: int, width: int) -> LanguageModel:
    """A GPT-J of the same kind."""
    config = GPTJConfig(
        vocab_size=VOCABULARY,
        n_embd=width,
        n_layer=layers,
        n_head=8,
        n_positions=MAX_LENGTH,
        rotary_dim=width // 16,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _random(GPTJForCausalLM, config, f"gptj-{layers}x{width}")


def _random(kind: type[PreTrainedModel], config: Any, name: str) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config).eval().requires_grad_(False)
    return wrap(name, model, cast(Any, None))  # no text, so no tokenizer


def random_examples(count: int, prompt: int, answer: int, seed: int = 0) -> list[TokenizedExample]:
    """Prompts and answers of so many random tokens, the same on every call."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (count, prompt + answer), generator=generator)
    return [
        TokenizedExample(row, prompt, f"random-{prompt}+{answer}-{number}") for number, row in enumerate(ids)
    ]


def random_example(prompt: int, answer: int) -> TokenizedExample:
    """One of them, another for each length of the prompt."""
    return random_examples(1, prompt, answer, seed=prompt)[0]
