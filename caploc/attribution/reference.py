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
    path: str = "layer",
    value: str = "post",
) -> Tensor:
    """Scores ``[layers, neurons]`` of one example: (1/Y) sum_m a sum_i weights_i dP(y_m | z_m, nodes_i a)/da.

    ``only`` restricts the work to some (answer index, layer) pairs, for timing a sample of it; others score zero.
    ``path`` and ``value`` as in ``Method``: with "neuron" the rule is applied to each neuron alone, the others at their
    clean values; with "pre" a stands for the input of the MLP's nonlinearity.
    """
    layers = architecture.decoder_layers(model)
    answer_length = len(input_ids) - answer_start
    pairs = (
        [(m, layer) for m in range(answer_length) for layer in range(len(layers))]
        if only is None
        else list(only)
    )
    module_of = architecture.mlp_out_of if value == "post" else architecture.activation_of
    scores: Tensor | None = None
    for m, layer in pairs:
        sequence = input_ids[: answer_start + m]
        target = int(input_ids[answer_start + m])
        module = module_of(layers[layer])
        clean = _entering(model, module, sequence)
        if path == "layer":
            gradients = _gradients(model, module, sequence, target, [node * clean for node in nodes])
        else:
            gradients = torch.zeros(len(nodes), len(clean), dtype=clean.dtype, device=clean.device)
            for neuron in range(len(clean)):
                along = [_with_one_scaled(clean, neuron, node) for node in nodes]
                gradients[:, neuron] = _gradients(model, module, sequence, target, along)[:, neuron]
        weight = torch.tensor(weights, dtype=clean.dtype, device=clean.device)
        attributed = clean * (weight[:, None] * gradients).sum(0)
        if scores is None:
            scores = torch.zeros(len(layers), len(attributed), dtype=torch.float64)
        scores[layer] += attributed.double().cpu() / answer_length
    assert scores is not None
    return scores


def _with_one_scaled(clean: Tensor, neuron: int, alpha: float) -> Tensor:
    scaled = clean.clone()
    scaled[neuron] *= alpha
    return scaled


def _gradients(
    model: PreTrainedModel, module: nn.Module, sequence: Tensor, target: int, entering: Sequence[Tensor]
) -> Tensor:
    """``[A, neurons]`` dP(target) with respect to what enters ``module`` at the last position, at each of A points."""
    points = torch.stack(list(entering)).requires_grad_()  # [A, neurons]
    batch = sequence.expand(len(points), -1)

    def replace(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        states = args[0].reshape(len(points), len(sequence), -1).clone()
        states[:, -1] = points
        return (states.reshape(args[0].shape),)

    handle = module.register_forward_pre_hook(replace)
    try:
        logits = model(input_ids=batch, use_cache=False).logits[:, -1]
    finally:
        handle.remove()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    (gradient,) = torch.autograd.grad(wide.softmax(-1)[:, target].sum(), points)
    return gradient


def _entering(model: PreTrainedModel, module: nn.Module, sequence: Tensor) -> Tensor:
    """``[neurons]`` what enters ``module`` at the last position of a plain run."""
    kept: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            model(input_ids=sequence[None], use_cache=False)
    finally:
        handle.remove()
    return kept[0].reshape(len(sequence), -1)[-1]
