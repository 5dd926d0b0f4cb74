"""Causal tracing equals runs of the whole sequence with one hook a state, for every family, and refuses the others."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.errors import ExampleError, ModelError
from caploc.examples import TokenizedExample
from caploc.locators.causal_tracing.trace import Trace, Tracing, draw_noise, embedding_deviation
from caploc.locators.causal_tracing.tracer import Tracer
from caploc.model.loading import LanguageModel
from caploc.rows.model import RowModel
from caploc.tests.attribution.families import CONFIGS, in_float64
from caploc.tests.attribution.test_exactness import random_example, relative_error, small_model
from caploc.tests.oracles.causal_tracing import reference_trace

KINDS = ["hidden", "mlp", "attention"]
SUBJECT = range(2, 4)


def traced(lm: LanguageModel, example: TokenizedExample, tracing: Tracing, subject: range = SUBJECT) -> Trace:
    with Tracer(lm, tracing) as tracer:
        return tracer.one(example, subject)


def oracle(
    lm: LanguageModel, example: TokenizedExample, tracing: Tracing, subject: range = SUBJECT
) -> torch.Tensor:
    embedding = lm.model.get_input_embeddings()
    noise = draw_noise(tracing.seed, example.id, tracing.draws, len(subject), embedding.embedding_dim)
    scaled = tracing.noise * embedding_deviation(embedding) * noise
    return reference_trace(lm, example.input_ids, example.answer_start, subject, scaled, tracing)


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("kind", KINDS)
def test_equals_runs_of_the_whole_sequence(family: str, kind: str) -> None:
    """In float32, the whole answer too: longer than the sliding window, with grouped key heads, layers cut into
    passes."""
    lm, example = small_model(family, torch.float32), random_example(5, 3)
    for answer in ("first", "whole"):
        tracing = Tracing(kind, draws=2, answer=answer, chunk_tokens=30)
        found, expected = traced(lm, example, tracing).restored_by_draw, oracle(lm, example, tracing)
        assert found.shape == (2, 5, 3)
        assert (found - expected).abs().max() <= 1e-6
        assert relative_error(found, expected) <= 1e-5


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    kind=st.sampled_from(KINDS),
    layers=st.integers(1, 4),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    sliding=st.integers(2, 12),
    prompt=st.integers(1, 9),
    answer=st.integers(1, 3),
    window=st.integers(1, 5),
    draws=st.integers(1, 3),
    chunk=st.integers(1, 120),
    data=st.data(),
)
def test_equals_them_whatever_the_shape(
    family: str, kind: str, layers: int, heads: tuple[int, int], sliding: int, prompt: int, answer: int, window: int,
    draws: int, chunk: int, data: st.DataObject,
) -> None:  # fmt: skip
    lm = small_model(family, torch.float64, (layers, *heads, sliding))
    example = random_example(prompt, answer, seed=prompt)
    start = data.draw(st.integers(0, prompt - 1), label="subject start")
    subject = range(start, data.draw(st.integers(start + 1, prompt), label="subject stop"))
    tracing = Tracing(
        kind,
        window=1 if kind == "hidden" else window,
        draws=draws,
        answer=data.draw(st.sampled_from(["first", "whole"]), label="answer"),
        chunk_tokens=chunk,
    )
    with in_float64():
        found = traced(lm, example, tracing, subject)
        error = relative_error(found.restored_by_draw, oracle(lm, example, tracing, subject))
    assert error <= 1e-12
    assert torch.equal(
        found.restored_by_draw[:, :start], found.corrupted[:, None, None].expand(-1, start, layers)
    )


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_the_ends_of_the_trace(family: str) -> None:
    """What the definition says without any oracle: all noise undone is the clean run, what nobody reads the corrupted
    one."""
    lm, example = small_model(family, torch.float64), random_example(7, 1)
    with in_float64():
        one_token = traced(lm, example, Tracing("hidden", draws=4), range(3, 4))
        last = traced(lm, example, Tracing("hidden", draws=4))
    assert (one_token.restored_by_draw[:, :3] == one_token.corrupted[:, None, None]).all()
    # the last token's state behind the last layer decides the prediction
    torch.testing.assert_close(
        last.restored_by_draw[:, -1, -1],
        torch.full((4,), last.clean, dtype=torch.float64),
        rtol=1e-6,
        atol=0,
    )
    assert (last.restored_by_draw[:, :-1, -1] == last.corrupted[:, None]).all()
    assert last.clean != pytest.approx(float(last.corrupted.mean()), rel=1e-3)
    torch.testing.assert_close(last.restored, last.restored_by_draw.mean(0))
    torch.testing.assert_close(
        last.spread**2,
        (last.restored_by_draw**2).mean(0) - last.restored_by_draw.mean(0) ** 2,
        rtol=1e-6,
        atol=1e-12,
    )


def test_only_the_layer_that_has_an_mlp_restores() -> None:
    """A planted model: all MLPs but one put out nothing, so that restoring them changes nothing."""
    lm, example = small_model("llama", torch.float64, (4, 2, 2, 5)), random_example(8, 1)
    for index in (0, 2, 3):
        lm.architecture.mlp_out_of(lm.layers[index]).weight.data.zero_()
    trace = traced(lm, example, Tracing("mlp", draws=3))
    change = (trace.restored_by_draw - trace.corrupted[:, None, None]).abs().amax((0, 1))
    assert (change[[0, 2, 3]] < 1e-15).all() and change[1] > 1e-5
    windowed = traced(lm, example, Tracing("mlp", window=2, draws=3))
    # windows of two: layer l and the one below
    torch.testing.assert_close(windowed.restored[:, 1], trace.restored[:, 1], rtol=1e-12, atol=0)
    torch.testing.assert_close(windowed.restored[:, 2], trace.restored[:, 1], rtol=1e-12, atol=0)


def test_windows_are_cut_to_the_model() -> None:
    one, even, odd = Tracing("mlp"), Tracing("mlp", window=4), Tracing("mlp", window=3)
    assert [list(one.restored_layers(layer, 3)) for layer in range(3)] == [[0], [1], [2]]
    assert [list(even.restored_layers(layer, 5)) for layer in (0, 2, 4)] == [[0, 1], [0, 1, 2, 3], [2, 3, 4]]
    assert [list(odd.restored_layers(layer, 5)) for layer in (0, 2, 4)] == [[0, 1], [1, 2, 3], [3, 4]]


def test_draws_belong_to_the_example_and_not_to_the_run() -> None:
    lm, example = small_model("llama", torch.float64), random_example(6, 1)
    few, many = (traced(lm, example, Tracing(draws=draws)) for draws in (2, 5))
    torch.testing.assert_close(many.restored_by_draw[:2], few.restored_by_draw, rtol=1e-12, atol=0)
    again = traced(lm, example, Tracing(draws=2))
    assert torch.equal(again.restored_by_draw, few.restored_by_draw)
    other = traced(lm, example, Tracing(draws=2, seed=1))
    assert not torch.allclose(other.corrupted, few.corrupted)
    renamed = TokenizedExample(example.input_ids, example.answer_start, "another")
    assert not torch.allclose(traced(lm, renamed, Tracing(draws=2)).corrupted, few.corrupted)


def test_noise_is_in_units_of_the_embeddings() -> None:
    lm, example = small_model("llama", torch.float64), random_example(6, 1)
    embedding = lm.model.get_input_embeddings()
    deviation = embedding.weight.std(correction=0).item()
    assert embedding_deviation(embedding) == pytest.approx(deviation, rel=1e-12)
    settings = traced(lm, example, Tracing(noise=2.0)).settings
    assert settings["deviation"] == pytest.approx(2 * deviation) and settings["noise"] == 2.0
    noise = draw_noise(0, "x", 40, 5, 200)
    assert noise.std() == pytest.approx(1, abs=0.02) and noise.mean() == pytest.approx(0, abs=0.02)
    gemma = small_model("gemma3_text", torch.float64).model.get_input_embeddings()
    assert embedding_deviation(gemma) == pytest.approx(
        gemma.weight.std(correction=0).item() * 32**0.5, rel=1e-6
    )


def test_says_whether_the_answer_is_on_top() -> None:
    lm, example = small_model("llama", torch.float64), random_example(6, 2)
    with torch.no_grad():
        logits = lm.model(input_ids=example.input_ids[None, :6]).logits[0, -1]
    first = int(logits.argmax())
    known = TokenizedExample(
        torch.cat([example.input_ids[:6], torch.tensor([first]), example.input_ids[7:]]), 6, "known"
    )
    trace = traced(lm, known, Tracing(draws=6, noise=30.0))
    assert trace.clean_is_top and trace.clean == pytest.approx(float(logits.softmax(-1)[first]), rel=1e-9)
    assert trace.corrupted_is_top.shape == (6,) and not trace.corrupted_is_top.all()
    assert not traced(lm, example, Tracing(draws=1)).clean_is_top


def test_bfloat16_is_close_to_float32() -> None:
    example = random_example(9, 2)
    wide = traced(small_model("llama", torch.float32), example, Tracing("mlp"))
    narrow = traced(small_model("llama", torch.bfloat16), example, Tracing("mlp"))
    assert relative_error(narrow.restored, wide.restored) < 0.1


@pytest.mark.parametrize("ignored", ["positions", "mask"])
def test_refuses_a_model_that_ignores_what_it_is_given(ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Families like that exist: GPT-Neo has its own mask. Llama is made one here. It is seen on entering, and were it
    not, at every example."""
    lm = small_model("llama", torch.float32)
    if ignored == "positions":
        rotary = lm.model.model.rotary_emb
        inner = rotary.forward
        rotary.forward = lambda states, position_ids: inner(states, position_ids - position_ids[:, :1])
    else:
        for layer in lm.layers:
            layer.self_attn.register_forward_pre_hook(
                lambda _, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
            )
    for example in ("probe", "random"):
        match = rf"does not reproduce this model: at example '{example}'.* differs by"
        with pytest.raises(ModelError, match=match) as caught:
            traced(lm, random_example(12, 2), Tracing("mlp", draws=2))
        assert "\n" not in str(caught.value)
        monkeypatch.setattr(RowModel, "_show", lambda self: None)


