"""A neuron's value before the nonlinearity: the packed engine against plain autograd with a hook there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.attribution.engine import Attributor, Method
from caploc.attribution.method import Tolerance
from caploc.errors import ModelError
from caploc.tests.attribution.families import CONFIGS, in_float64
from caploc.tests.attribution.test_attribute import EXAMPLES, attribute, tokens
from caploc.tests.attribution.test_exactness import packed, random_example, relative_error, small_model
from caploc.tests.oracles.attribution import last_position_scaled, module_of, reference_scores
from caploc.tests.tiny import tiny_lm


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_equals_the_oracle(family: str) -> None:
    lm, example = small_model(family, torch.float64, (2, 4, 2, 5)), random_example(7, 6)
    method = Method(steps=4, value="pre", chunk_tokens=25)
    with in_float64():
        error = relative_error(packed(lm, example, method), reference_scores(lm, example, method))
    assert error <= 1e-12
    assert relative_error(packed(lm, example, Method(steps=4)), reference_scores(lm, example, method)) > 0.01


@settings(max_examples=15, deadline=None)
@given(
    family=st.sampled_from(["llama", "phi3", "opt", "gpt_neox"]),
    layers=st.integers(1, 3),
    prompt=st.integers(1, 10),
    answer=st.integers(1, 6),
    steps=st.integers(1, 6),
    quadrature=st.sampled_from(["paper", "trapezoid", "gauss-legendre"]),
    chunk=st.integers(1, 150),
)
def test_equals_the_oracle_whatever_the_shape(
    family: str, layers: int, prompt: int, answer: int, steps: int, quadrature: str, chunk: int
) -> None:
    lm = small_model(family, torch.float64, (layers, 4, 2, 5))
    example = random_example(prompt, answer, seed=prompt)
    method = Method(steps, quadrature, chunk_tokens=chunk, value="pre")
    assert relative_error(packed(lm, example, method), reference_scores(lm, example, method)) <= 1e-12


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_float32_is_close_to_float64(family: str) -> None:
    example, method = random_example(9, 6), Method(value="pre")
    wide = packed(small_model(family, torch.float64), example, method)
    assert relative_error(packed(small_model(family, torch.float32), example, method), wide) <= 1e-5


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize(
    "rule",
    [
        {"quadrature": "gauss-legendre", "steps": 30},
        {"quadrature": "adaptive", "tolerance": Tolerance(1e-4, 1e-6)},
    ],
)
def test_attributions_add_up_to_what_the_path_changes(family: str, rule: dict[str, Any]) -> None:
    """P(1) - P(0), P(0) from plain runs with the nonlinearity's input at zero: so the up projection is not scaled."""
    lm = tiny_lm(family, torch.float64)
    scores = attribute(lm, value="pre", **rule)
    change = torch.zeros(lm.num_layers, dtype=torch.float64)
    for example in tokens(lm):
        for m in range(example.num_answer_tokens):
            cut = example.answer_start + m
            for layer in range(lm.num_layers):
                ends = []
                for alpha in (1.0, 0.0):
                    scaled = last_position_scaled(module_of(lm, layer, "pre"), torch.full((1, 1), alpha))
                    with torch.no_grad(), scaled:
                        logits = lm.model(example.input_ids[None, :cut]).logits[0, -1]
                    ends.append(logits.softmax(-1)[example.input_ids[cut]])
                change[layer] += (ends[0] - ends[1]) / (example.num_answer_tokens * len(EXAMPLES))
    assert torch.allclose(scores.values.sum(1), change, rtol=0, atol=1e-5)
    assert (scores.completeness <= 1e-5).all() and change.abs().max() > 1e-3


def test_the_adaptive_rule_refines_by_the_right_slopes() -> None:
    lm = tiny_lm(dtype=torch.float64)
    exact = attribute(lm, value="pre", quadrature="gauss-legendre", steps=60).values
    adaptive = attribute(lm, value="pre", quadrature="adaptive").values
    assert relative_error(adaptive, exact) < 0.02
    assert relative_error(attribute(lm, quadrature="adaptive").values, exact) > 0.1


def test_settings_name_it() -> None:
    lm = tiny_lm()
    settings = attribute(lm, value="pre", steps=3).settings
    assert settings == {"quadrature": "paper", "steps": 3, "value": "pre", "answer_tokens": None}


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("way", ["bypassed", "changed"])
def test_a_model_whose_nonlinearity_does_not_make_the_neurons_is_refused(family: str, way: str) -> None:
    """Fused kernels bypass the module; a wrapper may add to what it returns."""
    lm = tiny_lm(family)
    projection = lm.architecture.mlp_out_of(lm.layers[1])
    if way == "changed":
        projection.register_forward_pre_hook(lambda _, args: (args[0] * 1.5,))
    else:
        mlp = lm.layers[1].mlp
        act = torch.nn.functional.silu if family == "llama" else torch.nn.functional.gelu
        mlp.forward = (
            (lambda x: mlp.down_proj(act(mlp.gate_proj(x)) * mlp.up_proj(x)))
            if family == "llama"
            else (lambda x: mlp.fc_out(act(mlp.fc_in(x))))
        )
    reason = (
        rf"^value 'pre' cannot be had for this {family} model: the neurons of layer 1 .*; use value 'post'$"
    )
    with pytest.raises(ModelError, match=reason):
        attribute(lm, value="pre")
    assert not lm.architecture.activation_of(lm.layers[0])._forward_pre_hooks
    attribute(lm, steps=1)


def test_leaves_no_hook_behind() -> None:
    lm, example = small_model("llama", torch.float32), random_example(5, 3)
    with Attributor(lm, Method(value="pre")) as attributor:
        attributor.sums([example])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
