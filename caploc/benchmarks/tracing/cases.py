"""What is traced: models of some sizes, prompts, and where the subject stands in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import torch
from transformers import GPTJConfig, GPTJForCausalLM

from caploc.benchmarks.attribution.sizes import MAX_LENGTH, VOCABULARY, bench_llama
from caploc.locators.causal_tracing.trace import Kind
from caploc.models import LanguageModel, wrap

SUBJECT_TOKENS = 4


@dataclass(frozen=True)
class Case:
    """One model, prompt and kind of state.

    Attributes:
        tokens: of the prompt.
        start: the subject's first token. Tokens in front of it cost nothing, so 1, right after a beginning-of-sequence
            token, is the hardest place, and where most facts of COUNTERFACT, known_1000 and ParaRel have their
            subject. Those of zsRE have it halfway; the mean over the four is a fifth of the prompt.
        least_ratio: what caploc promises; None where nothing is promised.
    """

    family: str
    layers: int
    width: int
    tokens: int
    start: int
    kind: Kind
    window: int = 1
    least_ratio: float | None = None

    @property
    def subject(self) -> range:
        return range(self.start, self.start + SUBJECT_TOKENS)


FULL = (
    Case("llama", 6, 256, 30, 6, "mlp", least_ratio=6.0),
    Case("llama", 6, 256, 30, 6, "hidden", least_ratio=6.0),
    Case("llama", 6, 256, 30, 6, "attention", window=3),
    Case("llama", 6, 256, 30, 1, "mlp"),
    Case("gptj", 6, 256, 30, 6, "mlp", least_ratio=6.0),
    Case("llama", 12, 256, 40, 8, "mlp"),
)

QUICK = (Case("llama", 3, 32, 9, 2, "mlp", window=2), Case("gptj", 2, 32, 7, 1, "hidden"))


def bench_gptj(layers: int, width: int) -> LanguageModel:
    """A GPT-J with random weights in float32, as ``bench_llama``'s Llama is."""
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPTJForCausalLM(config).eval().requires_grad_(False)
    return wrap(f"gptj-{layers}x{width}", model, cast(Any, None))  # no text, so no tokenizer


MODELS: Mapping[str, Callable[[int, int], LanguageModel]] = MappingProxyType(
    {"llama": bench_llama, "gptj": bench_gptj}
)
