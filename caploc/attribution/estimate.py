"""How much work and memory an attribution takes, told before it starts, and how large its passes should be."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caploc.attribution.method import Method
from caploc.examples import TokenizedExample
from caploc.model.loading import LanguageModel

# Larger passes page-fault more than they save on a CPU; a GPU wants far larger ones to be busy.
_CPU_CHUNK, _LARGEST_GPU_CHUNK, _SMALLEST_GPU_CHUNK = 1280, 65536, 256
_GPU_SHARE = 0.5  # of the free memory; what the formula forgets has the other half


def packed_flops(lm: LanguageModel, examples: Sequence[TokenizedExample], method: Method) -> float:
    """Floating-point operations of the packed engine, by count: matrix products only, forward and backward.

    A token that enters behind layer l passes the layers above it, on average (L - 1) / 2, and the head; the gradient
    costs as much again, parameters being frozen. The path of one neuron needs no gradient, but a token for every
    neuron. The adaptive rule usually needs less than ``steps`` points. Values before the nonlinearity cost two
    products with the output projection more for a token.
    """
    embedding = _embedding(lm).numel()
    per_layer = (
        sum(parameter.numel() for layer in lm.architecture.decoder_layers(lm.structure) for parameter in layer.parameters()) / lm.num_layers
    )
    answers = sum(example.num_answer_tokens for example in examples)
    prompts = sum(len(example.input_ids) for example in examples)
    passed = per_layer * (lm.num_layers - 1) / 2 + embedding
    if method.path == "neuron":
        packed = answers * lm.num_layers * lm.num_neurons * 2 * passed
    else:
        projections = 2 * lm.num_neurons * _embedding(lm).shape[1] if method.value == "pre" else 0
        packed = answers * lm.num_layers * (method.steps + 1) * 2 * (2 * passed + projections)
    clean = prompts * 2 * (per_layer * lm.num_layers + embedding)
    return packed + clean


def _embedding(lm: LanguageModel) -> Tensor:
    weight: Tensor = lm.structure.get_input_embeddings().weight  # type: ignore[assignment]
    return weight


def bytes_per_token(lm: LanguageModel) -> int:
    """Memory that one token of a packed pass needs at its peak, roughly: what autograd keeps of every layer (about ten
    vectors of the model's width and four of its neurons) and three float32 rows of logits."""
    width, vocabulary = _embedding(lm).shape[::-1]
    kept = lm.num_layers * (10 * width + 4 * lm.num_neurons) * lm.dtype.itemsize
    return int(kept + 3 * vocabulary * 4)


def automatic_chunk(lm: LanguageModel) -> int:
    """Tokens in a packed pass: by the free memory on CUDA, what was fastest on a CPU."""
    if lm.device.type != "cuda":
        return _CPU_CHUNK
    free, _ = torch.cuda.mem_get_info(lm.device)
    fitting = int(_GPU_SHARE * free / bytes_per_token(lm))
    return max(_SMALLEST_GPU_CHUNK, min(_LARGEST_GPU_CHUNK, fitting))


def describe(
    lm: LanguageModel, examples: Sequence[TokenizedExample], method: Method, chunk_tokens: int
) -> str:
    """One phrase for a progress bar: the model, the work ahead and the memory of a pass."""
    work, memory = packed_flops(lm, examples, method), chunk_tokens * bytes_per_token(lm)
    return f"attribute {lm.name} ({work / 1e12:.2g} TFLOP, passes of {memory / 1e9:.1g} GB)"
