"""Where KN, CNL and causal tracing locate, and how much two sets share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caploc.tests.recomputed.reading import Asked, Hook, Model, hooked

# -------------------------------------------------------------------------------------------- eq. (7), KN and CNL


def attribution(model: Model, one: Asked, steps: int = 19) -> np.ndarray:
    """``[layers, neurons]`` eq. (7) for one example: at each token that predicts one of the answer's, a neuron times
    the sum over n = 0..S of dP/d(neuron) where all of its layer's neurons at that token are scaled by n / S, over S;
    mean over the answer's tokens. The token runs once for each layer and n, on the model's own cache of what is in
    front of it.
    """
    layers, points = len(model.layers), steps + 1
    values: list[Tensor] = []
    keep = [(module, lambda _, args: values.append(args[0][0]), True) for module in model.mlp_outs]
    with torch.no_grad(), hooked(keep):
        model.hf(one.ids[None, :-1])
    scores = np.zeros((layers, model.mlp_outs[0].in_features))
    alphas = torch.arange(points)[:, None] / steps
    for place in range(one.start - 1, len(one.ids) - 1):
        with torch.no_grad():
            past = model.hf(one.ids[None, :place], use_cache=True).past_key_values
        past.batch_repeat_interleave(layers * points)
        scaled = [(alphas * value[place]).requires_grad_() for value in values]

        def scale(layer: int, scaled: list[Tensor] = scaled) -> Hook:
            def hook(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
                states = args[0].clone()
                states[layer * points : (layer + 1) * points, 0] = scaled[layer]
                return (states,)

            return hook

        with hooked([(module, scale(layer), True) for layer, module in enumerate(model.mlp_outs)]):
            token = one.ids[place].expand(layers * points, 1)
            logits = model.hf(token, past_key_values=past, use_cache=True).logits[:, 0]
        likely = logits.softmax(-1)[:, one.ids[place + 1]]
        for layer, slope in enumerate(torch.autograd.grad(likely.sum(), scaled)):
            scores[layer] += (values[layer][place] * slope.sum(0) / steps).double().numpy()
    return scores / (len(one.ids) - one.start)


def knowledge_neurons(scores: np.ndarray, share: float = 0.2) -> set[int]:
    """The neurons whose score is positive and at least this share of the largest."""
    return {int(at) for at in np.flatnonzero((scores >= share * scores.max()) & (scores > 0))}


def outside(scores: np.ndarray, sigma: float) -> set[int]:
    """Eq. (8): the neurons whose score is further than sigma standard deviations from the mean."""
    return {int(at) for at in np.flatnonzero(np.abs(scores - scores.mean()) > sigma * scores.std())}


def overlap(one: set[int], other: set[int]) -> float:
    """Eq. (9); nan for two empty sets."""
    common = len(one & other)
    if not one and not other:
        return math.nan
    return (common / max(len(one), 1) + common / max(len(other), 1)) / 2


def iou(one: set[int], other: set[int]) -> float:
    """Eq. (9)."""
    return len(one & other) / len(one | other) if one | other else math.nan


def halves(
    scores: np.ndarray, first: Sequence[int], second: Sequence[int], sigma: float
) -> tuple[float, float]:
    """Overlap and IoU of what the summed ``scores [samples, layers, neurons]`` of two halves locate."""
    one, other = (outside(scores[list(half)].sum(0), sigma) for half in (first, second))
    return overlap(one, other), iou(one, other)


def of_wordings(sets: Sequence[Sequence[set[int]]]) -> np.ndarray:
    """``[facts]`` the mean overlap of every two wordings of each fact."""
    found = []
    for wordings in sets:
        pairs = [overlap(*pair) for pair in itertools.combinations(wordings, 2)]
        defined = [value for value in pairs if not math.isnan(value)]
        found.append(float(np.mean(defined)) if defined else math.nan)
    return np.array(found)


# ------------------------------------------------------------------------------------------------------ causal tracing


@torch.no_grad()
def traced(model: Model, one: Asked, subject: range, noise: Tensor) -> tuple[np.ndarray, float]:
    """``[layers]`` P(answer's first token) with ``noise [draws, subject's tokens, width]``, in units of three standard
    deviations of the embeddings, on the subject and one layer's clean output put back at the subject's last token; and
    P with noise alone; means over draws. The rows of a batch differ in the layer and the draw."""
    embedded = model.embedding(one.ids[: one.start])
    deviation, draws, last = model.embedding.weight.double().std(correction=0), len(noise), subject[-1]
    noised = embedded.repeat(draws, 1, 1)
    noised[:, subject.start : subject.stop] += (3 * deviation * noise).float()
    clean: list[Tensor] = []

    def states(output: Any) -> Tensor:
        found: Tensor = output[0] if isinstance(output, tuple) else output
        return found

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        clean.append(states(output)[0, last].clone())

    def put_back(layer: int) -> Hook:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states(output)[layer * draws : (layer + 1) * draws, last] = clean[layer]

        return hook

    with hooked([(layer, keep, False) for layer in model.layers]):
        model.hf(inputs_embeds=embedded[None])
    with hooked([(module, put_back(layer), False) for layer, module in enumerate(model.layers)]):
        logits = model.hf(inputs_embeds=noised.repeat(len(model.layers) + 1, 1, 1)).logits[:, -1]
    likely = logits.softmax(-1)[:, one.ids[one.start]].double().view(-1, draws).mean(1).numpy()
    return likely[:-1], float(likely[-1])


def best_layers(restored: np.ndarray, count: int = 3) -> set[int]:
    """The layers that restore most, of equal ones the first."""
    return set(np.argsort(-restored, kind="stable")[:count].tolist())
