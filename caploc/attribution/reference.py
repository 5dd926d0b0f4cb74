"""The slow, obvious implementation of eq. (7): the oracle the packed engine is tested and timed against.

For every answer position m and layer l it runs the whole sequence z_m with the neurons of layer l at its last position
replaced by alpha times their clean value, for every alpha (as one batch), and takes autograd's gradient there. Nothing
is shared or reused. Too slow for use; ``caploc.attribution.packed`` equals it (tests/attribution/test_exactness.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from caploc.architectures import Architecture


def reference_scores(
    model: PreTrainedModel,
    architecture: Architecture,
    input_ids: Tensor,
    answer_start: int,
    nodes: Sequence[float],
    weights: Sequence[float],
    only: Iterable[tuple[int, int]] | None = None,
) -> Tensor:
    """Scores ``[layers, neurons]`` of one example: (1/Y) sum_m a sum_i weights_i dP(y_m | z_m, nodes_i a)/da.

    ``only`` restricts the work to some (answer index, layer) pairs, for timing a sample of it; others score zero.
    """
    layers = architecture.decoder_layers(model)
    answer_length = len(input_ids) - answer_start
    pairs = (
        [(m, layer) for m in range(answer_length) for layer in range(len(layers))]
        if only is None
        else list(only)
    )
    scores: Tensor | None = None
    for m, layer in pairs:
        sequence = input_ids[: answer_start + m]
        target = int(input_ids[answer_start + m])
        attributed = _one(model, architecture.mlp_out_of(layers[layer]), sequence, target, nodes, weights)
        if scores is None:
            scores = torch.zeros(len(layers), len(attributed), dtype=torch.float64)
        scores[layer] += attributed.double().cpu() / answer_length
    assert scores is not None
    return scores


def _one(
    model: PreTrainedModel, projection: nn.Module, sequence: Tensor, target: int, nodes: Sequence[float],
    weights: Sequence[float],
) -> Tensor:  # fmt: skip
    clean = _activation(model, projection, sequence)
    alphas = torch.tensor(nodes, dtype=clean.dtype, device=clean.device)
    scaled = (alphas[:, None] * clean).requires_grad_()  # [A, neurons]
    batch = sequence.expand(len(alphas), -1)

    def replace(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        states = args[0].reshape(len(alphas), len(sequence), -1).clone()
        states[:, -1] = scaled
        return (states.reshape(args[0].shape),)

    handle = projection.register_forward_pre_hook(replace)
    try:
        logits = model(input_ids=batch, use_cache=False).logits[:, -1]
    finally:
        handle.remove()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    (gradient,) = torch.autograd.grad(wide.softmax(-1)[:, target].sum(), scaled)
    weight = torch.tensor(weights, dtype=clean.dtype, device=clean.device)
    return clean * (weight[:, None] * gradient).sum(0)


def _activation(model: PreTrainedModel, projection: nn.Module, sequence: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            model(input_ids=sequence[None], use_cache=False)
    finally:
        handle.remove()
    return kept[0].reshape(len(sequence), -1)[-1]
