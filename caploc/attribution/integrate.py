"""Integrate eq. (7)'s gradient over alpha for one example, on top of packed passes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.clean import CleanPass
from caploc.attribution.packed import Gradients, PackedModel
from caploc.attribution.packing import MOST_COLUMNS, layers_in_chunks


@dataclass
class Integral:
    """The integral for one example; L layers, Y answer positions.

    ``gradients [L, Y, width]``: integral over alpha of dP/d(output of the MLP projection); neurons instead of width
    where a ``PreactivationModel`` made them.
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
            [packed.step(layer, clean) for layer in range(len(self.gradients))]
        )  # [L, Y, width]
        attributed = (step.double() * self.gradients.double()).sum(-1)
        return attributed - (self.end - self.start).double()


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
    ends = torch.stack([unscaled[layer].gradients[0] for layer in range(layers)])  # [L, Y, width]
    wide = torch.float64 if ends.dtype == torch.float64 else torch.float32
    rule = list(zip(nodes.tolist(), weights.tolist(), strict=True))
    gradients = sum(weight for node, weight in rule if node == 1.0) * ends.to(wide)
    start = gradients.new_zeros(gradients.shape[:2])
    inner = [(node, weight) for node, weight in rule if node != 1.0]
    if all(node != 0.0 for node, _ in inner):
        inner.insert(0, (0.0, 0.0))  # no node of the rule, but P(0) is needed for the completeness error
    for block in columns.split(MOST_COLUMNS):
        done = [0] * layers
        for chunk in layers_in_chunks(
            [(layer, len(inner)) for layer in range(layers)], len(block), chunk_tokens
        ):
            rows = {layer: inner[done[layer] : done[layer] + count] for layer, count in chunk}
            alphas = {layer: _column(part, 0, block).expand(-1, len(block)) for layer, part in rows.items()}
            for layer, result in packed.run(clean, block, alphas).items():
                weight = _column(rows[layer], 1, block).to(wide)[..., None]
                gradients[layer, block] += (weight * result.gradients.to(wide)).sum(0)
                if rows[layer][0][0] == 0.0:
                    start[layer, block] = result.probabilities[0].to(wide)
                done[layer] += len(rows[layer])
    end = torch.stack([unscaled[layer].probabilities[0] for layer in range(layers)])
    points = torch.full((layers, len(columns)), len(nodes), device=columns.device)
    return Integral(gradients, start, end, points)


def _column(rows: list[tuple[float, float]], index: int, like: Tensor) -> Tensor:
    numbers = [row[index] for row in rows]
    return torch.tensor(numbers, dtype=torch.float64, device=like.device)[:, None]
