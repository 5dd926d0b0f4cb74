"""The work of each method by count, and operations counted as they are executed.

The unit is a token that passes a layer, forward or backward. ``caploc/tests/benchmarks/test_attribution.py`` checks the
counts against the matrix products that torch executes: they are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from caploc.attribution.integrate import layers_in_chunks
from caploc.models import LanguageModel
from caploc.rows.sizing import automatic_chunk

# what sdpa runs on a CPU; torch's own table of operation counts lacks it
_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"
_ATTENTION_BACKWARD = f"{_ATTENTION}_backward"

STEPS = 19
POINTS = STEPS + 1


@dataclass(frozen=True)
class Work:
    """Counts of tokens.

    Attributes:
        forward, backward: tokens x layers passed.
        head: tokens through the output head, both ways.
        projection: tokens taken back through an MLP output projection alone, to the neurons in front of it.
    """

    forward: int = 0
    backward: int = 0
    head: int = 0
    projection: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Work)))

    @property
    def layers(self) -> int:
        """Tokens x layers passed, both ways."""
        return self.forward + self.backward

    def operations(self, lm: LanguageModel) -> int:
        """Floating-point operations of the matrix products with weights (attention's own are not among them)."""
        layer, head = lm.layers[0], lm.model.get_output_embeddings()
        projection = lm.architecture.mlp_out_of(layer)
        tokens = {layer: self.layers, head: self.head, projection: self.projection}
        return sum(2 * count * _weights(module) for module, count in tokens.items())


def _weights(module: nn.Module) -> int:
    """Entries of its matrices: norms and biases take part in no product."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.dim() == 2)


def pair_work(layers: int, prompt: int, position: int, layer: int) -> Work:
    """The naive method and captum, for one answer position and layer: whole sequences, as often as there are points."""
    tokens = prompt + position
    batch = POINTS * tokens
    return Work(
        forward=(batch + tokens) * layers,  # tokens: the clean run
        backward=batch * (layers - 1 - layer),
        head=2 * batch + tokens,
        projection=batch,
    )


def all_pairs_work(layers: int, prompt: int, answer: int) -> Work:
    """The naive method and captum, whole."""
    pairs = (pair_work(layers, prompt, m, layer) for m in range(answer) for layer in range(layers))
    return sum(pairs, Work())


def packed_work(lm: LanguageModel, prompt: int, answer: int) -> Work:
    """The packed engine, with the paper's rule and its default chunks."""
    layers, clean = lm.num_layers, prompt + answer - 1
    work = Work(forward=clean * layers, head=clean)
    work += Work(
        forward=answer * layers, backward=answer * (layers - 1), head=2 * answer
    )  # alpha = 1, all layers
    for chunk in layers_in_chunks(
        [(layer, POINTS - 1) for layer in range(layers)], answer, automatic_chunk(lm)
    ):
        for layer, rows in chunk:
            tokens, above = rows * answer, layers - 1 - layer
            work += Work(forward=tokens * above + answer, backward=tokens * above, head=2 * tokens)
    return work + Work(projection=answer * layers)


@dataclass
class Operations:
    """Floating-point operations that were executed: products with weights, and attention's own."""

    matrix: int = 0
    attention: int = 0


@contextmanager
def executed() -> Iterator[Operations]:
    """Count the operations torch executes inside; slow, so never while timing.

    Not torch's ``FlopCounterMode``: it refuses ``autograd.grad`` and does not know attention on the CPU.
    """
    counts = Operations()
    with _Counter(counts):
        yield counts


class _Counter(TorchDispatchMode):
    def __init__(self, counts: Operations) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if str(packet) == _ATTENTION:
            self._counts.attention += _attention(args[0], args[1], products=2)
        elif str(packet) == _ATTENTION_BACKWARD:
            self._counts.attention += _attention(
                args[1], args[2], products=5
            )  # the scores are computed again
        elif packet in flop_registry:
            self._counts.matrix += int(flop_registry[packet](*args, **(kwargs or {}), out_val=out))
        return out


def _attention(query: torch.Tensor, key: torch.Tensor, products: int) -> int:
    batch, heads, queries, size = query.shape
    return 2 * products * batch * heads * queries * key.shape[-2] * size
