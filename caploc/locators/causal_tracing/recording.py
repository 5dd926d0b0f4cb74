"""The clean and the corrupted runs: ordinary runs of the whole sequence, of which everything is kept that restored
runs start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from caploc.locators.causal_tracing.layer_calls import (
    keywords,
    last_logits,
    last_projection,
    mlp_of,
    states_of,
)
from caploc.locators.causal_tracing.settings import Kind
from caploc.models import LanguageModel
from caploc.rows.reading import target_log_probs


@dataclass
class Recording:
    """B rows of T tokens; row 0 is clean, the others are corrupted.

    Attributes:
        targets: ``[Y]`` the answer's tokens, predicted at the last Y tokens.
        outputs: per layer ``[B, T, width]``, its output.
        restored: per layer ``[B, T, width]``, its output with the layer's own state of ``kind`` clean at that token.
            A layer's attention reads the layer's input, so that no token's output depends on another's restoration:
            one more run of the layer gives all of them.
        parts: per layer ``[T, width]``, the clean output of its MLP or attention; empty for the kind "hidden".
        keys, values: per layer ``[B, key heads, T, head size]``.
        log_probs: ``[B, Y]`` of the targets.
        is_top: ``[B]`` whether each answer token is the most probable one.
    """

    targets: Tensor
    outputs: list[Tensor] = field(default_factory=list)
    restored: list[Tensor] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    log_probs: Tensor = field(default_factory=lambda: torch.empty(0))
    is_top: Tensor = field(default_factory=lambda: torch.empty(0))


@torch.no_grad()
def record(lm: LanguageModel, embeddings: Tensor, targets: Tensor, kind: Kind) -> Recording:
    """Run ``embeddings [B, T, width]``, whose last Y tokens predict the answer's ``targets [Y]``."""
    recording = Recording(targets)
    cache = DynamicCache()  # without a config: one made from it drops keys outside a sliding window
    with _recording(lm, kind, recording, embeddings.shape[:2]), last_logits(lm, len(targets)):
        logits = lm.model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True).logits
    recording.log_probs = target_log_probs(logits, targets)
    recording.is_top = (logits.argmax(-1) == targets).all(-1)
    kept: list[Any] = list(cache.layers)
    recording.keys, recording.values = [layer.keys for layer in kept], [layer.values for layer in kept]
    return recording


@contextmanager
def _recording(lm: LanguageModel, kind: Kind, recording: Recording, shape: Sequence[int]) -> Iterator[None]:
    restoring = False

    def after_part(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not restoring:
            recording.parts.append(output.view(*shape, -1)[0])  # OPT runs its MLP on [B T, width]
            return None
        clean = recording.parts[-1].expand(*shape, -1)
        return clean.flatten(0, 1) if output.dim() == 2 else clean

    def before_mlp(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (args[0][:, :1], *args[1:]) if restoring else None  # its output is replaced: spare the work

    def after_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal restoring
        states = states_of(output)
        recording.outputs.append(states)
        if kind == "hidden":
            recording.restored.append(states[:1].expand_as(states))
        else:
            named = keywords(layer, args, kwargs)
            named.update({name: None for name, value in named.items() if isinstance(value, Cache)})
            restoring = True
            recording.restored.append(states_of(layer.forward(**named)))
            restoring = False

    with ExitStack() as stack:
        for index, layer in enumerate(lm.layers):
            if kind != "hidden":
                hook = last_projection(lm, index, kind).register_forward_hook(after_part)
                stack.callback(hook.remove)
            mlp = mlp_of(lm, index) if kind == "mlp" else None
            if mlp is not None:
                stack.callback(mlp.register_forward_pre_hook(before_mlp).remove)
            stack.callback(layer.register_forward_hook(after_layer, with_kwargs=True).remove)
        yield
