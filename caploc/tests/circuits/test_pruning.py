"""Exact pruning leaves the circuit of one forward pass an edge, whatever is guessed ahead; what thresholds promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.circuits import (
    Circuit,
    DecomposedModel,
    Prompt,
    edge_score,
    edge_score_as_printed,
    prune,
    prune_to,
)
from caploc.circuits.pruning import LOWEST, RESOLUTION, Downstream
from caploc.errors import ExampleError, OptionError
from caploc.tests.circuits.models import SUPPORTED, random_example, small_model
from caploc.tests.oracles.circuits import Oracle, prune_directly

SHAPES = st.sampled_from([(1, 2, 1), (2, 2, 2), (2, 4, 2), (3, 2, 1)])
THRESHOLDS = st.sampled_from([-math.inf, -0.01, 0.0, 1e-4, 0.001, 0.01, 0.1, 1.0, math.inf])


def _case(
    family: str, shape: tuple[int, int, int] = (2, 4, 2), tokens: int = 5, answer: int = 1, seed: int = 0
) -> tuple[DecomposedModel, Prompt]:
    model = DecomposedModel(small_model(family, torch.float64, *shape, seed=seed))
    return model, model.prompt(random_example(tokens, answer, seed))


def _log_prob(model: DecomposedModel, prompt: Prompt, circuit: Circuit) -> float:
    return float(model.log_probs(prompt, model.run(prompt, torch.from_numpy(circuit.matrix)[None])))


@pytest.mark.parametrize("family", SUPPORTED)
@settings(max_examples=6, deadline=None)
@given(
    SHAPES,
    st.integers(1, 6),
    st.integers(1, 2),
    THRESHOLDS,
    st.sampled_from([1, 2, 7, 1000, None]),
    st.integers(0, 999),
)
def test_it_leaves_the_circuit_of_one_forward_pass_an_edge(
    family: str,
    shape: tuple[int, int, int],
    tokens: int,
    answer: int,
    threshold: float,
    batch: int | None,
    seed: int,
) -> None:
    model, prompt = _case(family, shape, tokens, answer, seed)
    found = prune(model, [prompt], threshold, batch)
    expected = prune_directly(model, [prompt], threshold)
    assert torch.equal(found.circuit.values, expected.values)
    assert found.left == pytest.approx(_log_prob(model, prompt, expected), abs=1e-10)


@pytest.mark.parametrize("family", ["llama", "gptj"])
@pytest.mark.parametrize("threshold", [0.0, 0.01])
def test_several_prompts_and_means_too(family: str, threshold: float) -> None:
    lm = small_model(family)
    means = torch.randn(11, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4
    model = DecomposedModel(lm, means)
    prompts = [model.prompt(random_example(*size, seed=seed)) for seed, size in enumerate([(4, 1), (6, 2)])]
    found = prune(model, prompts, threshold)
    assert torch.equal(found.circuit.values, prune_directly(model, prompts, threshold).values)
    assert found.whole == pytest.approx(np.mean([prompt.log_prob for prompt in prompts]))
    assert found.left == pytest.approx(
        np.mean([_log_prob(model, prompt, found.circuit) for prompt in prompts]), abs=1e-10
    )
    assert 0 < found.circuit.count < model.graph.edges


def test_it_leaves_the_circuit_of_the_hugging_face_model() -> None:
    """The direct way once more, on the oracle's forward pass instead of the decomposed one."""
    lm, example = small_model("llama", layers=1, heads=2, groups=1), random_example(4)
    model = DecomposedModel(lm)
    oracle, graph = Oracle(lm, example), model.graph
    kept = torch.from_numpy(graph.possible).double()
    with torch.no_grad():
        current = float(oracle.log_prob(oracle.run(kept)[1]))
        for receiver in reversed(range(graph.receivers)):
            for sender in reversed(range(graph.seen[receiver])):
                kept[receiver, sender] = 0
                ablated = float(oracle.log_prob(oracle.run(kept)[1]))
                if edge_score(current, ablated) < 0.01:
                    current = ablated
                else:
                    kept[receiver, sender] = 1
    found = prune(model, [model.prompt(example)], 0.01)
    assert np.array_equal(found.circuit.matrix, kept.numpy() > 0)
    assert found.left == pytest.approx(current, abs=1e-10)


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["llama", "gptj"]), st.integers(0, 999), st.floats(-0.1, 0.5))
def test_what_was_pruned_cost_less_than_the_threshold_each(family: str, seed: int, threshold: float) -> None:
    model, prompt = _case(family, seed=seed)
    found = prune(model, [prompt], threshold)
    gone = ~found.circuit.values.numpy()
    rounding = RESOLUTION[torch.float64] * len(gone)
    assert np.array_equal(gone, found.scores < threshold)
    assert found.whole - found.left == pytest.approx(found.scores[gone].sum(), abs=rounding)
    assert found.whole - found.left <= gone.sum() * threshold + rounding


@pytest.mark.parametrize("family", SUPPORTED)
def test_at_threshold_0_the_answer_is_no_less_probable_than_in_the_model(family: str) -> None:
    for seed in range(3):
        model, prompt = _case(family, seed=seed)
        found = prune(model, [prompt], 0.0)
        assert found.circuit.count < model.graph.edges
        assert _log_prob(model, prompt, found.circuit) > prompt.log_prob


