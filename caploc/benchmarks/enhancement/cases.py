"""What is trained: a Llama of some size, examples, and sets of neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from caploc.benchmarks.attribution.speed import MAX_LENGTH, VOCABULARY
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel, wrap
from caploc.neurons import NeuronMask


@dataclass(frozen=True)
class Case:
    """A set of neurons: ``share`` of all, at random in the layers from ``lowest`` on.

    ``least_ratio`` (masked over rows, time of a step) and ``most_memory`` (rows over masked) are what caploc promises;
    None where nothing is promised.
    """

    name: str
    share: float
    lowest: int = 0
    least_ratio: float | None = None
    most_memory: float | None = None

    def mask(self, layers: int, neurons: int) -> NeuronMask:
        """The neurons of a model of that shape, at least one, one of them in the lowest layer."""
        drawn = np.zeros((layers, neurons), dtype=bool)
        part = drawn[self.lowest :]
        part[0, 0] = True
        count = round(self.share * layers * neurons) - 1
        others = np.random.default_rng(0).permutation(np.arange(1, part.size))
        part.ravel()[others[: max(0, count)]] = True
        return NeuronMask(torch.from_numpy(drawn))


@dataclass(frozen=True)
class Sizes:
    """A Llama, batches of ``batch`` examples of ``prompt + answer`` tokens, and what is trained."""

    layers: int
    width: int
    neurons: int
    batch: int
    prompt: int
    answer: int
    cases: tuple[Case, ...]
    shares: tuple[float, ...]

    def model(self) -> LanguageModel:
        """With random weights in float32. The random state is left as it was."""
        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.width,
            intermediate_size=self.neurons,
            num_hidden_layers=self.layers,
            num_attention_heads=8,
            max_position_embeddings=MAX_LENGTH,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LlamaForCausalLM(config).eval()
        return wrap(f"llama-{self.layers}x{self.width}", model, cast(Any, None))  # no text, so no tokenizer

    def examples(self) -> list[TokenizedExample]:
        """One batch of random tokens, all of one length, so that no way pays for padding."""
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(3, VOCABULARY, (self.batch, self.prompt + self.answer), generator=generator)
        return [TokenizedExample(row, self.prompt, f"random-{index}") for index, row in enumerate(ids)]


FULL = Sizes(
    layers=8,
    width=512,
    neurons=1376,
    batch=8,
    prompt=48,
    answer=16,
    cases=(
        Case("0.15 %", 0.0015, least_ratio=1.5, most_memory=0.01),
        Case("0.15 %, upper half", 0.0015, lowest=4, least_ratio=1.5, most_memory=0.01),
        Case("5 %", 0.05),
        Case("99.85 %", 0.9985),
    ),
    shares=(0.0015, 0.003, 0.03, 0.3, 0.6, 1.0),
)

QUICK = Sizes(
    layers=3,
    width=32,
    neurons=40,
    batch=2,
    prompt=6,
    answer=3,
    cases=(Case("few", 0.03), Case("few, upper", 0.03, lowest=1), Case("most", 0.9)),
    shares=(0.05, 0.1, 1.0),
)
