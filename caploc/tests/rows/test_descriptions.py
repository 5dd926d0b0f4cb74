"""One model and one prompt through all five descriptions of rows: each equals plain runs with one hook a change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from caploc.architectures import ARCHITECTURES, input_axis, weight_by_input
from caploc.attribution.packed import PackedModel
from caploc.errors import ModelError
from caploc.evaluation.rows import ErasingModel
from caploc.examples import TokenizedExample
from caploc.interventions.rank_one.prompts import EditPrompt, EditPrompts
from caploc.interventions.rank_one.value import EditedLayers, record
from caploc.interventions.scaling import ScalingModel
from caploc.locators.causal_tracing.trace import Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.model.loading import LanguageModel
from caploc.rows.borrowing import frozen_eval
from caploc.rows.clean import run_clean
from caploc.tests.attribution.families import CONFIGS, in_float64, make_model
from caploc.tests.attribution.test_exactness import random_example, relative_error, small_model

Change = Callable[[Tensor], Tensor]
Direct = Callable[[Mapping[tuple[int, str], Change]], Tensor]
Method = Callable[[LanguageModel, TokenizedExample, torch.Generator, Direct], tuple[Tensor, Tensor]]


def direct_runs(lm: LanguageModel, ids: Tensor) -> Direct:
    """Plain runs of the whole sequence, ``[T, vocabulary]`` log-probabilities, under changes of what enters or leaves
    (layer, "in" or "out") the MLP's output projection: ``[T, neurons or width]`` to the same."""

    def run(changes: Mapping[tuple[int, str], Change]) -> Tensor:
        with ExitStack() as hooks:
            for (layer, side), change in changes.items():
                module = lm.architecture.mlp_out_of(lm.layers[layer])

                def before(_: nn.Module, args: Any, change: Change = change) -> Any:
                    return (change(args[0].reshape(len(ids), -1).clone()).view(args[0].shape),)

                def after(_: nn.Module, args: Any, output: Tensor, change: Change = change) -> Tensor:
                    # what a change has kept is not the layer's to write to, as Falcon's does
                    return change(output.reshape(len(ids), -1).clone()).clone().view(output.shape)

                hook = (
                    module.register_forward_pre_hook(before)
                    if side == "in"
                    else module.register_forward_hook(after)
                )
                hooks.callback(hook.remove)
            with torch.no_grad():
                logits: Tensor = lm.model(input_ids=ids[None], use_cache=False).logits[0]
        return logits.log_softmax(-1)

    return run


def at(position: int | slice, change: Change) -> Change:
    """``change`` at one position, or some."""

    def changed(states: Tensor) -> Tensor:
        states[position] = change(states[position])
        return states

    return changed


def attributed(
    lm: LanguageModel, example: TokenizedExample, random: torch.Generator, direct: Direct
) -> tuple[Tensor, Tensor]:
    """Neurons of a layer scaled by alpha at one position, where the next token is read."""
    with PackedModel(lm.model, lm.architecture) as model:
        clean = run_clean(lm.model, lm.architecture, example.input_ids, example.answer_start)
        columns = torch.arange(len(clean.positions))
        alphas = {layer: torch.rand(2, len(columns), generator=random) for layer in range(lm.num_layers)}
        made = model.run(clean, columns, alphas)
    found = torch.cat([made[layer].probabilities for layer in alphas])
    expected = [
        direct({(layer, "in"): at(position, lambda states, alpha=alpha: alpha * states)})[position, target]
        for layer, of_layer in alphas.items()
        for row in of_layer
        for position, target, alpha in zip(clean.positions, clean.targets, row, strict=True)
    ]
    return found, torch.stack(expected).exp().view_as(found)


