"""Eq. (7) along the path of ONE neuron: every other neuron of its layer keeps its clean value.

The integral from zero to the neuron's value of dP/da_j is P(clean) - P(neuron j at zero), whatever lies between, so no
sum approximates it: each neuron costs one forward row, and no gradient. The same holds for a value before the
nonlinearity. Equals the oracle's gradients, integrated (``caploc/tests/attribution/test_one_neuron.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from caploc.attribution.clean import CleanPass
from caploc.attribution.packed import Gradients, PackedModel
from caploc.attribution.packing import MOST_COLUMNS, layers_in_chunks


def one_neuron_scores(
    packed: PackedModel, clean: CleanPass, unscaled: dict[int, Gradients], chunk_tokens: int
) -> Tensor:
    """``[L, Y, neurons]`` P(clean) - P(neuron at zero), in float32 at least.

    Args:
        unscaled: the packed clean run, whose probabilities are the ones compared with.
        chunk_tokens: tokens in a packed pass.
    """
    falls = [packed.fall(layer, clean) for layer in range(len(clean.activations))]
    neurons = falls[0].shape[1]
    columns = torch.arange(len(clean.positions), device=clean.positions.device)
    scores = unscaled[0].probabilities.new_empty(len(falls), len(columns), neurons)
    for block in columns.split(MOST_COLUMNS):
        done = [0] * len(falls)
        for chunk in layers_in_chunks([(layer, neurons) for layer in unscaled], len(block), chunk_tokens):
            rows = {layer: slice(done[layer], done[layer] + count) for layer, count in chunk}
            entering = {}
            for layer, part in rows.items():
                change = falls[layer][block, part].T[..., None] * packed.output_weights(layer, part)[:, None]
                entering[layer] = clean.mlp_outputs[layer][block] + change  # [R, C, width]
                done[layer] = part.stop
            for layer, found in packed.probabilities(clean, block, entering).items():
                scores[layer, block, rows[layer]] = (unscaled[layer].probabilities[0, block] - found).T
    return scores
