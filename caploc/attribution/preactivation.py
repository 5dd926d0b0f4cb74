"""Eq. (7) with a neuron's value taken before the nonlinearity, as eq. (11) does.

The path scales w, what enters the nonlinearity f, from zero to its clean value. The packed tokens then enter with the
MLP's output at f(alpha w) * up, and gradients are carried back through the projection and f: w dP/dw. In a gated MLP w
is the gate's pre-activation and up keeps its clean value. Equals the oracle, plain autograd with a hook on f
(``caploc/tests/attribution/test_preactivation.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from caploc.attribution.clean import CleanPass
from caploc.attribution.packed import Gradients, PackedModel


class PreactivationModel(PackedModel):
    """A ``PackedModel`` whose gradients ``[R, C, neurons]`` are those with respect to the pre-activations.

    Needs a clean pass with ``gates``.
    """

    def step(self, layer: int, clean: CleanPass) -> Tensor:
        return clean.gates[layer].before

    def scores(self, layer: int, clean: CleanPass, integral: Tensor) -> Tensor:
        return clean.gates[layer].before.to(integral.dtype) * integral

    def fall(self, layer: int, clean: CleanPass) -> Tensor:
        gate, everywhere = (
            clean.gates[layer],
            torch.arange(len(clean.positions), device=clean.positions.device),
        )
        return gate.activation(torch.zeros_like(gate.before), everywhere) - clean.activations[layer]

    def run(self, clean: CleanPass, columns: Tensor, alphas: Mapping[int, Tensor]) -> dict[int, Gradients]:
        results = super().run(clean, columns, alphas)
        return {
            layer: self._before(layer, clean, columns, alphas[layer], result)
            for layer, result in results.items()
        }

    def run_unscaled(self, clean: CleanPass) -> dict[int, Gradients]:
        everywhere = torch.arange(len(clean.positions), device=clean.positions.device)
        one = torch.ones(1, len(everywhere), device=everywhere.device)
        return {
            layer: self._before(layer, clean, everywhere, one, result)
            for layer, result in super().run_unscaled(clean).items()
        }

    def _scaled(self, layer: int, clean: CleanPass, columns: Tensor, alphas: Tensor) -> Tensor:
        gate = clean.gates[layer]
        with torch.no_grad():
            before = gate.before[columns]
            activation = gate.activation(alphas.to(before)[..., None] * before, columns)  # [R, C, neurons]
            entering: Tensor = self.projection(layer)(activation)
        return entering

    @torch.enable_grad()
    def _before(
        self, layer: int, clean: CleanPass, columns: Tensor, alphas: Tensor, result: Gradients
    ) -> Gradients:
        """Carry gradients at the projection's output back to the nonlinearity's input."""
        gate = clean.gates[layer]
        before = gate.before[columns]
        scaled = (alphas.to(before)[..., None] * before).requires_grad_()  # [R, C, neurons]
        behind = self.to_neurons(layer, result.gradients)
        (gradients,) = torch.autograd.grad(gate.activation(scaled, columns), scaled, behind)
        return Gradients(result.probabilities, gradients)
