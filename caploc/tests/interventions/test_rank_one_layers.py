"""Values sought for all layers together equal those sought layer by layer over whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from caploc.datasets.edits import EditRequest
from caploc.errors import ModelError
from caploc.interventions.rank_one import Editing
from caploc.interventions.rank_one.prompts import EditPrompts, edit_prompts
from caploc.interventions.rank_one.value import EditedLayers, Value, find_values, record
from caploc.model.loading import LanguageModel, wrap
from caploc.rows.borrowing import frozen_eval
from caploc.rows.clean import target_log_probs
from caploc.tests.attribution.families import CONFIGS, in_float64, make_model
from caploc.tests.oracles.rank_one import reference_delta, reference_key
from caploc.tests.tiny import tiny_lm, tokenizer

REQUEST = EditRequest("f1", "in the town of ab cd lives", "ab cd", " xyz", " q")
PREFIXES = ("no. ", "well then. ")
BRIEF = Editing(steps=4, stop_loss=0.0, decay=0.3, kl_weight=0.5)


def _prompts(lm: LanguageModel, editing: Editing = BRIEF, request: EditRequest = REQUEST) -> EditPrompts:
    return edit_prompts(lm, request, PREFIXES, editing.token, editing.kl_token)


def _found(
    lm: LanguageModel, prompts: EditPrompts, editing: Editing, layers: Sequence[int] | None = None
) -> dict[int, Value]:
    with frozen_eval(lm.model):
        chosen = range(lm.num_layers) if layers is None else layers
        return find_values(lm, prompts, record(lm, prompts), chosen, editing, "f1")


def _assert_equal(lm: LanguageModel, editing: Editing, found: dict[int, Value], prompts: EditPrompts) -> None:
    for layer, value in found.items():
        delta, losses = reference_delta(lm, prompts, layer, editing)
        assert value.losses == pytest.approx(losses, rel=1e-9, abs=1e-9)
        assert (value.delta - delta).abs().max() <= 1e-9 * delta.abs().max()


@pytest.mark.parametrize("token", ["last-subject", "last-prompt"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_after_a_whole_search(family: str, token: Any) -> None:
    lm = tiny_lm(family, torch.float64)
    editing = replace(BRIEF, token=token)
    prompts = _prompts(lm, editing)
    with in_float64():
        found = _found(lm, prompts, editing)
        _assert_equal(lm, editing, found, prompts)
    assert all(value.delta.abs().max() > 0.1 for value in found.values() if token == "last-prompt")


@given(
    family=st.sampled_from(["llama", "gptj", "gpt2", "mistral"]),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([2, 4]), st.just(2), st.integers(2, 9)),
    seed=st.integers(0, 99),
    prompt=st.sampled_from(["ab cd lives", "of ab cd", "who is ab cd? it is"]),
    answer=st.sampled_from([" x", " yz", " none at all"]),
    editing=st.builds(
        Editing,
        token=st.sampled_from(["last-subject", "last-prompt"]),
        steps=st.integers(1, 6),
        clamp=st.sampled_from([None, 0.5, 2.0]),
        stop_loss=st.sampled_from([0.0, 3.9]),
        kl_weight=st.sampled_from([0.0, 1.0]),
        kl_token=st.sampled_from(["edited", "last"]),
    ),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_small_model(
    family: str, shape: tuple[int, int, int, int], seed: int, prompt: str, answer: str, editing: Editing
) -> None:
    lm = wrap("drawn", make_model(CONFIGS[family](*shape), torch.float64, seed), tokenizer())
    prompts = _prompts(lm, editing, EditRequest("f1", prompt, "ab cd", answer))
    with in_float64():
        _assert_equal(lm, editing, _found(lm, prompts, editing), prompts)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_gradients_in_float32(family: str) -> None:
    """One step's: Adam's first step turns rounding of a small gradient into a change of sign."""
    lm = tiny_lm(family)
    prompts = _prompts(lm)
    width = lm.model.config.hidden_size
    with frozen_eval(lm.model), EditedLayers(lm.model, lm.architecture) as model:
        deltas = torch.zeros(lm.num_layers, width, requires_grad=True)
        logits = model.run(record(lm, prompts), dict(enumerate(deltas)))
        targets = prompts.targets.repeat(len(prompts.rewriting))
        target_log_probs(logits[:, :-1], targets).sum().backward()
    for layer, ours in enumerate(deltas.grad):
        theirs = _whole_gradient(lm, prompts, layer)
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def _whole_gradient(lm: LanguageModel, prompts: EditPrompts, layer: int) -> Tensor:
    """Of the sum of the answers' log p, prompt by prompt."""
    total = torch.zeros(lm.model.config.hidden_size)
    for prompt in prompts.rewriting:
        delta = torch.zeros_like(total, requires_grad=True)

        def add(
            module: Any, args: Any, output: Tensor, at: int = prompt.edited, delta: Tensor = delta
        ) -> Tensor:
            here = torch.arange(output.shape[1]) == at
            return output + here[:, None] * delta

        handle = lm.architecture.mlp_out_of(lm.layers[layer]).register_forward_hook(add)
        log_probs = lm.model(input_ids=prompt.fed[None]).logits[0].log_softmax(-1)
        handle.remove()
        log_probs[list(prompt.read), prompts.targets].sum().backward()
        total += delta.grad
    return total