def scaled(
    lm: LanguageModel, example: TokenizedExample, random: torch.Generator, direct: Direct
) -> tuple[Tensor, Tensor]:
    """Sets of neurons in several layers, each by its factor, at all positions from the prompt's last."""
    members = torch.rand(5, lm.num_layers, lm.num_neurons, generator=random) < 0.3
    members[1, 0] = members[2, :-1] = False
    factors = torch.rand(5, generator=random, dtype=torch.float64) * 3
    lowest, order = members.any(2).int().argmax(1).sort(stable=True)
    members, factors, read = members[order], factors[order], example.num_answer_tokens
    with ScalingModel(lm.model, lm.architecture) as model:
        clean = run_clean(lm.model, lm.architecture, example.input_ids, example.answer_start)
        where = torch.ones(len(clean.positions), dtype=torch.bool)
        found = model.log_probs(clean, members, factors, lowest, where, read)
    first = example.answer_start - 1
    expected = []
    for of_row, factor in zip(members, factors, strict=True):
        by = [torch.where(of_layer, factor, 1.0) for of_layer in of_row]
        changes = {
            (layer, "in"): at(slice(first, None), lambda states, one=one: states * one)
            for layer, one in enumerate(by)
        }
        expected.append(direct(changes)[first:].gather(1, example.answer_ids[:, None])[:, 0])
    return found, torch.stack(expected)


def traced(
    lm: LanguageModel, example: TokenizedExample, random: torch.Generator, direct: Direct
) -> tuple[Tensor, Tensor]:
    """The clean output of a window of MLPs at one token, put back into a run with noise on the subject."""
    window = int(torch.randint(1, 6, (), generator=random))
    tracing, subject = Tracing("mlp", window=window, draws=2, answer="whole"), range(1, 2)
    with Tracer(lm, tracing) as tracer:
        found = tracer.one(example, subject).restored_by_draw
    kept: dict[int, Tensor] = {}
    direct(
        {
            (layer, "out"): lambda states, layer=layer: kept.setdefault(layer, states)
            for layer in range(lm.num_layers)
        }
    )
    embedding: nn.Embedding = lm.model.get_input_embeddings()  # type: ignore[assignment]
    noise = draw_noise(0, example.id, 2, 1, embedding.embedding_dim)
    noise *= tracing.noise * embedding_deviation(embedding)
    expected = torch.empty_like(found)
    for draw, of_draw in enumerate(noise):

        def noised(_: nn.Module, args: Any, output: Tensor, of_draw: Tensor = of_draw) -> Tensor:
            output = output.clone()
            output[:, 1] += of_draw[0].to(output)
            return output

        hook = embedding.register_forward_hook(noised)
        for token in range(example.answer_start):
            for layer in range(lm.num_layers):
                changes = {
                    (one, "out"): at(token, lambda states, one=one, token=token: kept[one][token])
                    for one in tracing.restored_layers(layer, lm.num_layers)
                }
                logs = direct(changes)[example.answer_start - 1 :]
                expected[draw, token, layer] = logs.gather(1, example.answer_ids[:, None]).sum().exp()
        hook.remove()
    return found, expected


def edited(
    lm: LanguageModel, example: TokenizedExample, random: torch.Generator, direct: Direct
) -> tuple[Tensor, Tensor]:
    """A delta behind the MLP of one layer at one token of each of two prompts, the second the first one's beginning."""
    ids, start = example.input_ids[:-1], example.answer_start
    prompt = EditPrompt(ids, start - 1, range(start - 1, len(ids)))
    essence = EditPrompt(ids[:start], start - 1, range(start - 1, start))
    deltas = {
        layer: torch.randn(lm.model.config.hidden_size, generator=random, dtype=torch.float64)
        for layer in range(lm.num_layers)
    }
    with frozen_eval(lm.model), EditedLayers(lm.model, lm.architecture) as model, torch.no_grad():
        recorded = record(lm, EditPrompts((prompt,), essence, example.answer_ids))
        found = model.run(recorded, deltas).log_softmax(-1)
    expected = []
    for layer, delta in deltas.items():
        logs = direct({(layer, "out"): at(start - 1, lambda states, delta=delta: states + delta)})
        expected.append(torch.cat([logs[start - 1 :], logs[start - 1 : start]]))
    return found, torch.stack(expected)


