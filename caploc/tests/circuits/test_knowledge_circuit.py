"""The locator "kc", running circuits alone, and mean ablation, from examples in text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from caploc.circuits import Circuit, DecomposedModel, attribute_edges, faithful, mean_outputs, prune
from caploc.circuits.circuit import run_alone
from caploc.datasets import load_examples
from caploc.errors import ExampleError, ModelError, OptionError
from caploc.examples import Example, tokenize
from caploc.locators import LOCATORS
from caploc.locators.knowledge_circuit import locate
from caploc.model.loading import LanguageModel, load_model, untrained_twin
from caploc.tests.circuits.models import small_model
from caploc.tests.oracles.circuits import Oracle
from caploc.tests.tiny import REPOSITORY, SHARED

SHORT = Example("short", "the cat sat on", "m")
LONG = Example("long", "a dog ran to the", " inn")
STORIES = SHARED / "models" / "stories260K"


def _empty(lm: LanguageModel) -> Circuit:
    graph = DecomposedModel(lm).graph
    return Circuit.of(graph, np.zeros_like(graph.possible))


def test_it_is_registered() -> None:
    assert LOCATORS["kc"].locate is locate


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
def test_locate_prunes_or_attributes(family: str) -> None:
    lm = small_model(family)
    model = DecomposedModel(lm)
    prompts = [model.prompt(tokenize(lm, example)) for example in (SHORT, LONG)]
    edges = model.graph.edges
    assert torch.equal(locate(lm, [SHORT]).values, faithful(model, prompts[:1], 0.8).circuit.values)
    least = locate(lm, [SHORT, LONG], faithfulness=0.3)
    assert torch.equal(least.values, faithful(model, prompts, 0.3).circuit.values)
    exact = locate(lm, [SHORT], "exact")
    assert torch.equal(exact.values, prune(model, prompts[:1], 0.01).circuit.values)
    exact = locate(lm, [SHORT, LONG], "exact", threshold=0.1)
    assert torch.equal(exact.values, prune(model, prompts, 0.1).circuit.values)
    assert abs(locate(lm, [LONG], "exact", share=0.1).count - 0.1 * edges) <= 0.03 * edges
    scores = attribute_edges(model, prompts, 3)
    found = locate(lm, [SHORT, LONG], "eap-ig", share=0.2, steps=3)
    assert torch.equal(found.values, scores.top(round(0.2 * edges)).values)
    found = locate(lm, [SHORT, LONG], "eap-ig", threshold=0.05, steps=3)
    assert torch.equal(found.values, scores.above(0.05).values)


def test_means_change_the_circuit_and_what_it_recalls() -> None:
    lm = small_model("llama")
    means = mean_outputs(lm, [SHORT, LONG])
    zero, mean = (locate(lm, [SHORT], "exact", means=part) for part in (None, means))
    assert not torch.equal(zero.values, mean.values)
    alone, with_means = (run_alone(lm, [SHORT], mean, part) for part in (None, means))
    assert alone.log_probs[0, 0] != with_means.log_probs[0, 0]
    assert alone.whole_log_probs == pytest.approx(with_means.whole_log_probs)


def test_mean_outputs_are_the_oracles() -> None:
    """Over the tokens that enter the model; the last token of a prompt is only predicted."""
    lm = small_model("gpt2")
    outputs = []
    for example in (SHORT, LONG):
        with torch.no_grad():
            oracle = Oracle(lm, tokenize(lm, example, 1))
            oracle.ids = oracle.ids[:-1]
            outputs.append(torch.stack(oracle.run(torch.ones(100, 100, dtype=torch.float64))[0]))
    expected = torch.cat(outputs, dim=1).mean(1)
    torch.testing.assert_close(mean_outputs(lm, [SHORT, LONG]), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_recall_of_an_answer_of_several_tokens(family: str) -> None:
    lm = small_model(family, torch.float32)
    circuits = [locate(lm, [LONG], "exact", threshold=threshold) for threshold in (0.01, 1.0)]
    found = run_alone(lm, [SHORT, LONG], circuits)
    assert found.log_probs.shape == found.ranks.shape == found.probabilities.shape == (2, 2)
    for row, example in enumerate((SHORT, LONG)):
        oracle = Oracle(lm, tokenize(lm, example))
        for column, circuit in enumerate([*circuits, None]):
            weights = torch.from_numpy(
                Circuit.whole(circuits[0].graph).matrix if circuit is None else circuit.matrix
            )
            with torch.no_grad():
                rows = oracle.run(weights.float())[1][-len(oracle.targets) :].double()
            log_probs = rows.log_softmax(-1).gather(1, oracle.targets[:, None])[:, 0]
            ranks = [
                int((line >= line[target]).sum()) for line, target in zip(rows, oracle.targets, strict=True)
            ]
            places = (row,) if circuit is None else (row, column)
            log_prob, probability, rank = (
                (found.whole_log_probs, found.whole_probabilities, found.whole_ranks)
                if circuit is None
                else (found.log_probs, found.probabilities, found.ranks)
            )
            assert log_prob[places] == pytest.approx(float(log_probs.mean()), rel=1e-5)
            assert probability[places] == pytest.approx(float(log_probs.sum().exp()), rel=1e-4)
            assert rank[places] == max(ranks)


def test_an_empty_circuit_leaves_the_constant_sender() -> None:
    """Nothing in a Llama without biases, where all tokens are equally likely then and none is recalled; in a GPT-J the
    biases of MLPs and the output head."""
    lm = small_model("llama")
    vocabulary = lm.model.config.vocab_size
    found = run_alone(lm, [SHORT], _empty(lm))
    assert found.log_probs == pytest.approx(-math.log(vocabulary)) and found.ranks == vocabulary
    lm = small_model("gptj")
    biases = sum(layer.mlp.fc_out.bias for layer in lm.layers)
    expected = lm.model.lm_head(lm.model.transformer.ln_f(biases)).log_softmax(-1)
    target = tokenize(lm, SHORT).answer_ids[0]
    assert run_alone(lm, [SHORT], _empty(lm)).log_probs == pytest.approx(expected[target].item())
    assert locate(lm, [SHORT], "exact", threshold=math.inf).count == 0


def test_a_known_facts_circuit_alone_recalls_it_and_a_random_one_does_not() -> None:
    lm = load_model("tiny-llama")
    (fact,) = load_examples("counterfact", path=REPOSITORY / "fixtures" / "data", limit=1)
    circuit = locate(lm, [fact], "exact")
    found = run_alone(lm, [fact], [circuit, circuit.random_like(0), Circuit.whole(circuit.graph)])
    assert circuit.ratio < 0.1
    assert found.whole_ranks == 1 and found.ranks[0, 0] == 1 and found.ranks[0, 1] > 10
    assert found.log_probs[0, 2] == pytest.approx(found.whole_log_probs[0], abs=1e-5)
    blocks = locate(lm, [fact])
    assert blocks.count < circuit.count
    assert run_alone(lm, [fact], [blocks, blocks.random_like(0)]).ranks[0].tolist() < [10, 100]


def test_a_fact_that_the_model_does_not_know_shows_in_its_rank() -> None:
    lm = untrained_twin(load_model("tiny-llama"))
    (fact,) = load_examples("counterfact", path=REPOSITORY / "fixtures" / "data", limit=1)
    circuit = locate(lm, [fact], "exact", threshold=0.1)
    found = run_alone(lm, [fact], circuit)
    assert found.whole_ranks[0] > 1 and np.isfinite(found.log_probs).all()


@pytest.mark.skipif(not STORIES.is_dir(), reason="needs ../shared/models/stories260K")
@pytest.mark.parametrize("dataset", ["known_1000", "counterfact", "pararel"])
def test_it_runs_on_real_facts(dataset: str) -> None:
    """A model of 260,000 parameters trained on stories knows next to none of them."""
    lm = load_model(STORIES)
    facts = load_examples(dataset, path=SHARED / "data", limit=1)
    for fact in facts:
        for options in ({}, {"method": "exact", "threshold": 0.05}, {"method": "eap-ig", "share": 0.1}):
            circuit = locate(lm, [fact], **options)
            found = run_alone(lm, [fact], circuit)
            # nothing is needed to restore an answer that no edges at all give as much
            assert 0 <= circuit.parameter_share(lm) <= 1
            assert np.isfinite(found.log_probs).all() and 0 < found.ranks[0, 0] <= lm.model.config.vocab_size


def test_bad_input_is_refused_in_one_line() -> None:
    lm = small_model("llama")
    with pytest.raises(OptionError, match="unknown method 'acdc'; choose one of blocks, exact, eap-ig"):
        locate(lm, [SHORT], "acdc")  # type: ignore[arg-type]
    for share in (0.0, 1.5, math.nan):
        with pytest.raises(OptionError, match=r"share must be a fraction of the edges in \(0, 1\]"):
            locate(lm, [SHORT], "exact", share=share)
    with pytest.raises(OptionError, match="'blocks' takes a faithfulness, the others a threshold or a share"):
        locate(lm, [SHORT], share=0.1)
    with pytest.raises(OptionError, match="'blocks' takes a faithfulness"):
        locate(lm, [SHORT], "exact", faithfulness=0.5)
    with pytest.raises(OptionError, match="threshold and share are two ways"):
        locate(lm, [SHORT], "exact", threshold=0.1, share=0.1)
    with pytest.raises(OptionError, match=r"faithfulness must be in \(0, 1\], got 2"):
        locate(lm, [SHORT], faithfulness=2.0)
    with pytest.raises(ExampleError, match="there is no example to locate a circuit for"):
        locate(lm, [])
    with pytest.raises(ExampleError, match="there is no example to run a circuit on"):
        run_alone(lm, [], _empty(lm))
    with pytest.raises(OptionError, match="a circuit is not one of model 'small-llama'"):
        run_alone(lm, [SHORT], [_empty(lm), _empty(small_model("gptj"))])
    with pytest.raises(ExampleError, match="example 'blank': the answer is empty"):
        locate(lm, [SHORT, Example("blank", "x", " ")])
    with pytest.raises(ExampleError, match="there is no example to take means over"):
        mean_outputs(lm, [])
    with pytest.raises(ModelError, match="circuits are not supported for model family 'phi'"):
        locate(small_model("phi"), [SHORT])