def test_at_minus_infinity_the_circuit_is_the_model_and_at_infinity_it_is_empty() -> None:
    model, prompt = _case("llama")
    assert prune(model, [prompt], -math.inf).circuit.count == model.graph.edges
    assert prune(model, [prompt], math.inf).circuit.count == 0


def test_edges_into_what_reaches_nothing_cost_no_state() -> None:
    """At infinity all edges into the output go first, and nothing else reaches anything then."""
    model, prompt = _case("gptj")
    work = prune(model, [prompt], math.inf, batch=1000).work
    assert (work.states, work.batches, work.senders) == (model.graph.senders, 1, 0)
    assert not prune(model, [prompt], 1e9).scores[: -model.graph.senders].any()


def test_only_what_is_reached_and_reaches_the_output_runs_again() -> None:
    """The second layer reads the first, but the output reads only the first layer's MLP and the embedding."""
    model, prompt = _case("llama")
    graph = model.graph
    kept, used = graph.possible.copy(), np.zeros(graph.receivers, dtype=bool)
    kept[graph.output] = False
    kept[graph.output, [0, graph.mlp_of(0)]] = True
    used[[graph.output, graph.mlp_input_of(0)]] = True
    assert Downstream(model, prompt, kept, used, graph.mlp_input_of(0)).senders == 1
    used[graph.keys_of(0)] = True  # two heads read a key, their MLP reads them
    assert Downstream(model, prompt, kept, used, graph.keys_of(0).start).senders == 3


def test_queries_and_keys_of_a_single_token_have_no_effect() -> None:
    """One token can only attend to itself; its score is 0, neither below 0 nor kept above."""
    model, prompt = _case("llama", tokens=1)
    scores = np.zeros(model.graph.possible.shape)
    scores[model.graph.possible] = prune(model, [prompt], -math.inf).scores
    for layer in range(model.graph.layers):
        assert (
            not scores[model.graph.queries_of(layer)].any() and not scores[model.graph.keys_of(layer)].any()
        )
        assert scores[model.graph.values_of(layer)].any()


def test_in_float32_only_ties_can_be_decided_otherwise() -> None:
    lm = small_model("llama", torch.float32)
    model = DecomposedModel(lm)
    prompt = model.prompt(random_example(5))
    for threshold in (0.0, 0.01):
        found = [prune(model, [prompt], threshold, batch) for batch in (1, 5, None)]
        for other in found[1:]:
            differing = torch.nonzero(other.circuit.values != found[0].circuit.values).flatten().tolist()
            # edges are visited last to first
            assert not differing or abs(found[0].scores[differing[-1]] - threshold) <= 3e-5


def test_the_prompt_is_left_as_it_was() -> None:
    model, prompt = _case("llama")
    before = prompt.deviations.clone()
    prune(model, [prompt], 0.01)
    assert torch.equal(prompt.deviations, before)


def test_equation_12_gives_an_edge_without_effect_minus_2_log_p() -> None:
    """The paper prints -log p_ablated - log p; the first minus must be meant for the difference."""
    log_p = math.log(0.25)
    assert edge_score(log_p, log_p) == 0
    assert edge_score_as_printed(log_p, log_p) == pytest.approx(-2 * log_p)
    ablated = np.log([0.1, 0.2, 0.3])
    fixed = [edge_score(log_p, one) for one in ablated]
    printed = [edge_score_as_printed(log_p, one) for one in ablated]
    assert np.subtract(printed, fixed) == pytest.approx(-2 * log_p)


@pytest.mark.parametrize("count", [10, 20, 40])
def test_prune_to_comes_close_to_the_number_of_edges(count: int) -> None:
    model, prompt = _case("llama")
    found = prune_to(model, [prompt], count)
    assert abs(found.circuit.count - count) <= 2
    assert torch.equal(found.circuit.values, prune(model, [prompt], found.threshold).circuit.values)


def test_prune_to_never_keeps_what_does_harm() -> None:
    model, prompt = _case("llama")
    found = prune_to(model, [prompt], model.graph.edges)
    assert LOWEST < found.threshold < 1e-3
    assert (found.scores[found.circuit.values] > 0).all() and (found.scores < 0).any()


def test_prune_to_returns_the_closest_of_few_tries() -> None:
    model, prompt = _case("llama")
    (one, three) = (prune_to(model, [prompt], 50, close=0.0, tries=tries) for tries in (1, 3))
    assert one.threshold == pytest.approx(0.01)
    assert abs(three.circuit.count - 50) <= abs(one.circuit.count - 50)


def test_bad_options_are_refused() -> None:
    model, prompt = _case("llama")
    with pytest.raises(OptionError, match="threshold must be a number, got nan"):
        prune(model, [prompt], math.nan)
    with pytest.raises(OptionError, match="batch must be at least 1, got 0"):
        prune(model, [prompt], batch=0)
    with pytest.raises(ExampleError, match="there is no prompt to prune for"):
        prune(model, [])
    with pytest.raises(
        OptionError, match="the number of edges and of tries must be at least 1, got 0 and 12"
    ):
        prune_to(model, [prompt], 0)
