"""One neuron at a time: its integral is P(clean) - P(neuron at zero), and the packed engine gives just that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import caploc
from caploc.attribution.engine import Attributor, Method
from caploc.attribution.integrate import MOST_COLUMNS
from caploc.errors import OptionError
from caploc.model.loading import LanguageModel
from caploc.tests.attribution.families import CONFIGS, in_float64
from caploc.tests.attribution.test_attribute import EXAMPLES, attribute
from caploc.tests.attribution.test_exactness import packed, random_example, relative_error, small_model
from caploc.tests.oracles.attribution import ablation_oracle, reference_scores
from caploc.tests.tiny import NEURONS, SHAPE, tiny_lm

ONE = Method(path="neuron")
SMALL = (2, 4, 2, 5)  # layers, heads, key heads, window


@pytest.mark.parametrize("value", ["post", "pre"])
@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "phi3"])
def test_the_difference_is_the_integral(family: str, value: str) -> None:
    """Completeness along one neuron's path: the oracle integrates autograd's gradient with 16 Gauss-Legendre points."""
    lm, example = small_model(family, torch.float64, SMALL), random_example(4, 2)
    with in_float64():
        integrated = reference_scores(lm, example, Method(15, "gauss-legendre", path="neuron", value=value))
        error = relative_error(packed(lm, example, Method(path="neuron", value=value)), integrated)
    assert error <= 1e-12


@settings(max_examples=20, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    layers=st.integers(1, 3),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    window=st.integers(2, 12),
    prompt=st.integers(1, 10),
    answer=st.integers(1, 5),
    value=st.sampled_from(["post", "pre"]),
    chunk=st.integers(1, 200),
)
def test_equals_one_whole_run_a_neuron(
    family: str, layers: int, heads: tuple[int, int], window: int, prompt: int, answer: int, value: str,
    chunk: int,
) -> None:  # fmt: skip
    lm = small_model(family, torch.float64, (layers, *heads, window))
    example = random_example(prompt, answer, seed=prompt)
    with in_float64():
        found = packed(lm, example, Method(path="neuron", value=value, chunk_tokens=chunk))
        error = relative_error(found, ablation_oracle(lm, example, value))
    assert error <= 1e-10


def test_an_answer_wider_than_a_pass() -> None:
    lm, example = small_model("llama", torch.float64, SMALL), random_example(5, MOST_COLUMNS + 3)
    assert relative_error(packed(lm, example, ONE), ablation_oracle(lm, example)) <= 1e-10


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_float32_is_enough(family: str) -> None:
    lm, example = small_model(family, torch.float32, SMALL), random_example(9, 6)
    wide = packed(small_model(family, torch.float64, SMALL), example, ONE)
    assert relative_error(packed(lm, example, ONE), wide) <= 1e-3


def test_a_value_before_the_nonlinearity_matters_only_where_that_is_not_zero_at_zero() -> None:
    """SiLU, GELU and ReLU are: then a neuron at zero is the same on both sides. The logistic function is not."""
    lm, example = small_model("llama", torch.float64, SMALL), random_example(5, 3)
    before = Method(path="neuron", value="pre")
    assert relative_error(packed(lm, example, before), packed(lm, example, ONE)) <= 1e-10
    for layer in lm.layers:
        layer.mlp.act_fn = nn.Sigmoid()
    assert relative_error(packed(lm, example, before), packed(lm, example, ONE)) > 0.1
    assert relative_error(packed(lm, example, before), ablation_oracle(lm, example, "pre")) <= 1e-10


def test_what_the_scores_say_of_themselves() -> None:
    lm = tiny_lm(dtype=torch.float64)
    scores = attribute(lm, path="neuron")
    assert scores.settings == {"path": "neuron", "quadrature": "exact", "answer_tokens": None}
    assert (scores.points == NEURONS).all() and not scores.completeness.any()
    assert scores.values.shape == (SHAPE[0], NEURONS) and scores.count == len(EXAMPLES)
    assert (scores.gap >= scores.values.abs().mean(1) - 1e-12).all() and (scores.gap > 0).all()
    assert not torch.allclose(scores.values, attribute(lm).values, rtol=0.1)


def test_the_cnl_locator_takes_the_readings() -> None:
    lm = tiny_lm(dtype=torch.float64)
    options = {"path": "neuron", "value": "pre", "scope": "layer", "deviation": "positive"}
    mask = caploc.LOCATORS["cnl"](lm, EXAMPLES, sigma=1.5, progress=False, **options)
    scores = attribute(lm, path="neuron", value="pre")
    assert torch.equal(mask.values, scores.mask(1.5, scope="layer", deviation="positive").values)
    assert mask.count and not torch.equal(mask.values, scores.mask(1.5).values)


def test_half_precision_cannot_tell_one_neuron() -> None:
    lm: LanguageModel = tiny_lm(dtype=torch.bfloat16)
    expected = (
        "^path 'neuron' compares runs that differ by one neuron, less than bfloat16 can .* use dtype float32$"
    )
    with pytest.raises(OptionError, match=expected):
        Attributor(lm, ONE)
