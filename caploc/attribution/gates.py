"""What activations are made of: the value before the nonlinearity and, in gated MLPs, what that multiplies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from caploc.architectures import Architecture
from caploc.errors import ModelError

# Relative to the largest activation: the model's own product was made of the very same numbers.
_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.005}


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
        return states.reshape(-1, states.shape[-1]).index_select(0, positions)

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
        allowed = _TOLERANCE[clean.dtype] * clean.abs().max().clamp_min(1)
        if made.shape != clean.shape or not (made - clean).abs().max() <= allowed:
            raise ModelError(_refusal(architecture, index))
        gates.append(gate)


def _refusal(architecture: Architecture, layer: int) -> str:
    return (
        f"value 'pre' cannot be had for this {architecture.family} model: the neurons of layer {layer} are not its "
        "nonlinearity's output (times the up projection, if gated); use value 'post'"
    )