def erased(
    lm: LanguageModel, example: TokenizedExample, random: torch.Generator, direct: Direct
) -> tuple[Tensor, Tensor]:
    """Sets of neurons zero at every position, few and many."""
    members = (
        torch.rand(4, lm.num_layers, lm.num_neurons, generator=random)
        < torch.tensor([0.1, 0.3, 0.6, 0.9])[:, None, None]
    )
    members[1, 0] = False
    members[:, -1, 0] = True  # none is empty
    lowest, order = members.any(2).int().argmax(1).sort(stable=True)
    members, ids = members[order], example.input_ids[:-1]
    read = torch.arange(example.answer_start - 1, len(ids))
    with ErasingModel(lm) as model, torch.no_grad():
        clean, logits = model.clean(ids[None], read, sorted(set(lowest.tolist())), keeps=True)
        found = torch.cat([logits[None], model.erased(clean, members, lowest.tolist(), keeps=True)[1]])
    expected = [direct({})[read]]
    for of_row in members:
        changes = {
            (layer, "in"): lambda states, out=out: states.masked_fill(out, 0)
            for layer, out in enumerate(of_row)
        }
        expected.append(direct(changes)[read])
    return found.log_softmax(-1), torch.stack(expected)


METHODS: dict[str, Method] = {
    "attribution": attributed, "scaling": scaled, "tracing": traced, "editing": edited, "evaluation": erased,
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    shape=st.tuples(st.integers(1, 4), st.sampled_from([(2, 1), (4, 2), (4, 4)]), st.integers(2, 9)),
    prompt=st.integers(2, 9),
    answer=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_rows_equal_plain_runs(
    name: str, family: str, shape: tuple[int, tuple[int, int], int], prompt: int, answer: int, seed: int
) -> None:
    layers, heads, sliding = shape
    lm = small_model(family, torch.float64, (layers, *heads, sliding))
    example = random_example(prompt, answer, seed)
    random = torch.Generator().manual_seed(seed)
    with in_float64():
        found, expected = METHODS[name](lm, example, random, direct_runs(lm, example.input_ids[:-1]))
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= 1e-12
    assert not any(
        "forward" in vars(module) for module in lm.model.modules() if "RMSNorm" not in type(module).__name__
    )
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_windows_that_begin_together_share_their_rows() -> None:
    """Windows of ten (ROME's) in twelve layers, whose rows would otherwise cost two thirds more than windows of one."""
    lm, example = small_model("llama", torch.float32, (12, 2, 2, 5)), random_example(12, 1)

    def operations(window: int) -> int:
        with (
            Tracer(lm, Tracing("mlp", window=window, draws=4)) as tracer,
            FlopCounterMode(display=False) as counter,
        ):
            tracer.one(example, range(1, 3))
        return counter.get_total_flops()

    assert operations(10) < 1.35 * operations(1)
    assert operations(60) < 0.5 * operations(1)  # all windows are one


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_weight_by_input(family: str) -> None:
    """One place knows that nn.Linear stores [outputs, inputs] and GPT-2's Conv1D [inputs, outputs]."""
    model = make_model(CONFIGS[family](2, 4, 2, 5), torch.float64)
    projection = ARCHITECTURES[family].mlp_out_of(ARCHITECTURES[family].decoder_layers(model)[0])
    weight = weight_by_input(projection)
    states = torch.randn(3, len(weight), dtype=torch.float64)
    bias = 0 if getattr(projection, "bias", None) is None else projection.bias
    torch.testing.assert_close(projection(states), states @ weight + bias)
    assert projection.weight.shape[input_axis(projection)] == len(weight)


def test_a_projection_of_another_kind_is_refused() -> None:
    with pytest.raises(
        ModelError, match="a projection is a Bilinear, not a plain linear layer; merge adapters"
    ):
        input_axis(nn.Bilinear(2, 2, 2))
