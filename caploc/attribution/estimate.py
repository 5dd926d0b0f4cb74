"""How much work an attribution is, told before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from caploc.examples import TokenizedExample
from caploc.models import LanguageModel


def packed_flops(lm: LanguageModel, examples: Sequence[TokenizedExample], steps: int) -> float:
    """Floating-point operations of the packed engine, by count: matrix products only, forward and backward.

    A token that enters behind layer l passes the layers above it, on average (L - 1) / 2, and the head; the gradient
    costs as much again, parameters being frozen. The adaptive rule usually needs less than ``steps`` points.
    """
    embedding = lm.model.get_input_embeddings().weight.numel()
    per_layer = sum(parameter.numel() for layer in lm.layers for parameter in layer.parameters()) / lm.num_layers
    answers = sum(example.num_answer_tokens for example in examples)
    prompts = sum(len(example.input_ids) for example in examples)
    tokens = answers * lm.num_layers * (steps + 1)
    packed = tokens * 2 * 2 * (per_layer * (lm.num_layers - 1) / 2 + embedding)
    clean = prompts * 2 * (per_layer * lm.num_layers + embedding)
    return packed + clean


def describe(lm: LanguageModel, examples: Sequence[TokenizedExample], steps: int) -> str:
    """One phrase for a progress bar: the model and the work ahead."""
    return f"attribute {lm.name} ({packed_flops(lm, examples, steps) / 1e12:.2g} TFLOP)"
