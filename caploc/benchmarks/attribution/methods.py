"""The methods that are timed: the packed engine and its two rivals, on the same quantity (eq. 7, the paper's rule)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from caploc.attribution.clean import run_clean
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.estimate import automatic_chunk
from caploc.attribution.integrate import integrate_fixed
from caploc.attribution.packed import PackedModel
from caploc.attribution.quadrature import fixed_rule
from caploc.benchmarks.attribution.work import STEPS
from caploc.examples import TokenizedExample
from caploc.models import LanguageModel
from caploc.tests.oracles.attribution import captum_scores, reference_scores


class Pair(NamedTuple):
    """One unit of the rivals' work: the answer token at ``position`` (0..Y-1) and a layer."""

    position: int
    layer: int


def packed(lm: LanguageModel, example: TokenizedExample) -> Tensor:
    """The engine as users run it: ``[layers, neurons]``."""
    with Attributor(lm, Method(STEPS)) as attributor:
        return torch.from_numpy(attributor.one(example).total)


def packed_by_position(lm: LanguageModel, example: TokenizedExample) -> Tensor:
    """The same engine's scores before they are summed over positions: ``[layers, Y, neurons]``. Not timed."""
    with PackedModel(lm.model, lm.architecture) as model:
        clean = run_clean(lm.model, lm.architecture, example.input_ids, example.answer_start)
        rule = fixed_rule("paper", STEPS)
        integral = integrate_fixed(model, clean, model.run_unscaled(clean), *rule, automatic_chunk(lm))
        rows = [
            activation * model.to_neurons(layer, integral.gradients[layer])
            for layer, activation in enumerate(clean.activations)
        ]
    return torch.stack(rows).double() / len(clean.positions)


def naive(lm: LanguageModel, example: TokenizedExample, pair: Pair) -> Tensor:
    """``caploc.tests.oracles.attribution``, for one pair: ``[neurons]``."""
    nodes, weights = (list(numbers) for numbers in fixed_rule("paper", STEPS))
    scores = reference_scores(
        lm.model, lm.architecture, example.input_ids, example.answer_start, nodes, weights, only=[pair]
    )
    return scores[pair.layer]


def captum_missing() -> str | None:
    """Why captum cannot be timed, or None."""
    if find_spec("captum") is None:
        return "captum is not installed: python -m pip install captum"
    return None


def captum(lm: LanguageModel, example: TokenizedExample, pair: Pair) -> Tensor:
    """captum's IntegratedGradients for one pair: ``[neurons]``."""
    sequence = example.input_ids[: example.answer_start + pair.position]
    target = int(example.input_ids[example.answer_start + pair.position])
    projection = lm.architecture.mlp_out_of(lm.layers[pair.layer])
    return captum_scores(lm, projection, sequence, target, STEPS).double() / example.num_answer_tokens