def test_layers_do_not_depend_on_each_other_and_stop_by_themselves() -> None:
    lm = tiny_lm("llama", torch.float64)
    editing = Editing(token="last-prompt", kl_weight=0.0, decay=0.0, clamp=None, stop_loss=3.45)
    prompts = _prompts(lm, editing)
    together = _found(lm, prompts, editing)
    assert len({len(value.losses) for value in together.values()}) == 2  # one stops before the other
    for layer, value in together.items():
        alone = _found(lm, prompts, editing, [layer])[layer]
        assert torch.allclose(alone.delta, value.delta, rtol=1e-9)
        assert len(alone.losses) == len(value.losses) < editing.steps
        assert value.losses[-1] < 3.45 <= value.losses[-2]


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt"])
def test_recorded_keys_are_the_model_s(family: str) -> None:
    lm = tiny_lm(family, torch.float64)
    prompts = _prompts(lm)
    with frozen_eval(lm.model):
        recorded = record(lm, prompts)
    for layer in range(lm.num_layers):
        expected = reference_key(lm, prompts, layer)
        assert torch.allclose(recorded.mlp_inputs[layer][:-1], expected, rtol=1e-9, atol=1e-12)
        with torch.no_grad():
            output = lm.architecture.mlp_out_of(lm.layers[layer])(expected)
        assert torch.allclose(recorded.mlp_outputs[layer][:-1], output, rtol=1e-9, atol=1e-12)


def test_a_model_that_rows_do_not_reproduce_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm()
    prompts = _prompts(lm)
    with frozen_eval(lm.model):
        recorded = record(lm, prompts)
    keys, values = recorded.front[0]
    recorded.front[0] = (keys.roll(1, 2), values)
    with (
        frozen_eval(lm.model),
        pytest.raises(ModelError, match="does not reproduce this model: at example 'f1'"),
    ):
        find_values(lm, prompts, recorded, [0, 1], BRIEF, "f1")
    assert all("forward" not in layer.__dict__ for layer in lm.layers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_what_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny_lm("llama", torch.float64)
    prompts = _prompts(lm)
    expected = _found(lm, prompts, BRIEF)
    run = EditedLayers.run

    def small(self: EditedLayers, recorded: Any, deltas: Any, most: int = 1) -> Tensor:
        if len(deltas) > most:
            raise torch.cuda.OutOfMemoryError("no room")
        return run(self, recorded, deltas)

    monkeypatch.setattr(EditedLayers, "run", small)
    halved = _found(lm, prompts, BRIEF)
    for layer, value in expected.items():
        assert torch.allclose(halved[layer].delta, value.delta, rtol=1e-9)
    monkeypatch.setattr(EditedLayers, "run", lambda *_: small(*_, most=0))
    with pytest.raises(ModelError, match="'f1' does not fit into the GPU's memory"):
        _found(lm, prompts, BRIEF)
