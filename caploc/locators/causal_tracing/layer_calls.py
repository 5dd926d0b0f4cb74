"""How decoder layers of different families are called, and what they return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from caploc.locators.causal_tracing.settings import Kind
from caploc.models import LanguageModel
from caploc.rows.borrowing import keywords as keywords
from caploc.rows.borrowing import states_of as states_of


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
