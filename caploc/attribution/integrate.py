"""Integrate eq. (7)'s gradient over alpha for one example, on top of packed passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.clean import CleanPass
from caploc.attribution.packed import Gradients, PackedModel
from caploc.attribution.packing import layers_in_chunks


@dataclass
class Integral:
    """The integral for one example; L layers, Y answer positions.

    ``gradients [L, Y, width]``: integral over alpha of dP/d(output of the MLP projection).
    ``start``, ``end`` ``[L, Y]``: P at alpha = 0 and at alpha = 1. ``points [L, Y]``: gradient evaluations spent.
    """

    gradients: Tensor
    start: Tensor
    end: Tensor
    points: Tensor

    def completeness_error(self, clean: CleanPass, packed: PackedModel) -> Tensor:
        """``[L, Y]`` signed: (sum over neurons of their attributions) - (P(1) - P(0)); zero for an exact integral.

        The sum over neurons of a * gradient equals the directional derivative at the projection's output.
        """
        step = torch.stack(
            [output - packed.bias(layer, clean) for layer, output in enumerate(clean.mlp_outputs)]
        )  # [L, Y, width]
        attributed = (step.double() * self.gradients.double()).sum(-1)
        return attributed - (self.end - self.start).double()


Runner = Callable[[Tensor, dict[int, Tensor]], dict[int, Gradients]]


def integrate_fixed(
    packed: PackedModel,
    clean: CleanPass,
    unscaled: dict[int, Gradients],
    nodes: np.ndarray,
    weights: np.ndarray,
    chunk_tokens: int,
) -> Integral:
    """The same nodes for every layer and position. alpha = 1, where it is a node, costs one row for all layers."""
    layers, columns = len(clean.keys), torch.arange(len(clean.positions), device=clean.positions.device)
    width = clean.mlp_outputs[0].shape[-1]
    wide = torch.float64 if clean.mlp_outputs[0].dtype == torch.float64 else torch.float32
    gradients = torch.zeros(layers, len(columns), width, dtype=wide, device=columns.device)
    start = torch.zeros(layers, len(columns), dtype=wide, device=columns.device)
    for node, weight in zip(nodes, weights, strict=True):
        if node == 1.0:
            gradients += weight * torch.stack([unscaled[layer].gradients[0] for layer in range(layers)]).to(
                wide
            )
    inner = [(node, weight) for node, weight in zip(nodes, weights, strict=True) if node != 1.0]
    if not any(node == 0.0 for node, _ in inner):
        inner.insert(
            0, (0.0, 0.0)
        )  # P(0) is needed for the completeness error even where the rule has no such node
    done = [0] * layers
    for chunk in layers_in_chunks(
        [(layer, len(inner)) for layer in range(layers)], len(columns), chunk_tokens
    ):
        rows = {layer: inner[done[layer] : done[layer] + count] for layer, count in chunk}
        alphas = {layer: _column(part, 0, clean).expand(-1, len(columns)) for layer, part in rows.items()}
        for layer, result in packed.run(clean, columns, alphas).items():
            weight = _column(rows[layer], 1, clean).to(wide)[..., None]
            gradients[layer] += (weight * result.gradients.to(wide)).sum(0)
            if rows[layer][0][0] == 0.0:
                start[layer] = result.probabilities[0]
            done[layer] += len(rows[layer])
    end = torch.stack([unscaled[layer].probabilities[0] for layer in range(layers)])
    points = torch.full((layers, len(columns)), len(nodes), device=columns.device)
    return Integral(gradients, start, end, points)


def _column(rows: list[tuple[float, float]], index: int, clean: CleanPass) -> Tensor:
    numbers = [float(row[index]) for row in rows]
    return torch.tensor(numbers, dtype=torch.float64, device=clean.positions.device)[:, None]
