"""Circuits that run alone: against the model's own logits and `run_alone`, kept, and with their controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caploc.circuits import Circuit, DecomposedModel, Graph, faithful, prune
from caploc.circuits.circuit import run_alone
from caploc.examples import Example, TokenizedExample, tokenize
from caploc.experiments import fact_circuits, reliability_kc
from caploc.experiments.fact_circuits import (
    DEGREES,
    LOCATED,
    NODES,
    RANDOM_CIRCUITS,
    UNIFORM,
    WHOLE,
    Alone,
    ControlAlone,
    RunAlone,
    WithWrongAnswers,
    random_nodes,
    with_wrong_answers,
)
from caploc.experiments.facts import Fact, FactSet, FirstFacts, Known, facts_of
from caploc.experiments.study import Study
from caploc.findings import Outcome
from caploc.model.loading import LanguageModel
from caploc.store import Store
from caploc.tests.experiments.planted_facts import estimate, fact_set, run, settings_of, small_model


def facts_with(lm: LanguageModel, answers: list[str]) -> FactSet:
    """Facts in one wording, counted as known."""
    examples = [
        Example(str(number), f"rome{number} is in", answer, str(number))
        for number, answer in enumerate(answers)
    ]
    prompts = [tokenize(lm, example) for example in examples]
    facts = [Fact(example.id, (example,)) for example in examples]
    count = len(facts)
    return FactSet("zsre", facts, prompts, np.arange(count), np.ones(count, int), np.full(count, -1.0))


def study_of(lm: LanguageModel, store: Path, facts: FactSet, seed: int = 0) -> Study:
    return Study(lm.name, settings_of(store=Store(store), seed=seed), lm, {facts_of("zsre", 1): facts})


def run_facts_alone(study: Study) -> Alone:
    return study.result(RunAlone(facts_of("zsre", 1)))


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_ranks_are_those_of_the_model_and_of_run_alone(family: str, tmp_path: Path) -> None:
    lm = small_model(family, 2)
    facts = facts_with(lm, ["it", "a", "ba"])
    alone = run_facts_alone(study_of(lm, tmp_path, facts))
    model = DecomposedModel(lm)
    candidates = sorted({int(prompt.answer_ids[0]) for prompt in facts.prompts})
    for number, prompt in enumerate(facts.prompts):
        with torch.no_grad():
            logits = lm.model(prompt.input_ids[None, :-1]).logits[0, prompt.answer_start - 1 :]
        ranks = [int((row >= row[token]).sum()) for row, token in zip(logits, prompt.answer_ids, strict=True)]
        assert alone.of("first", WHOLE)[number, 0] == ranks[0]
        assert alone.of("worst", WHOLE)[number, 0] == max(ranks)
        first = int(prompt.answer_ids[0])
        among = sum(float(logits[0, other]) >= float(logits[0, first]) for other in candidates)
        assert alone.of("candidate", WHOLE)[number, 0] == among

        circuit = faithful(model, [model.prompt(prompt)]).circuit
        loose = faithful(model, [model.prompt(prompt)], 0.5, start=circuit).circuit
        example = facts.facts[number].wordings[0]
        begun = replace(prompt, input_ids=prompt.input_ids[: prompt.answer_start + 1])
        kept = torch.from_numpy(circuit.matrix)[None]
        row = model.run(model.prompt(begun), kept)[0, -1]
        assert alone.of("first")[number, 0] == int((row >= row[first]).sum())
        assert alone.of("worst")[number].tolist() == run_alone(lm, [example], circuit).ranks[0].tolist()
        assert (
            alone.of("worst", "50% of log P")[number].tolist()
            == run_alone(lm, [example], loose).ranks[0].tolist()
        )
        assert alone.of("share")[number, 0] == circuit.parameter_share(lm)
        assert alone.of("shared")[number, 0] == (circuit.count > 0)
        common = int((circuit.values & loose.values).sum())
        assert alone.of("shared", "50% of log P")[number, 0] == pytest.approx(common / max(circuit.count, 1))
    assert alone.cuts == ["50% of log P"]
    assert alone.recalled(WHOLE, 10**6).all() and not alone.recalled(WHOLE, 0).any()


def test_random_circuits_are_as_large_and_differ(tmp_path: Path) -> None:
    lm = small_model("llama", 2)
    facts = facts_with(lm, ["it", "it"])
    model, uniform = DecomposedModel(lm), []
    for number, prompt in enumerate(facts.prompts):
        located = prune(model, [model.prompt(prompt)], 0.01).circuit
        drawn = fact_circuits.random_circuits(located, 0, number)
        for arm in (UNIFORM, DEGREES):
            assert [one.count for one in drawn[arm]] == [located.count] * RANDOM_CIRCUITS
        degrees = located.matrix.sum(0).tolist()
        assert [one.matrix.sum(0).tolist() for one in drawn[DEGREES]] == [degrees] * RANDOM_CIRCUITS
        uniform += drawn[UNIFORM]
        shared = {arm: sum(int((one.values & located.values).sum()) for one in drawn[arm]) for arm in drawn}
        assert shared[DEGREES] > shared[UNIFORM]
    assert len({one.values.numpy().tobytes() for one in uniform}) == 2 * RANDOM_CIRCUITS
    alone = run_facts_alone(study_of(lm, tmp_path, facts))
    for arm in (UNIFORM, DEGREES, NODES):
        assert alone.of("first", arm).shape == (2, RANDOM_CIRCUITS)


def test_what_ran_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = small_model("gptj", 2)
    facts = facts_with(lm, ["it", "a"])
    found = run_facts_alone(study_of(lm, tmp_path, facts))

    def fail(*_: object) -> None:
        raise AssertionError("ran again")

    monkeypatch.setattr(fact_circuits, "_measured", fail)
    again = run_facts_alone(study_of(lm, tmp_path, facts))
    assert again.values.keys() == found.values.keys()
    assert all(np.array_equal(again.values[arm], found.values[arm]) for arm in found.values)
    # other answers among which an answer is ranked, another seed
    for other in (facts_with(lm, ["it", "b"]), facts):
        fresh = study_of(lm, tmp_path, other, seed=0 if other is not facts else 1)
        with pytest.raises(AssertionError, match="ran again"):
            run_facts_alone(fresh)


@given(
    st.tuples(st.integers(1, 4), st.sampled_from([(2, 1), (4, 2), (3, 3)]), st.booleans()),
    st.integers(0, 2**32 - 1),
    st.floats(0, 1),
)
def test_random_nodes_keep_all_edges_between_as_many_nodes(
    shape: tuple[int, tuple[int, int], bool], seed: int, density: float
) -> None:
    layers, (heads, groups), parallel = shape
    graph = Graph(layers, heads, groups, parallel)
    values = torch.from_numpy(np.random.default_rng(seed).random(graph.edges) < density)
    located = Circuit(graph, values)
    drawn = random_nodes(located, seed)
    nodes = drawn.nodes | {"embedding"}
    assert len(nodes) == len(located.nodes | {"embedding"})
    for receiver, sender in np.argwhere(graph.possible):
        fed = {graph.sender_names[one] for one in np.flatnonzero(graph.feeds[receiver])}
        inside = bool(fed & nodes) or receiver == graph.output
        assert drawn.matrix[receiver, sender] == (inside and graph.sender_names[sender] in nodes)


def test_wrong_answers() -> None:
    facts = fact_set(4, 2, "zsre")
    answers = [[7], [7, 1], [8, 1, 2], [9]]
    prompts = [
        TokenizedExample(torch.tensor([number, 0, *answers[number // 2]]), 2, str(number))
        for number in range(8)
    ]
    facts = replace(facts, prompts=prompts)
    wrong = with_wrong_answers(facts, 5)
    assert [one.input_ids.tolist() for one in wrong.prompts] == [
        [0, 0, 8, 1, 2],
        [2, 0, 8, 1, 2],
        [4, 0, 9],
        [6, 0, 7],
    ]
    assert wrong.fact.tolist() == [0, 1, 2, 3] and len(wrong) == 4
    assert [one.answer_start for one in wrong.prompts] == [2] * 4
    assert [one.input_ids.tolist()[2:] for one in with_wrong_answers(facts, 4).prompts] == [
        [9],
        [9],
        [9],
        [7],
    ]
    alike = replace(facts, prompts=[replace(one, input_ids=prompts[0].input_ids) for one in prompts])
    assert len(with_wrong_answers(alike, 5)) == 0


def test_a_random_model_recalls_what_its_circuits_are_located_for(tmp_path: Path) -> None:
    """It knows nothing: recall is what pruning left in."""
    lm = small_model("llama", 2)
    facts = facts_with(lm, [" it", "a", "b", "c"] * 4)
    study = study_of(lm, tmp_path, facts)
    finding, verdict = run(reliability_kc.kc_recall, study, "reliability-kc-recall", dataset="zsre")
    found, alone = finding.measurement, run_facts_alone(study)
    assert estimate(found.value) == alone.recalled().mean() and found.n == 16
    assert verdict.outcome is not Outcome.REFUTED, verdict.reason
    own = RunAlone(Known(facts_of("zsre", 1)))
    few = FirstFacts(own.facts, reliability_kc.CONTROL_FACTS)
    wrong = study.result(ControlAlone(WithWrongAnswers(few), own.located))
    assert set(wrong.values) == {LOCATED, WHOLE} and len(wrong) == 16
    assert found.controls["circuits located for wrong answers"] == wrong.recalled().mean()
    untrained = study.result(ControlAlone(few, own.located, "untrained"))
    named = "circuits located for the answers in an untrained model"
    assert found.controls[named] == untrained.recalled().mean()
    assert finding.settings["cut"] == "80% of log P"
    assert any("a weak control" in note for note in finding.notes)
    assert {"every token of the answer", "50% of log P"} <= set(found.asides)
    (plot,) = found.plots
    assert len(plot.data["groups"][LOCATED]) == 1 and len(plot.data["groups"][UNIFORM]) == RANDOM_CIRCUITS
