"""The circuits benchmark measures what it says, and refuses to compare the times of different circuits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caploc.benchmarks import BENCHMARKS, Options
from caploc.benchmarks import circuits as cases
from caploc.benchmarks import circuits as methods
from caploc.benchmarks import circuits as speed
from caploc.benchmarks.circuits import QUESTIONS, QUICK
from caploc.circuits import Circuit, DecomposedModel, prune
from caploc.errors import ModelError, UnknownNameError
from caploc.tests.oracles.circuits import prune_directly


def test_the_registry_lists_the_questions_that_are_answered() -> None:
    assert list(BENCHMARKS["circuits"].questions) == list(QUESTIONS)


def test_the_speed_tables_counts_are_those_of_the_prunings() -> None:
    (table,) = speed.measure_speed(QUICK, Options(quick=True, repeat=1))
    (row,) = table.rows
    (case,), _ = cases.cases(QUICK, 1)
    model = DecomposedModel(case.lm)
    found = prune(model, [model.prompt(case.examples[0])], 0.01)
    assert row["differ"] == 0 and row["left"] == found.circuit.count and row["states"] == found.work.states
    assert row["edges"] == model.graph.edges and row["forwards"] == model.graph.edges + 1
    assert row["worth"] == found.work.senders / (model.graph.senders - 1)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_senders_that_run_are_counted_exactly(batch: int) -> None:
    """Nothing is pruned, so what runs for an edge follows from the graph alone: the receiver's own nodes, all above."""
    (case,), _ = cases.cases(QUICK, 1)
    model = DecomposedModel(case.lm)
    prompt = model.prompt(case.examples[0])
    work = prune(model, [prompt], -np.inf, batch).work
    graph = model.graph
    above = {"q": 1, "k": graph.heads // graph.groups, "v": graph.heads // graph.groups}
    expected = 0
    for receiver, name in enumerate(graph.receiver_names[:-1]):
        layer = graph.layer_of(receiver)
        higher = (graph.layers - 1 - layer) * (graph.heads + 1)
        own = 1 if name.startswith("m") else above[name.partition(".")[2][0]] + 1  # and its layer's MLP
        expected += int(graph.seen[receiver]) * (own + higher)
    assert work.senders == expected  # the guesses go wrong at the output alone, above which nothing runs
    assert batch > 1 or work.states == work.batches == graph.edges


def test_refuses_to_compare_the_times_of_different_circuits(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*args: object) -> Circuit:
        circuit = prune_directly(*args)  # type: ignore[arg-type]
        return Circuit(circuit.graph, ~circuit.values)

    monkeypatch.setattr(speed, "prune_directly", other)
    with pytest.raises(ModelError, match="decide differently on an edge of effect"):
        list(speed.measure_speed(QUICK, Options(quick=True, repeat=1)))


def test_every_method_has_its_row() -> None:
    (table,) = methods.measure_methods(QUICK, Options(quick=True))
    rows = {row["method"]: row for row in table.rows}
    assert list(rows) == [
        *(f"exact, threshold {threshold:g}" for threshold in (0.1, 0.01, 0.001)),
        "exact, edge by edge",
        "EAP",
        "EAP-IG, 5 steps",
        "EAP-IG, 20 steps",
    ]
    assert rows["exact, edge by edge"]["spearman"] == pytest.approx(1)
    assert all(0 <= row["recall"] <= 1 and row["seconds"] > 0 for row in table.rows)


def test_an_embedded_model_that_is_missing_is_named() -> None:
    sizes = cases.Sizes(1, ("no-such-model",), (), 3, 1, {})
    made, missing = cases.cases(sizes, 1)
    assert len(made) == 1 and missing[0].startswith("no-such-model not measured: ")
    assert all(torch.isfinite(parameter).all() for parameter in made[0].lm.model.parameters())


def test_an_unknown_question_is_refused() -> None:
    with pytest.raises(
        UnknownNameError, match="benchmark 'circuits' has no question 'ratios'; known: speed, methods"
    ):
        BENCHMARKS["circuits"].run(Options(only=("ratios",)))
