"""A model taken apart is the model; with edges pruned it is what the Hugging Face model computes head by head."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.circuits import DecomposedModel
from caploc.errors import ModelError, OptionError
from caploc.model.loading import wrap
from caploc.tests.attribution.families import CONFIGS, make_model
from caploc.tests.circuits.models import SUPPORTED, attention_in_its_dtype, random_example, small_model
from caploc.tests.oracles.circuits import Oracle
from caploc.tests.tiny import tokenizer


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("family", SUPPORTED)
def test_with_all_edges_it_is_the_model(family: str, dtype: torch.dtype, bound: float) -> None:
    """Prompts are longer than the windows of mistral, qwen2 and gpt_neo."""
    lm, example = small_model(family, dtype, layers=3), random_example(9, 3)
    model = DecomposedModel(lm)
    with attention_in_its_dtype(), torch.no_grad():
        prompt = model.prompt(example)
        expected = lm.model(input_ids=example.input_ids[None, :-1]).logits[:, -3:]
        found = model.run(prompt, torch.from_numpy(model.graph.possible).repeat(2, 1, 1))
        flow = model.flow(prompt, prompt.embedded[None])
    for logits in (found[:1], found[1:], flow.logits):
        assert float((logits - expected).abs().max() / expected.abs().max()) <= bound
    log_probs = expected[0].log_softmax(-1).gather(1, example.answer_ids[:, None])
    assert prompt.log_prob == pytest.approx(float(log_probs.mean()), abs=10 * bound)


@pytest.mark.parametrize("mean", [False, True], ids=["zero", "mean"])
@pytest.mark.parametrize("family", SUPPORTED)
@settings(max_examples=4, deadline=None)
@given(st.data())
def test_with_edges_pruned_it_is_the_oracle(family: str, mean: bool, data: st.DataObject) -> None:
    heads, groups = data.draw(st.sampled_from([(2, 1), (2, 2), (4, 2)]))
    seed = data.draw(st.integers(0, 99))
    share = data.draw(st.sampled_from([0.0, 0.3, 0.8]))
    lm = small_model(family, layers=data.draw(st.integers(1, 2)), heads=heads, groups=groups, seed=seed)
    example = random_example(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 2)), seed)
    generator = torch.Generator().manual_seed(seed)
    graph = DecomposedModel(lm).graph
    means = torch.randn(graph.senders, 8 * heads, generator=generator, dtype=torch.float64) if mean else None
    model = DecomposedModel(lm, means)
    possible = torch.from_numpy(graph.possible)
    kept = (torch.rand(3, *possible.shape, generator=generator) < share) & possible
    with attention_in_its_dtype(), torch.no_grad():
        found = model.run(model.prompt(example), kept)
        oracle = Oracle(lm, example)
        for circuit, logits in zip(kept, found, strict=True):
            _, expected = oracle.run(circuit.double(), ablation=means)
            torch.testing.assert_close(logits, expected[-example.num_answer_tokens :], rtol=0, atol=1e-10)


def test_the_senders_outputs_and_biases_are_the_oracles() -> None:
    """GPT-2 has biases everywhere: those of output projections belong to no sender."""
    lm, example = small_model("gpt2"), random_example(5, 2)
    model = DecomposedModel(lm)
    prompt = model.prompt(example)
    with torch.no_grad():
        outputs, _ = Oracle(lm, example).run(torch.ones(model.graph.possible.shape, dtype=torch.float64))
    last = model.graph.heads_of(1).start
    torch.testing.assert_close(prompt.deviations[:last], torch.stack(outputs[:last]), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        prompt.deviations[last:, -2:], torch.stack(outputs[last:])[:, -2:], rtol=0, atol=1e-12
    )
    assert not prompt.deviations[last:, :-2].any()


def test_a_layer_that_computes_something_else_is_seen_by_the_self_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = small_model("llama")
    model = DecomposedModel(lm)
    monkeypatch.setattr(lm.layers[1].mlp, "forward", torch.zeros_like)
    with pytest.raises(
        ModelError, match="taken apart, model 'small-llama' gives other logits than as a whole"
    ):
        model.prompt(random_example())


@pytest.mark.parametrize("family", ["phi", "qwen3", "opt"])
def test_other_families_are_refused_in_one_line(family: str) -> None:
    lm = wrap("other", make_model(CONFIGS[family](2, 4, 2, 5), torch.float32), tokenizer())
    with pytest.raises(
        ModelError, match=f"^circuits are not supported for model family '{family}'; use one of llama, .*$"
    ):
        DecomposedModel(lm)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ModelError, match="float32 or float64, not bfloat16"):
        DecomposedModel(small_model("llama", torch.bfloat16))


def test_means_of_another_shape_are_refused() -> None:
    with pytest.raises(OptionError, match=r"means must be \[senders, width\] = \[11, 32\], got \[3, 32\]"):
        DecomposedModel(small_model("llama"), torch.zeros(3, 32))