def test_refuses_a_model_of_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small_model("llama", torch.float32)
    lm.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    for example in ("probe", "random"):
        with pytest.raises(ModelError, match=rf"example '{example}': .* not numbers \(nan\)"):
            traced(lm, random_example(5, 1), Tracing("mlp", draws=2))
        monkeypatch.setattr(RowModel, "_show", lambda self: None)


@pytest.mark.parametrize("subject", [range(0), range(3, 7), range(1, 4, 2)])
def test_refuses_a_subject_outside_of_the_prompt(subject: range) -> None:
    with pytest.raises(
        ExampleError, match=r"'random': the subject's tokens .* are no part of the prompt's 6"
    ):
        traced(small_model("llama", torch.float32), random_example(6, 1), Tracing(), subject)


@pytest.mark.parametrize("kind", KINDS)
def test_leaves_the_model_as_it_was_even_after_an_exception(kind: str) -> None:
    lm, example = small_model("llama", torch.float64), random_example(6, 2)
    lm.model.train()
    weights = {name: parameter.clone() for name, parameter in lm.model.named_parameters()}
    forwards = [layer.forward for layer in lm.layers]
    calls = []

    def broken(*args: object) -> None:
        calls.append(1)
        if len(calls) == 7:  # in the middle of the restored runs
            raise RuntimeError("stopped halfway")

    handle = lm.model.get_output_embeddings().register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="halfway"):
        traced(lm, example, Tracing(kind, draws=2))
    handle.remove()
    assert all(module.training for module in lm.model.modules())
    assert all(parameter.requires_grad for parameter in lm.model.parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in lm.model.named_parameters())
    assert [layer.forward for layer in lm.layers] == forwards
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def test_a_layer_that_was_wrapped_before_stays_wrapped() -> None:
    """accelerate and others put a forward of their own on a layer."""
    lm, example, tracing = small_model("llama", torch.float64), random_example(5, 1), Tracing(draws=2)
    plain = traced(lm, example, tracing).restored_by_draw
    layer = lm.layers[1]
    inner, calls = layer.forward, []

    def wrapped(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return inner(*args, **kwargs)

    layer.forward = wrapped
    assert torch.equal(traced(lm, example, tracing).restored_by_draw, plain) and calls
    assert layer.forward is wrapped
