"""The clean pass, one ordinary run over prompt and answer that keeps what rows start from; what is read off logits, in
float32 at least, with the self-check: rows without a change are the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from caploc.architectures import Architecture
from caploc.errors import ModelError, against_nan
from caploc.rows.borrowing import keywords
from caploc.rows.caches import shared

_LOG_PROB_TOLERANCE = {torch.float64: 1e-5, torch.float32: 2e-3, torch.bfloat16: 0.25, torch.float16: 0.1}
HALF = (torch.bfloat16, torch.float16)
OUTLIERS = 0.01
"""The share of tokens that may differ by more than the tolerance in half precision."""
_FEWEST_FOR_A_MEAN = 8
# Below it a float32 probability loses its digits, then is zero: such a token is only seen to be as improbable in both.
_LEAST_LOG_PROB = -80.0


def target_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """log P(target) ``[..., Y]`` from logits ``[..., Y, vocabulary]``, in float32 at least."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    chosen = wide.gather(-1, targets.expand(wide.shape[:-1])[..., None])[..., 0]
    return chosen - wide.logsumexp(-1)


class TargetProbability(torch.autograd.Function):
    """P(target) ``[R, C]`` from logits ``[R, C, vocabulary]``, with a gradient that spares memory.

    Equal to ``logits.softmax(-1).gather(-1, target)``, whose autograd makes three more tensors as large as the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        probabilities = target_log_probs(logits, targets).exp()
        ctx.save_for_backward(logits, targets, probabilities)
        return probabilities

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, targets, probabilities = ctx.saved_tensors
        scale = (grad * probabilities)[..., None]  # dP/dlogits = P (onehot - softmax)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        slope = wide.softmax(-1).mul_(-scale)
        slope.scatter_add_(-1, targets.expand(logits.shape[:-1])[..., None], scale)
        return slope.to(logits.dtype), None


def check_reproduced(found: Tensor, expected: Tensor, dtype: torch.dtype, name: str, what: str) -> None:
    """Raise unless the log-probabilities ``found [..., Y]`` are those ``expected [..., Y]`` of a plain run.

    In float32 and float64 no token may differ by more than the tolerance. In half precision, where a rare token among
    hundreds of thousands always does, one token in a hundred may (one of fewer), by up to twice as much, and where
    there are enough tokens for a mean it must be below half the tolerance: a family that does not obey its cache, mask
    or positions is wrong at most tokens, and by more.

    Every method checks rows that change nothing, on every call: a model whose attention ignores the cache, the mask or
    the positions that it is given (GPT-Neo: off by 0.69) must not go silently wrong.

    Args:
        dtype: the model's.
        name: of the example.
        what: was run.

    Raises:
        ModelError: naming the example and the largest difference, or saying that the model's own numbers are nan.
    """
    if expected.isnan().any():
        raise ModelError(
            f"example {name!r}: the model gives probabilities that are not numbers (nan); {against_nan(dtype)}"
        )
    off = (found.clamp_min(_LEAST_LOG_PROB) - expected.clamp_min(_LEAST_LOG_PROB)).abs().double()
    most, tokens, tolerance = off.max().item(), off.numel(), _LOG_PROB_TOLERANCE[dtype]
    if dtype in HALF:
        mean, above = off.mean().item(), int((off > tolerance).sum())
        rare = above <= max(1, OUTLIERS * tokens) and (tokens < _FEWEST_FOR_A_MEAN or mean <= tolerance / 2)
        reproduced = most <= 2 * tolerance and rare
        detail = f", by {mean:.2g} in the mean, {above} of {tokens} by more than is allowed of most"
    else:
        reproduced, detail = most <= tolerance, ""
    if not reproduced:
        raise ModelError(
            f"a pass of rows does not reproduce this model: at example {name!r} a log-probability of {what} differs by "
            f"{most:.2g} (allowed {tolerance:g}){detail}; its family, attention implementation or configuration "
            "(is_causal, use_bidirectional_attention, rope) is unsupported"
        )


def how_checked(dtype: torch.dtype) -> str:
    """How ``check_reproduced`` judges a model in half precision, in a sentence."""
    tolerance = _LOG_PROB_TOLERANCE[dtype]
    return (
        f"in {str(dtype).removeprefix('torch.')} rows are held to reproduce the model where its log-probabilities "
        f"differ by at most {tolerance / 2:g} nats in the mean over an example's tokens, at {OUTLIERS:.0%} of them (or "
        f"one) by more than {tolerance:g}, and nowhere by more than {2 * tolerance:g}"
    )


# Relative to the largest activation: the model's own product was made of the very same numbers.
_GATE_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.005}


@dataclass(frozen=True)
class Gate:
    """One layer's neurons at Y positions: activation = nonlinearity(``before``) * ``up``.

    ``before [Y, neurons]`` is w of eq. (10) and (11) in a plain MLP, the gate projection's output in a gated one;
    ``up [Y, neurons]`` the up projection's, None in a plain MLP.
    """

    before: Tensor
    up: Tensor | None
    nonlinearity: nn.Module

    def activation(self, before: Tensor, columns: Tensor) -> Tensor:
        """``[..., C, neurons]`` the activations that other values ``before [..., C, neurons]`` would give."""
        activation: Tensor = self.nonlinearity(before)
        return activation if self.up is None else activation * self.up[columns]


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


@contextmanager
def _recording(
    layers: list[nn.Module], architecture: Architecture, positions: Tensor, record: CleanPass, total: int
) -> Iterator[None]:
    handles = []

    def before_layer(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = keywords(layer, args, kwargs)
        record.layer_inputs.append(named["hidden_states"].index_select(1, positions))
        record.visible.append(visible_tokens(named.get("attention_mask"), positions, total))

    def after_layer(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        record.tuples = isinstance(output, tuple)

    def after_mlp_out(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # OPT calls its MLP with [tokens, width]; with a batch of one both shapes hold the same rows.
        record.activations.append(_answering(args[0].reshape(total, -1), positions))
        record.mlp_outputs.append(_answering(output.reshape(total, -1), positions))

    try:
        for layer in layers:
            handles.append(layer.register_forward_pre_hook(before_layer, with_kwargs=True))
            handles.append(layer.register_forward_hook(after_layer))
            handles.append(architecture.mlp_out_of(layer).register_forward_hook(after_mlp_out))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _answering(states: Tensor, positions: Tensor) -> Tensor:
    """``[Y, ...]`` of ``states [T, ...]``, on the device of ``positions``, wherever the states' layer lies."""
    return states.index_select(0, positions.to(states.device)).to(positions.device)


