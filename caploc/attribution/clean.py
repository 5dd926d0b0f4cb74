"""The clean pass: one ordinary run over prompt and answer that keeps what every packed pass starts from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from caploc.architectures import Architecture
from caploc.attribution.gates import Gate, recording_gates
from caploc.attribution.probability import target_log_probs
from caploc.errors import ModelError


@dataclass
class CleanPass:
    """What one clean run leaves behind. Y answer positions, T tokens fed (all but the last answer token).

    Attributes:
        positions: ``[Y]`` index of the last token of z_m = x + y[:m-1], for m = 1..Y (eq. 7).
        targets: ``[Y]`` the answer tokens y_m.
        log_probs: ``[Y]`` log P(y_m | z_m).
        keys, values: per layer ``[1, key heads, T, head size]``.
        visible: per layer ``[Y, T]`` bool, which clean tokens *before* its own the query at a position attends to;
            one tensor for all layers that see the same.
        layer_inputs: per layer ``[1, Y, width]``, the layer's input at the answer positions.
        activations: per layer ``[Y, neurons]``, the input of the MLP's output projection there.
        mlp_outputs: per layer ``[Y, width]``, the output of that projection.
        tuples: whether a decoder layer of this family returns a tuple that begins with its states.
        gates: per layer what the activations are made of, at the answer positions; empty unless asked for.
    """

    positions: Tensor
    targets: Tensor
    log_probs: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    visible: list[Tensor]
    layer_inputs: list[Tensor]
    activations: list[Tensor]
    mlp_outputs: list[Tensor]
    tuples: bool = False
    gates: list[Gate] = field(default_factory=list)


def bind(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments of a decoder layer's call by name; families differ in which they pass by position."""
    return _signature(type(layer).forward).bind(layer, *args, **kwargs)


@lru_cache(maxsize=64)
def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(forward)


@contextmanager
def _recording(
    layers: list[nn.Module], architecture: Architecture, positions: Tensor, record: CleanPass, total: int
) -> Iterator[None]:
    handles = []

    def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = bind(layer, args, kwargs).arguments
        record.layer_inputs.append(named["hidden_states"].index_select(1, positions))
        visible = _visible(named.get("attention_mask"), positions, total)
        # layers that see the same share one tensor, so that passes tell their masks apart by identity
        record.visible.append(next((seen for seen in record.visible if torch.equal(seen, visible)), visible))

    def after_layer(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        record.tuples = isinstance(output, tuple)

    def after_mlp_out(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # OPT calls its MLP with [tokens, width]; with a batch of one both shapes hold the same rows.
        record.activations.append(args[0].reshape(total, -1).index_select(0, positions))
        record.mlp_outputs.append(output.reshape(total, -1).index_select(0, positions))

    try:
        for layer in layers:
            handles.append(layer.register_forward_pre_hook(before_layer, with_kwargs=True))
            handles.append(layer.register_forward_hook(after_layer))
            handles.append(architecture.mlp_out_of(layer).register_forward_hook(after_mlp_out))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _visible(mask: Tensor | None, positions: Tensor, total: int) -> Tensor:
    """Which clean tokens before its own position each query sees, read off the mask the family itself made."""
    before = torch.arange(total, device=positions.device) < positions[:, None]  # [Y, T]
    if mask is None:  # sdpa was told "causal" instead of being given a mask
        return before
    if mask.dim() != 4:
        raise ModelError(
            f"expected a 4-D attention mask, got {mask.dim()} dimensions; load the model with sdpa or eager attention"
        )
    rows = mask[0, 0, positions, :total]
    return before & (rows if rows.dtype == torch.bool else rows > -1.0)


def run_clean(
    model: PreTrainedModel,
    architecture: Architecture,
    input_ids: Tensor,
    answer_start: int,
    gates: bool = False,
) -> CleanPass:
    """Run prompt and answer once and record it.

    Args:
        input_ids: ``[prompt + answer]`` on the model's device.
        answer_start: index of the first answer token, at least 1.
        gates: record ``CleanPass.gates`` too; raises ModelError where the family does not show them.
    """
    positions = torch.arange(answer_start - 1, len(input_ids) - 1, device=input_ids.device)
    fed = input_ids[None, :-1]
    layers = architecture.decoder_layers(model)
    record = CleanPass(positions, input_ids[positions + 1], positions, [], [], [], [], [], [])
    cache = DynamicCache()  # without a config: one made from it drops keys outside a sliding window
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_recording(layers, architecture, positions, record, fed.shape[1]))
        if gates:
            seen = recording_gates(layers, architecture, positions, record.activations)
            record.gates = stack.enter_context(seen)
        logits = model(input_ids=fed, past_key_values=cache, use_cache=True).logits[0, positions]
    record.log_probs = target_log_probs(logits, record.targets)
    kept: list[Any] = list(cache.layers)
    record.keys, record.values = [layer.keys for layer in kept], [layer.values for layer in kept]
    return record
