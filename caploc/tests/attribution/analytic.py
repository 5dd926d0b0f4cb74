"""A model whose P(alpha) is known: what the integrating functions see of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.packed import Gradients
from caploc.rows.clean import CleanPass

Curve = Callable[[np.ndarray], np.ndarray]
WIDTH = 3


class Analytic:
    """Stands in for a ``PackedModel``: ``curves[layer][position]`` are (P, dP/dalpha) as functions of alpha.

    The output of the MLP's projection is 2 in its first place and 0 elsewhere, so the gradient there is half the slope.
    ``calls`` counts packed passes, ``evaluated`` the tokens in them, ``widest`` the tokens of the largest.
    """

    def __init__(self, curves: Sequence[Sequence[tuple[Curve, Curve]]]) -> None:
        self.curves = curves
        self.calls = self.evaluated = self.widest = 0
        layers, positions = len(curves), len(curves[0])
        outputs = torch.zeros(positions, WIDTH, dtype=torch.float64)
        outputs[:, 0] = 2
        self.clean = CleanPass(
            positions=torch.arange(positions),
            targets=torch.zeros(positions, dtype=torch.long),
            log_probs=torch.zeros(positions),
            keys=[torch.zeros(1)] * layers,
            values=[torch.zeros(1)] * layers,
            visible=[],
            layer_inputs=[],
            activations=[],
            mlp_outputs=[outputs] * layers,
        )
        ones = np.ones((1, positions))
        self.unscaled = {layer: self._gradients(layer, np.arange(positions), ones) for layer in range(layers)}

    def step(self, layer: int, clean: CleanPass) -> Tensor:
        return clean.mlp_outputs[layer]

    def run(self, clean: CleanPass, columns: Tensor, alphas: Mapping[int, Tensor]) -> dict[int, Gradients]:
        tokens = sum(scales.numel() for scales in alphas.values())
        self.calls, self.evaluated, self.widest = (
            self.calls + 1,
            self.evaluated + tokens,
            max(self.widest, tokens),
        )
        return {
            layer: self._gradients(layer, columns.numpy(), scales.double().numpy())
            for layer, scales in alphas.items()
        }

    def _gradients(self, layer: int, columns: np.ndarray, alphas: np.ndarray) -> Gradients:
        """``alphas [rows, columns]``."""
        at = [self.curves[layer][position] for position in columns]
        values = np.stack([curve(alphas[:, i]) for i, (curve, _) in enumerate(at)], axis=1)
        slopes = np.stack([slope(alphas[:, i]) for i, (_, slope) in enumerate(at)], axis=1)
        gradients = torch.zeros(*alphas.shape, WIDTH, dtype=torch.float64)
        gradients[..., 0] = torch.from_numpy(slopes / 2)
        return Gradients(torch.from_numpy(values), gradients)

    def true_change(self) -> np.ndarray:
        """``[layers, positions]`` P(1) - P(0)."""
        ends = np.array([0.0, 1.0])
        return np.array([[np.diff(curve(ends))[0] for curve, _ in layer] for layer in self.curves])

    def attributed(self, gradients: Any) -> np.ndarray:
        """``[layers, positions]`` sum of the attributions that integrated ``gradients`` give."""
        return (gradients[..., 0] * 2).numpy()


def polynomial(*coefficients: float) -> tuple[Curve, Curve]:
    """P with these coefficients, the constant first."""
    curve = np.polynomial.Polynomial(coefficients)
    return curve, curve.deriv()


def step(place: float, sharpness: float, height: float = 1.0) -> tuple[Curve, Curve]:
    """P almost a step, as at layer 0 of small trained models."""
    return (
        lambda x: height * (1 + np.tanh(sharpness * (x - place))) / 2,
        lambda x: height * sharpness / 2 / np.cosh(np.clip(sharpness * (x - place), -300, 300)) ** 2,
    )
