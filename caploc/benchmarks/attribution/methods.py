"""The methods that are timed: the packed engine and its two rivals, on the same quantity (eq. 7, the paper's rule)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from caploc.attribution.engine import Attributor, Method
from caploc.attribution.integrate import integrate_fixed
from caploc.attribution.method import fixed_rule
from caploc.attribution.packed import PackedModel
from caploc.attribution.reference import reference_scores
from caploc.benchmarks.attribution.work import STEPS
from caploc.examples import TokenizedExample
from caploc.models import LanguageModel
from caploc.rows.clean import run_clean
from caploc.rows.sizing import automatic_chunk


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
    """``caploc.attribution.reference``, for one pair: ``[neurons]``."""
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
    """captum's IntegratedGradients for one pair: ``[neurons]``.

    Its right Riemann sum with 19 steps has the nodes 1/19..1; eq. (7)'s term at 0 is added. Equality in float64, for
    small Llama and GPT-2 models: ``caploc/tests/attribution/test_exactness.py``.
    """
    from captum.attr import IntegratedGradients

    sequence = example.input_ids[: example.answer_start + pair.position]
    target = int(example.input_ids[example.answer_start + pair.position])
    projection = lm.architecture.mlp_out_of(lm.layers[pair.layer])
    clean = _clean_activation(lm, projection, sequence)

    def probability(last: Tensor) -> Tensor:
        def replace(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            return (torch.cat([args[0][:, :-1], last[:, None]], dim=1),)

        handle = projection.register_forward_pre_hook(replace)
        try:
            logits = lm.model(input_ids=sequence.expand(len(last), -1), use_cache=False).logits
        finally:
            handle.remove()
        return logits[:, -1].softmax(-1)[:, target]

    integral: Any = IntegratedGradients(probability).attribute(
        clean, baselines=torch.zeros_like(clean), n_steps=STEPS, method="riemann_right"
    )
    zero = torch.zeros_like(clean, requires_grad=True)
    (gradient,) = torch.autograd.grad(probability(zero).sum(), zero)
    return (integral + clean * gradient / STEPS)[0].double() / example.num_answer_tokens


def _clean_activation(lm: LanguageModel, projection: nn.Module, sequence: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    try:
        with torch.no_grad():
            lm.model(input_ids=sequence[None], use_cache=False)
    finally:
        handle.remove()
    return kept[0][0, -1:]
