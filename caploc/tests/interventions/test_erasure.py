"""Erasing neurons by their weights is what silencing them at every position is, and leaves no trace."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc import attribute
from caploc.errors import OptionError
from caploc.examples import Example
from caploc.fingerprints import tensor_fingerprint
from caploc.interventions import erased
from caploc.interventions.activations import scaled
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.attribution.families import CONFIGS, FURTHER, in_float64
from caploc.tests.tiny import NEURONS, SHAPE, tiny_lm

LAYERS = SHAPE[0]
IDS = torch.tensor([[1, 5, 9, 7, 12], [1, 30, 2, 11, 4]])
BIASED = ("falcon", "phi", "gptj", "gpt2", "gpt_neox", "opt")


@cache
def _model(family: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    return tiny_lm(family, dtype)


def _logits(lm: LanguageModel) -> torch.Tensor:
    with torch.no_grad(), in_float64():
        return lm.model(input_ids=IDS, use_cache=False).logits.detach().clone()


def _mask(seed: int, share: float = 0.3) -> NeuronMask:
    values = torch.rand(LAYERS, NEURONS, generator=torch.Generator().manual_seed(seed)) < share
    values[0, seed % NEURONS] = True
    return NeuronMask(values)


@pytest.mark.parametrize("family", [*CONFIGS, *FURTHER])
@pytest.mark.parametrize("weights", ["all", "out"])
def test_erased_is_silenced_at_every_position(family: str, weights: str) -> None:
    lm, mask = _model(family), _mask(3)
    with scaled(lm, mask, factor=0, at=None):
        silenced = _logits(lm)
    with erased(lm, mask, weights):  # type: ignore[arg-type]
        gone = _logits(lm)
    assert (silenced - _logits(lm)).abs().max() > 1e-3
    torch.testing.assert_close(gone, silenced, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_erased_is_silenced_in_float32(family: str) -> None:
    lm, mask = _model(family, torch.float32), _mask(5)
    with scaled(lm, mask, factor=0, at=None):
        silenced = _logits(lm)
    with erased(lm, mask):
        torch.testing.assert_close(_logits(lm), silenced, rtol=0, atol=1e-6)


@given(seed=st.integers(0, 10**6), share=st.floats(0.01, 1), family=st.sampled_from(["llama", "gptj"]))
@settings(max_examples=25, deadline=None)
def test_any_mask(seed: int, share: float, family: str) -> None:
    lm, mask = _model(family), _mask(seed, share)
    before = tensor_fingerprint(lm.model.state_dict())
    with scaled(lm, mask, factor=0, at=None):
        silenced = _logits(lm)
    with erased(lm, mask):
        torch.testing.assert_close(_logits(lm), silenced, rtol=0, atol=1e-12)
    assert tensor_fingerprint(lm.model.state_dict()) == before


@pytest.mark.parametrize("family", CONFIGS)
def test_rows_alone_leave_the_bias(family: str) -> None:
    lm, mask = _model(family), _mask(4)
    with erased(lm, mask):
        gone = _logits(lm)
    with erased(lm, mask, "in"):
        without_rows = _logits(lm)
    same = torch.allclose(gone, without_rows, rtol=0, atol=1e-12)
    assert same is (family not in BIASED)


@pytest.mark.parametrize("family", ["llama", "phi3", "gptj", "gpt2"])
def test_exactly_the_neurons_own_parameters_become_zero(family: str) -> None:
    lm, mask = _model(family), _mask(6)
    before = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    with erased(lm, mask):
        changed = sum(
            int((parameter != before[name]).sum()) for name, parameter in lm.model.named_parameters()
        )
        assert all(
            bool((parameter[parameter != before[name]] == 0).all())
            for name, parameter in lm.model.named_parameters()
        )
    assert changed == mask.count * lm.parameters_per_neuron


def test_an_exception_restores_every_bit() -> None:
    lm = tiny_lm("gptj")
    lm.model.get_parameter("transformer.h.0.mlp.fc_in.weight").data[0, :2] = torch.tensor([-0.0, 1e-45])
    before = tensor_fingerprint(lm.model.state_dict())
    with pytest.raises(RuntimeError, match="midway"), erased(lm, _mask(1)):
        assert tensor_fingerprint(lm.model.state_dict()) != before
        raise RuntimeError("midway")
    assert tensor_fingerprint(lm.model.state_dict()) == before


def test_erasures_nest() -> None:
    lm, first, second = _model("llama"), _mask(1, 0.1), _mask(2, 0.1)
    with erased(lm, NeuronMask(first.values | second.values)):
        both = _logits(lm)
    with erased(lm, first), erased(lm, second):
        torch.testing.assert_close(_logits(lm), both, rtol=0, atol=1e-12)


def _refused(lm: LanguageModel, mask: NeuronMask, weights: str = "all") -> str:
    before = tensor_fingerprint(lm.model.state_dict())
    with pytest.raises(OptionError) as caught, erased(lm, mask, weights):  # type: ignore[arg-type]
        pass
    assert tensor_fingerprint(lm.model.state_dict()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_erased() -> None:
    lm = _model("llama")
    empty = NeuronMask(torch.zeros(LAYERS, NEURONS, dtype=torch.bool))
    assert "lower sigma" in _refused(lm, empty)
    assert "another model" in _refused(lm, NeuronMask(torch.ones(LAYERS, NEURONS + 1, dtype=torch.bool)))
    assert "'up'" in _refused(lm, _mask(1), "up")


def test_a_mask_knows_its_model() -> None:
    lm, other = _model("llama"), tiny_lm("llama", torch.float64, seed=1)
    scores = attribute(lm, [Example("a", "in the town", " of ab")], steps=3, progress=False)
    mask = scores.mask(sigma=1)
    assert mask.count and mask.model == mask.random_like(0).model == lm.fingerprint
    with erased(lm, mask):
        pass
    assert "located in another model" in _refused(other, mask)
    with erased(other, NeuronMask(mask.values)):
        pass
