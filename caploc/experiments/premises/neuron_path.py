"""Eq. (2) for single neurons, step by step: one neuron scaled from 0 to its value, the others of its layer left alone.

``caploc.attribution.integrate.one_neuron_scores`` needs no steps, since what they add up to is known: P(clean) -
P(neuron at zero). Here the steps are taken, to see how well they add up to it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from caploc.attribution.packed import PackedModel, PackedPass
from caploc.rows.clean import CleanPass

ROWS_AT_ONCE = 2048


class NeuronPathModel(PackedModel):
    """A model prepared for paths of single neurons; use inside ``with``, which restores it."""

    def path(
        self, layer: int, clean: CleanPass, neurons: Tensor, alphas: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """P(answer) and its slope along alpha, both ``[neurons, alphas]``, float64.

        Of an answer of several tokens, teacher forced, the mean over them, each with the neuron scaled at the position
        that predicts it (eq. 7).

        Args:
            neurons: ``[neurons]`` numbers of neurons of ``layer``.
            alphas: ``[alphas]`` by which their activations are multiplied.
        """
        columns = torch.arange(len(clean.positions), device=clean.positions.device)
        output = clean.mlp_outputs[layer]
        which = neurons.to(output.device).repeat_interleave(len(alphas))
        scales = torch.from_numpy(np.tile(alphas, len(neurons))).to(output)
        probabilities, slopes = [], []
        rows = max(1, ROWS_AT_ONCE // len(columns))
        for chosen, scale in zip(which.split(rows), scales.split(rows), strict=True):
            alpha = scale.clone().requires_grad_()
            weights = self.output_weights(layer, slice(None))[chosen]  # [rows, width]
            fall = self.fall(layer, clean)[:, chosen].T  # [rows, columns]
            with torch.enable_grad():
                change = ((1 - alpha)[:, None] * fall)[..., None] * weights[:, None]
                found = self.forward(PackedPass(clean, columns, {layer: output + change})).mean(1)
                (slope,) = torch.autograd.grad(found.sum(), alpha)
            probabilities.append(found.detach().double())
            slopes.append(slope.double())
        shape = (len(neurons), len(alphas))
        return tuple(torch.cat(parts).reshape(shape).numpy(force=True) for parts in (probabilities, slopes))  # type: ignore[return-value]