def visible_tokens(mask: Tensor | None, positions: Tensor, total: int) -> Tensor:
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
    record.visible = shared(record.visible)
    record.log_probs = target_log_probs(logits, record.targets)
    kept: list[Any] = list(cache.layers)
    record.keys, record.values = [layer.keys for layer in kept], [layer.values for layer in kept]
    return record


@contextmanager
def recording_gates(
    layers: Sequence[nn.Module], architecture: Architecture, positions: Tensor, activations: Sequence[Tensor]
) -> Iterator[list[Gate]]:
    """Collect every layer's ``Gate`` during a run over one sequence, by hooks.

    Args:
        positions: ``[Y]`` where in the sequence.
        activations: filled by the same run, per layer ``[Y, neurons]``: what the gates must reproduce.

    Raises:
        ModelError: on leaving, if the MLPs do not work as the table of architectures says.
    """
    gates: list[Gate] = []
    before: dict[int, Tensor] = {}
    ups: dict[int, Tensor] = {}

    def answering(states: Tensor) -> Tensor:
        return _answering(states.reshape(-1, states.shape[-1]), positions)

    with ExitStack() as stack:
        for index, layer in enumerate(layers):

            def entering(module: nn.Module, args: tuple[Any, ...], index: int = index) -> None:
                before[index] = answering(args[0])

            def after_up(
                module: nn.Module, args: tuple[Any, ...], output: Tensor, index: int = index
            ) -> None:
                ups[index] = answering(output)

            nonlinearity = architecture.activation_of(layer)
            stack.callback(nonlinearity.register_forward_pre_hook(entering).remove)
            if architecture.gated:
                up = layer.get_submodule(architecture.mlp_in[-1])
                stack.callback(up.register_forward_hook(after_up).remove)
        yield gates
    for index, layer in enumerate(layers):
        if index not in before:
            raise ModelError(_refusal(architecture, index))
        neurons = before[index].shape[-1]
        # Phi-3's one input projection gives gate and up side by side
        gate = Gate(
            before[index],
            ups[index][:, -neurons:] if architecture.gated else None,
            architecture.activation_of(layer),
        )
        clean = activations[index]
        made = gate.activation(gate.before, torch.arange(len(positions), device=positions.device))
        allowed = _GATE_TOLERANCE[clean.dtype] * clean.abs().max().clamp_min(1)
        if made.shape != clean.shape or not (made - clean).abs().max() <= allowed:
            raise ModelError(_refusal(architecture, index))
        gates.append(gate)


def _refusal(architecture: Architecture, layer: int) -> str:
    return (
        f"value 'pre' cannot be had for this {architecture.family} model: the neurons of layer {layer} are not its "
        "nonlinearity's output (times the up projection, if gated); use value 'post'"
    )
