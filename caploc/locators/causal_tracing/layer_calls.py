"""How decoder layers of different families are called, and what they return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from caploc.attribution.clean import bind
from caploc.locators.causal_tracing.settings import Kind
from caploc.model.loading import LanguageModel


def keywords(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a decoder layer's call, all by name."""
    named = {name: value for name, value in bind(layer, args, kwargs).arguments.items() if name != "self"}
    extra = named.pop("kwargs", {})
    return {**named, **extra}


def states_of(output: Any) -> Tensor:
    """The states in what a decoder layer returns: itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def last_logits(lm: LanguageModel, read: int) -> Iterator[None]:
    """Let the model's output head see the last ``read`` tokens only."""
    head = lm.model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: (args[0][:, -read:].contiguous(), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def last_projection(lm: LanguageModel, layer: int, kind: Kind) -> nn.Module:
    """The module whose output is that of the layer's MLP or attention: dropout alone, which rests, stands behind it."""
    path = lm.architecture.mlp_out if kind == "mlp" else lm.architecture.attention_out
    return lm.layers[layer].get_submodule(path)


def mlp_of(lm: LanguageModel, layer: int) -> nn.Module | None:
    """The layer's MLP, or None where it is no module of its own (OPT)."""
    path = lm.architecture.mlp_out.rpartition(".")[0]
    return lm.layers[layer].get_submodule(path) if path else None
