"""Whatever is done to the weights, and however it ends, the very bits come back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from caploc.datasets.edits import EditRequest
from caploc.errors import OptionError
from caploc.fingerprints import tensor_fingerprint
from caploc.interventions import Editing, RankOneEdit, edit_all_layers, replaced_weights
from caploc.interventions.activations import scaled
from caploc.interventions.rank_one import identity_covariance
from caploc.interventions.rank_one.value import EditedLayers
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.tiny import tiny_lm

REQUEST = EditRequest("f1", "in the town of ab cd lives", "ab cd", " xyz", " q")
EDITING = Editing(token="last-prompt", prefixes=("no. ",), steps=2)
IDS = torch.tensor([[1, 5, 9, 7]])


class Boom(Exception):
    """Thrown midway."""


@cache
def _model(family: str) -> LanguageModel:
    lm = tiny_lm(family)
    # bits that arithmetic would not give back: negative zero, the smallest number
    lm.model.get_parameter(_names(lm)[0]).data[0, :2] = torch.tensor([-0.0, 1e-45])
    return lm


@cache
def _edits(family: str) -> dict[int, RankOneEdit]:
    lm = tiny_lm(family)
    return edit_all_layers(lm, REQUEST, identity_covariance(lm), editing=EDITING)


def _names(lm: LanguageModel) -> list[str]:
    return [name for name, parameter in lm.model.named_parameters() if parameter.dim() > 1]


def _state(lm: LanguageModel) -> list[Any]:
    """Everything of a model that an intervention could leave behind."""
    modules = list(lm.model.modules())
    parameters = list(lm.model.parameters())
    return [
        tensor_fingerprint(lm.model.state_dict()),
        [(id(parameter), parameter.data_ptr(), parameter.requires_grad) for parameter in parameters],
        [module.training for module in modules],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in modules],
        ["forward" in module.__dict__ for module in modules],
        lm.fingerprint,
    ]


def _edited(lm: LanguageModel, family: str, number: int) -> AbstractContextManager[Any]:
    return _edits(family)[number % lm.num_layers].applied(lm)


def _erased(lm: LanguageModel, family: str, number: int) -> AbstractContextManager[Any]:
    name = _names(lm)[number % len(_names(lm))]
    erased = lm.model.get_parameter(name).detach().clone()
    erased[:: 2 + number % 3] = 0
    return replaced_weights(lm, {name: erased})


def _trained(lm: LanguageModel, family: str, number: int) -> AbstractContextManager[Any]:
    """Copies that are changed in place while they stand in the model."""
    stack = ExitStack()
    clones = {name: parameter.detach().clone() for name, parameter in lm.model.named_parameters()}
    stack.enter_context(replaced_weights(lm, clones))
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.mul_(1 - number / 100)
    return stack


def _scaled(lm: LanguageModel, family: str, number: int) -> AbstractContextManager[Any]:
    members = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    members.view(-1)[number::7] = True
    return scaled(lm, NeuronMask(members), float(number % 3))


def _sought(lm: LanguageModel, family: str, number: int) -> AbstractContextManager[Any]:
    """A search that is broken off after some steps."""
    original, calls = EditedLayers.run, iter([*range(number % 2), None])

    def run(self: EditedLayers, *arguments: Any) -> Any:
        if next(calls) is None:
            original(self, *arguments)
            raise Boom
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EditedLayers, "run", run)
        edit_all_layers(lm, REQUEST, identity_covariance(lm), editing=EDITING)
    return nullcontext()


ACTIONS: list[Callable[[LanguageModel, str, int], AbstractContextManager[Any]]] = [
    _edited, _erased, _trained, _scaled, _sought,
]  # fmt: skip


@given(
    family=st.sampled_from(["llama", "gptj", "gpt2"]),
    actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 40)), min_size=1, max_size=4),
    ends=st.sampled_from(["well", "inside", "in the model"]),
)
@settings(max_examples=100, deadline=None)
def test_every_bit_comes_back(family: str, actions: list[Any], ends: str) -> None:
    lm = _model(family)
    before = _state(lm)
    broken = ends != "well" or any(action is _sought for action, _ in actions)
    # an edit is sought in a batch of its own making, in which "the last token of a call" has no meaning
    assume(not {_sought, _scaled} <= {action for action, _ in actions})
    with pytest.raises(Boom) if broken else nullcontext(), ExitStack() as stack:
        for action, number in actions:
            stack.enter_context(action(lm, family, number))
        if ends == "inside":
            raise Boom
        if ends == "in the model":
            stack.callback(lm.layers[-1].register_forward_hook(_throw).remove)
        with torch.no_grad():
            lm.model(input_ids=IDS)
    assert _state(lm) == before


def _throw(*_: Any) -> None:
    raise Boom


def test_the_new_weights_are_in_force_and_results_are_not_taken_for_the_model_s_own() -> None:
    lm = tiny_lm()
    fingerprint = lm.fingerprint
    name = "model.layers.1.mlp.down_proj.weight"
    with torch.no_grad():
        before = lm.model(input_ids=IDS).logits
        with replaced_weights(lm, {name: torch.zeros_like(lm.model.get_parameter(name))}):
            assert not lm.model.get_parameter(name).any()
            assert not torch.allclose(lm.model(input_ids=IDS).logits, before)
            assert lm.fingerprint != fingerprint
        assert torch.equal(lm.model(input_ids=IDS).logits, before)
    assert lm.fingerprint == fingerprint


def test_not_a_number_comes_back_with_its_payload() -> None:
    lm = tiny_lm()
    weight = lm.model.get_parameter("model.norm.weight")
    weight.data[:2] = torch.tensor([0x7FC00123, 0x7F800001], dtype=torch.int32).view(torch.float32)
    before = weight.detach().clone().view(torch.int32)
    with pytest.raises(Boom), replaced_weights(lm, {"model.norm.weight": torch.ones_like(weight)}):
        raise Boom
    assert torch.equal(weight.detach().view(torch.int32), before)


def test_a_tied_weight_is_one_parameter() -> None:
    lm = tiny_lm("gpt2")
    names = ("lm_head.weight", "transformer.wte.weight")
    with replaced_weights(lm, {names[0]: torch.ones_like(lm.model.get_parameter(names[0]))}):
        assert lm.model.get_parameter(names[1]).eq(1).all()
    ones = dict.fromkeys(names, torch.ones_like(lm.model.get_parameter(names[0])))
    with pytest.raises(OptionError, match="are one tied parameter"), replaced_weights(lm, ones):
        pass


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.nonsense", lambda weight: weight, "has no parameter 'model.nonsense'"),
        ("model.norm.weight", lambda weight: weight[1:], "the shape of 'model.norm.weight' is"),
        ("model.norm.weight", lambda weight: weight.double(), "the dtype of 'model.norm.weight' is torch.float32"),
        ("model.norm.weight", lambda weight: weight.to("meta"), "the device of 'model.norm.weight' is cpu"),
    ],
)  # fmt: skip
def test_wrong_weights_change_nothing(name: str, change: Any, message: str) -> None:
    lm = tiny_lm()
    before = _state(lm)
    first = "model.layers.0.mlp.down_proj.weight"
    weights = {
        first: torch.zeros_like(lm.model.get_parameter(first)),
        name: change(torch.ones(lm.model.config.hidden_size)),
    }
    with pytest.raises(OptionError, match=message) as caught, replaced_weights(lm, weights):
        pass
    assert "\n" not in str(caught.value)
    assert _state(lm) == before
