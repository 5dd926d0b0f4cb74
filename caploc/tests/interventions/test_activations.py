"""Scaled activations: the batch of rows and the context manager equal one plain run for every set of neurons."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from caploc.architectures import Architecture, input_axis, weight_by_input
from caploc.errors import ModelError, OptionError
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.interventions.activations import rewritten, scaled
from caploc.interventions.scaling import AnswerLogProbs, Positions, Scaling, probabilities
from caploc.interventions.weights import replaced_weights
from caploc.model.loading import LanguageModel, wrap
from caploc.neurons import NeuronMask
from caploc.rows.model import RowModel
from caploc.tests.attribution.families import CONFIGS, gpt_neo_config, in_float64, make_model
from caploc.tests.attribution.test_exactness import random_example, small_model
from caploc.tests.tiny import NEURONS, SHAPE, tiny_lm

FACTORS = (0.0, 2.0, -1.0, 0.5)


def direct(
    lm: LanguageModel, example: TokenizedExample, members: Tensor, factor: float, tokens: slice
) -> Tensor:
    """``[Y]`` log P of the answer's tokens in one run of the whole sequence: the oracle."""

    def multiply(chosen: Tensor, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        states = args[0].clone().reshape(-1, len(chosen))
        for token in range(len(states))[tokens]:
            for neuron in chosen.nonzero().ravel().tolist():
                states[token, neuron] *= factor
        return (states.reshape(args[0].shape),)

    with ExitStack() as stack, torch.no_grad():
        for layer, chosen in zip(lm.layers, members, strict=True):
            module = lm.architecture.mlp_out_of(layer)
            stack.callback(module.register_forward_pre_hook(partial(multiply, chosen)).remove)
        logits = lm.model(input_ids=example.input_ids[None, :-1], use_cache=False).logits[0]
    log_probs = logits[example.answer_start - 1 :].log_softmax(-1)
    return torch.stack([row[token] for row, token in zip(log_probs, example.answer_ids, strict=True)])


def tokens_of(example: TokenizedExample, positions: Positions) -> slice:
    last = example.answer_start
    return {"last": slice(last - 1, last), "prompt": slice(0, last), "all": slice(None)}[positions]


def random_masks(count: int, layers: int, share: float, seed: int) -> Tensor:
    """Sets that begin in different layers, the first of them empty."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, layers, NEURONS, generator=generator) < share
    for row in range(count):
        masks[row, : row % (layers + 1)] = False
    masks[0] = False
    return masks


def measured(
    lm: LanguageModel, example: TokenizedExample, *args: Any, chunk: int | None = None
) -> AnswerLogProbs:
    with Scaling(lm, chunk) as scaling:
        return scaling.log_probs(example, *args)


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    layers=st.integers(1, 4),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (4, 4)]),
    window=st.integers(2, 12),
    prompt=st.integers(1, 12),
    answer=st.integers(1, 5),
    share=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    positions=st.sampled_from(["last", "prompt", "all"]),
    chunk=st.integers(1, 100),
    seed=st.integers(0, 9),
)
def test_rows_equal_plain_runs(
    family: str, layers: int, heads: tuple[int, int], window: int, prompt: int, answer: int, share: float,
    positions: Positions, chunk: int, seed: int,
) -> None:  # fmt: skip
    lm = small_model(family, torch.float64, (layers, *heads, window))
    example, masks = random_example(prompt, answer, seed), random_masks(6, layers, share, seed)
    factors = [FACTORS[(row + seed) % 4] for row in range(len(masks))]
    with in_float64():
        found = measured(lm, example, masks, factors, positions, chunk=chunk)
        expected = [
            direct(lm, example, members, factor, tokens_of(example, positions))
            for members, factor in zip(masks, factors, strict=True)
        ]
        clean = direct(lm, example, masks[0], 1.0, slice(0, 0))
    assert (found.log_probs - torch.stack(expected)).abs().max() <= 1e-10
    assert (found.clean - clean).abs().max() <= 1e-12 and found.rounding <= 1e-10


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_float32_is_enough(family: str) -> None:
    lm, example, masks = small_model(family, torch.float32), random_example(9, 4), random_masks(12, 3, 0.1, 0)
    factors = [2.0, 0.0] * 6
    found = measured(lm, example, masks, factors)
    expected = torch.stack(
        [direct(lm, example, *pair, tokens_of(example, "last")) for pair in zip(masks, factors, strict=True)]
    ).double()
    assert (found.log_probs.exp() - expected.exp()).abs().max() <= 1e-6
    assert (found.log_probs - expected).abs().max() <= 1e-5
    assert (found.probability - expected.sum(1).exp()).abs().max() <= 1e-6
    assert torch.allclose(found.change, (expected - found.clean).mean(1), atol=1e-5)
    assert found.change.abs().max() > 0.01


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2", "opt"])
def test_the_context_manager_equals_plain_runs(family: str) -> None:
    """A set, a factor and a token for each row of a batch; one for all rows; every token."""
    lm, masks = small_model(family, torch.float64), random_masks(4, 3, 0.2, 1)
    example = random_example(8, 3)
    batch, answer = example.input_ids[None, :-1].repeat(4, 1), example.answer_ids.expand(4, -1)[..., None]
    tokens, factors = [7, 2, 7, -1], [2.0, 0.0, 0.5, 0.0]

    def expected(rows: list[tuple[Tensor, float, slice]]) -> Tensor:
        return torch.stack([direct(lm, example, *row) for row in rows])

    def found() -> Tensor:
        with torch.no_grad():
            return lm.model(input_ids=batch).logits[:, 7:].log_softmax(-1).gather(-1, answer)[..., 0]

    plain = found()
    with scaled(lm, [NeuronMask(one) for one in masks], factors, at=tokens):
        each = found()
    with scaled(lm, NeuronMask(masks[2]), 2.0, at=7):
        same = found()
    with scaled(lm, masks, 0.0, at=None):
        everywhere = found()
    slices = [slice(7, 8), slice(2, 3), slice(7, 8), slice(9, 10)]
    for outcome, rows in (
        (each, list(zip(masks, factors, slices, strict=True))),
        (same, [(masks[2], 2.0, slice(7, 8))] * 4),
        (everywhere, [(one, 0.0, slice(None)) for one in masks]),
    ):
        assert torch.allclose(outcome, expected(rows), rtol=0, atol=1e-12)
    assert torch.equal(found(), plain) and not torch.allclose(each, plain, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(["llama", "gptj", "gpt2", "opt"]),
    factor=st.sampled_from(FACTORS),
    stopped=st.integers(0, 2),
    rows=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_model_comes_back_bit_for_bit(
    family: str, factor: float, stopped: int, rows: bool, seed: int
) -> None:
    """Whatever layer an exception comes from."""
    lm, example = small_model(family, torch.float32), random_example(5, 2, seed)
    weights = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    forwards = [layer.forward for layer in lm.layers]
    plain = lm.model(input_ids=example.input_ids[None]).logits
    masks = random_masks(3, 3, 0.5, seed)

    def broken(*args: object) -> None:
        raise RuntimeError("stopped halfway")

    attention = lm.layers[stopped].get_submodule(lm.architecture.attention_out)
    handle = attention.register_forward_pre_hook(broken)
    with suppress(RuntimeError):
        if rows:
            measured(lm, example, masks, factor)
        else:
            with scaled(lm, masks, factor):
                lm.model(input_ids=example.input_ids[None].expand(3, -1))
        raise AssertionError("the exception was swallowed")
    handle.remove()
    assert all(torch.equal(weight, weights[name]) for name, weight in lm.model.state_dict().items())
    assert [layer.forward for layer in lm.layers] == forwards
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in lm.model.modules())
    assert torch.equal(lm.model(input_ids=example.input_ids[None]).logits, plain)


def test_nothing_scaled_is_exactly_the_clean_run() -> None:
    """Empty sets and factor 1: no rounding may pass for an effect."""
    lm, example = small_model("llama", torch.float32), random_example(7, 3)
    empty = torch.zeros(2, 3, NEURONS, dtype=torch.bool)
    for found in (
        measured(lm, example, empty, 0.0),
        measured(lm, example, ~empty, 1.0),
        measured(lm, example, NeuronMask(empty[0]), 2.0),
    ):
        assert torch.equal(found.log_probs, found.clean.expand_as(found.log_probs))
        assert not found.change.any() and (found.probability == found.clean.sum().exp()).all()
    assert found.log_probs.shape == (1, 3) and found.log_probs.dtype == torch.float64


def test_a_row_costs_its_tokens_in_the_layers_that_it_reaches() -> None:
    lm, example = small_model("llama", torch.float32, (4, 4, 2, 5)), random_example(30, 1)
    masks = torch.zeros(9, 4, NEURONS, dtype=torch.bool)
    for row in range(9):
        masks[row, row % 3 + 1, row] = True  # three sets begin at each of layers 1 to 3
    seen: list[int] = []
    with Scaling(lm) as scaling:
        handle = lm.layers[3].mlp.down_proj.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].shape[0] * args[0].shape[1])
        )
        scaling.log_probs(example, masks, 2.0)
        handle.remove()
    # the clean run; the row of the self-check and those that began at 1 and 2; those that begin here, as one
    assert seen == [30, 1 + 6, 1]


def test_one_example_by_its_text() -> None:
    lm, example = tiny_lm(), Example("e", "a man", " walks")
    mask = NeuronMask(random_masks(2, SHAPE[0], 0.3, 0)[1])
    found = probabilities(lm, example, mask, 0, answer_tokens=2)
    tokenized = tokenize(lm, example, answer_tokens=2)
    assert torch.equal(found.log_probs, measured(lm, tokenized, mask, 0.0).log_probs)
    assert found.log_probs.shape == (1, 2)


def test_refuses_a_model_it_cannot_reproduce(monkeypatch: pytest.MonkeyPatch) -> None:
    """On entering it, and were that check blind, at every example."""
    neo = Architecture(
        "gpt_neo", "transformer.h", ("mlp.c_fc",), "mlp.act", "mlp.c_proj", "attn.attention.out_proj"
    )
    model = make_model(gpt_neo_config(), torch.float64)
    lm = wrap("neo", model, None, neo)  # type: ignore[arg-type]
    masks = torch.ones(1, lm.num_layers, lm.num_neurons, dtype=torch.bool)
    for example in ("probe", "random"):
        with pytest.raises(ModelError, match=f"does not reproduce this model: at example '{example}'"):
            measured(lm, random_example(12, 6), masks, 0.0)
        monkeypatch.setattr(RowModel, "_show", lambda self: None)


MASK = torch.ones(2, SHAPE[0], NEURONS, dtype=torch.bool)
BAD = {
    r"no masks to intervene with": ([], 2.0),
    r"bool of shape \(2, 20\) to fit tiny-llama, got bool of \(2, 19\)": (MASK[..., :-1], 2.0),
    r"bool of shape \(2, 20\) to fit tiny-llama, got float32": (MASK.float(), 2.0),
    r"2 masks need one factor or 2, got 3": (MASK, [1.0, 2.0, 3.0]),
    r"factor must be a finite number, got nan": (MASK, float("nan")),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_masks_and_factors_are_refused_before_any_work(message: str) -> None:
    lm, (masks, factor) = tiny_lm(), BAD[message]
    with pytest.raises(OptionError, match=message), scaled(lm, masks, factor):
        pass
    with pytest.raises(OptionError, match=message):
        probabilities(lm, Example("e", "a", "b"), masks, factor)


def test_calls_that_do_not_fit_the_masks_are_refused() -> None:
    lm, ids = tiny_lm(), torch.full((3, 4), 5)
    with (
        pytest.raises(OptionError, match=r"2 masks were given to scaled\(\) for a batch of 3"),
        scaled(lm, MASK, 0),
    ):
        lm.model(input_ids=ids)
    with (
        pytest.raises(OptionError, match=r"2 masks were given to rewritten\(\) for a batch of 3"),
        rewritten(lm, MASK, torch.zeros(1, 32)),
    ):
        lm.model(input_ids=ids)
    expected = r"scaled\(\) was to act on tokens \[4\], but the call has 4"
    with pytest.raises(OptionError, match=expected), scaled(lm, MASK[:1], 0, at=4):
        lm.model(input_ids=ids)
    with pytest.raises(OptionError, match="2 token indices were given"), scaled(lm, MASK[:1], 0, at=[0, 1]):
        lm.model(input_ids=ids)
    with pytest.raises(OptionError, match="unknown positions 'first'; choose one of last, prompt, all"):
        probabilities(lm, Example("e", "a", "b"), MASK, 0, positions="first")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="chunk_tokens must be at least 1, got 0"):
        Scaling(lm, 0)


def test_numbers_that_are_none_are_an_error() -> None:
    lm = tiny_lm()
    with pytest.raises(
        ModelError, match=r"example 'e': scaled activations make tiny-llama give .* not finite"
    ):
        probabilities(lm, Example("e", "a", "b"), MASK, 1e300)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_rewritten_neurons_equal_changed_weights(family: str) -> None:
    """Each row of a batch with neurons and a vector of its own, against one run each with other weights."""
    lm = small_model(family, torch.float64)
    masks, width = random_masks(3, 3, 0.3, 5), lm.model.get_output_embeddings().weight.shape[1]
    added = torch.randn(3, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ids = torch.stack([random_example(7, 1, seed).input_ids for seed in range(3)])
    with in_float64(), torch.no_grad():
        plain = lm.model(input_ids=ids, use_cache=False).logits
        with rewritten(lm, masks, added):
            found = lm.model(input_ids=ids, use_cache=False).logits
        for row in range(3):
            weights = {}
            for layer, chosen in zip(lm.layers, masks[row], strict=True):
                parameter = lm.architecture.mlp_out_of(layer).weight
                name = next(name for name, one in lm.model.named_parameters() if one is parameter)
                by_input = weight_by_input(lm.architecture.mlp_out_of(layer)).clone()
                by_input[chosen] += added[row]
                transposed = input_axis(lm.architecture.mlp_out_of(layer)) == 1
                weights[name] = by_input.T.contiguous() if transposed else by_input
            with replaced_weights(lm, weights):
                expected = lm.model(input_ids=ids[row : row + 1], use_cache=False).logits[0]
            assert (found[row] - expected).abs().max() <= 1e-11
        assert torch.equal(lm.model(input_ids=ids, use_cache=False).logits, plain)
    assert torch.equal(found[0], plain[0]) and (found[1:] - plain[1:]).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 32), r"shape \(1 or 3, 32\) to fit tiny-llama, got \(2, 32\)"),
        ((1, 31), r"got \(1, 31\)"),
        ((32,), r"got \(32,\)"),
    ],
)
def test_what_neurons_cannot_write_is_told(shape: tuple[int, ...], message: str) -> None:
    with (
        pytest.raises(OptionError, match=message),
        rewritten(tiny_lm(), random_masks(3, 2, 0.3, 5), torch.zeros(shape)),
    ):
        pass
