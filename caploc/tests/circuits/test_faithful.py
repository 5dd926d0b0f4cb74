"""Circuits by faithfulness: what they restore, how many runs that takes, and against exact pruning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caploc.circuits import Circuit, DecomposedModel, faithful, prune
from caploc.circuits.circuit import run_alone
from caploc.circuits.faithful import RUNS_PER_HALVING
from caploc.datasets import load_examples
from caploc.errors import OptionError
from caploc.examples import Example, tokenize
from caploc.model.loading import load_model
from caploc.tests.circuits.models import small_model
from caploc.tests.tiny import REPOSITORY

FACT = Example("one", "the cat sat on", "m")


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
def test_what_is_left_restores_the_share_and_no_edge_is_spare(family: str) -> None:
    lm = small_model(family)
    model = DecomposedModel(lm)
    # of all answers the likeliest, which the model restores most of
    prompt = max(
        (model.prompt(tokenize(lm, Example(t, "the cat sat on", t))) for t in "amt"), key=lambda p: p.log_prob
    )
    example = Example(prompt.id, "the cat sat on", prompt.id)
    empty = Circuit(model.graph, torch.zeros(model.graph.edges, dtype=torch.bool))
    for share in (0.5, 0.8, 1.0):
        found = faithful(model, [prompt], share)
        alone = run_alone(lm, [example], [found.circuit, empty]).log_probs[0]
        if not prompt.log_prob > alone[1]:
            assert math.isnan(found.faithfulness)
            continue
        restored = (alone[0] - alone[1]) / (prompt.log_prob - alone[1])
        assert restored == pytest.approx(found.faithfulness) and restored >= share - 1e-9
        assert found.runs <= RUNS_PER_HALVING * math.ceil(math.log2(model.graph.edges))
        assert torch.equal(found.circuit.values, found.circuit.connected().values)
        if found.settled:
            for edge in found.circuit.values.nonzero()[:, 0]:
                values = found.circuit.values.clone()
                values[edge] = False
                fewer = Circuit(model.graph, values).connected()
                assert run_alone(lm, [example], fewer).log_probs[0, 0] < found.bar


def test_less_is_pruned_further_and_a_bar_brings_an_answer_up() -> None:
    lm = load_model("tiny-llama")
    fact, other = load_examples("counterfact", path=REPOSITORY / "fixtures" / "data", limit=2)
    model = DecomposedModel(lm)
    prompt = model.prompt(tokenize(lm, fact))
    most = faithful(model, [prompt])
    half = faithful(model, [prompt], 0.5, start=most.circuit)
    assert not (half.circuit.values & ~most.circuit.values).any() and half.circuit.count <= most.circuit.count
    assert most.faithfulness >= 0.8 > half.faithfulness >= 0.5
    wrong = model.prompt(tokenize(lm, Example("wrong", fact.prompt, other.answer)))
    assert wrong.log_prob < most.bar
    brought = faithful(model, [wrong], bar=most.bar)
    alone = run_alone(lm, [Example("wrong", fact.prompt, other.answer)], brought.circuit)
    assert alone.log_probs[0, 0] > wrong.log_prob


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gptj"])
def test_it_keeps_edges_that_exact_pruning_keeps(name: str) -> None:
    """Of six facts: circuits are smaller, most of their edges are among the oracle's, far above chance."""
    lm = load_model(name)
    model = DecomposedModel(lm)
    facts = load_examples("counterfact", path=REPOSITORY / "fixtures" / "data", limit=6)
    shared, chance, sizes = [], [], []
    for fact in facts:
        prompt = model.prompt(tokenize(lm, fact))
        found, exact = faithful(model, [prompt]), prune(model, [prompt]).circuit
        shared.append(float((found.circuit.values & exact.values).sum()) / found.circuit.count)
        chance.append(exact.ratio)
        sizes.append((found.circuit.count, exact.count))
        assert found.settled
    assert np.mean(shared) > 0.5 > 5 * np.mean(chance), (shared, chance, sizes)


def test_a_share_must_make_sense() -> None:
    lm = small_model("llama")
    model = DecomposedModel(lm)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(OptionError, match=r"faithfulness must be in \(0, 1\], got"):
            faithful(model, [model.prompt(tokenize(lm, FACT))], share)
