"""The circuits and tracing benchmarks measure what they say, and refuse to compare the times of different results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from caploc.benchmarks import BENCHMARKS, Options, circuits, tracing
from caploc.benchmarks import locators as planted
from caploc.benchmarks.measuring import executed
from caploc.benchmarks.tables import Table
from caploc.benchmarks.tracing import Case
from caploc.circuits import Circuit, DecomposedModel, prune
from caploc.errors import ModelError
from caploc.tests.oracles.circuits import prune_directly


def test_the_speed_tables_counts_are_those_of_the_prunings() -> None:
    (table,) = circuits.measure_speed(circuits.QUICK, Options(quick=True, repeat=1))
    (row,) = table.rows
    (case,) = circuits.cases(Table("", ""), circuits.QUICK, 1)
    model = DecomposedModel(case.lm)
    found = prune(model, [model.prompt(case.examples[0])], 0.01)
    assert row["differ"] == 0 and row["left"] == found.circuit.count and row["states"] == found.work.states
    assert row["edges"] == model.graph.edges and row["forwards"] == model.graph.edges + 1
    assert row["= forwards"] == found.work.senders / (model.graph.senders - 1)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_senders_that_run_are_counted_exactly(batch: int) -> None:
    """Nothing is pruned, so what runs for an edge follows from the graph alone: the receiver's own nodes, all above."""
    (case,) = circuits.cases(Table("", ""), circuits.QUICK, 1)
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

    monkeypatch.setattr(circuits, "prune_directly", other)
    with pytest.raises(ModelError, match="decide differently on an edge of effect"):
        list(circuits.measure_speed(circuits.QUICK, Options(quick=True, repeat=1)))


def test_every_way_to_locate_a_circuit_has_its_row() -> None:
    (table,) = circuits.measure_methods(circuits.QUICK, Options(quick=True))
    rows = {row["method"]: row for row in table.rows}
    assert list(rows) == [
        *(f"exact, threshold {threshold:g}" for threshold in (0.1, 0.01, 0.001)),
        *(f"blocks, {share}% of log P" for share in (50, 80, 90)),
        "exact, edge by edge",
        "EAP",
        "EAP-IG, 5 steps",
        "EAP-IG, 20 steps",
    ]
    assert rows["exact, edge by edge"]["Spearman"] == pytest.approx(1)
    assert all(0 <= row["recalled first"] <= 1 and row["CPU s a fact"] > 0 for row in table.rows)


def test_an_embedded_model_that_is_missing_is_named() -> None:
    table = Table("", "")
    (made,) = circuits.cases(table, circuits.Sizes(1, ("no-such-model",), (), 3, 1, {}), 1)
    (note,) = table.notes
    assert note.startswith("no-such-model not measured: ")
    assert all(torch.isfinite(parameter).all() for parameter in made.lm.model.parameters())


def test_both_ways_to_trace_give_the_same_states() -> None:
    contest = tracing.Contest(tracing.QUICK[0])
    states = [(3, 0), (8, 2), (1, 1)]
    found, expected = contest.direct(states), contest.traced()
    timed = ~found.isnan()
    assert int(timed.sum()) == len(states) * contest.tracing.draws
    torch.testing.assert_close(found[timed], expected[timed], rtol=1e-5, atol=1e-8)


def test_a_row_for_each_traced_case_with_what_was_asked() -> None:
    (table,) = BENCHMARKS["tracing"].run(Options(quick=True, repeat=1))
    assert [row["model"] for row in table.rows] == ["llama 3 x 32", "gptj 2 x 32"]
    assert [row["states timed"] for row in table.rows] == ["3 of 27", "2 of 14"]
    assert table.rows[0]["met"] is None and table.key == "ratios"
    (asked,) = tracing.measure_ratios(
        [Case("llama", 2, 32, 5, 1, "hidden", least_ratio=1e9)], Options(repeat=1)
    )
    assert asked.rows[0]["met"] == "NO" and asked.rows[0]["asked"] == ">= 1e+09"


def test_whole_times_every_state() -> None:
    (table,) = tracing.measure_ratios([Case("llama", 2, 32, 5, 1, "hidden")], Options(whole=True, repeat=1))
    assert table.rows[0]["states timed"] == "10 of 10"


def test_all_states_cost_the_direct_way_the_same() -> None:
    """What scaling a sample by the number of states rests on, in counted work."""
    contest = tracing.Contest(Case("llama", 3, 32, 8, 2, "mlp"))
    counts = []
    for states in ([(0, 0)], [(7, 2)], [(1, 1), (5, 2)]):
        with executed() as work:
            contest.direct(states)
        counts.append(work.matrix / len(states))
    assert counts[0] == counts[1] == counts[2]


def test_counted_work_is_a_fraction_of_the_direct_ways() -> None:
    """The promised sizes by count: rounding, caches and load play no part."""
    for case in tracing.FULL[3:4]:
        small = Case(case.family, case.layers, 32, case.tokens, case.start, case.kind)
        contest = tracing.Contest(small)
        with executed() as traced:
            contest.traced()
        with executed() as direct:
            contest.direct([(0, 0)])
        assert direct.matrix * case.layers * case.tokens / traced.matrix > 6


def test_refuses_to_compare_the_times_of_different_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = tracing.Contest.direct

    def wrong(self: tracing.Contest, states: Sequence[tuple[int, int]]) -> torch.Tensor:
        return direct(self, states) * 1.001

    monkeypatch.setattr(tracing.Contest, "direct", wrong)
    with pytest.raises(ModelError, match=r"causal tracing and the direct way differ by 0\.00"):
        list(tracing.measure_ratios(tracing.QUICK[:1], Options(quick=True, repeat=1)))


def test_the_models_are_the_families_they_are_called() -> None:
    for case in tracing.QUICK:
        lm = tracing.Contest(case).lm
        assert lm.architecture.family == case.family and lm.num_layers == case.layers


def test_planted_neurons_are_found_and_failures_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    entrants = (*planted.QUICK.entrants, planted.Entrant("mathneuro", {"share": 2.0}))
    monkeypatch.setattr(planted, "KINDS", ("written", "untrained"))
    (table,) = planted.measure_planted(planted.Sizes(1, entrants), Options(quick=True))
    rows = {(row["locator"], row["kind"]): row for row in table.rows}
    assert list(rows)[::2] == [
        (name, "written") for name in ("layer-outliers", "random", "mathneuro share 2")
    ]
    assert rows["layer-outliers", "written"]["AUC"] > 0.95 > rows["random", "written"]["AUC"]
    assert rows["layer-outliers", "untrained"]["false discoveries"] <= 0.01
    assert rows["mathneuro share 2", "written"]["AUC"] is None
    assert any(
        "mathneuro share 2 failed on 2 of 2 models" in note and "share must be" in note
        for note in table.notes
    )


def test_models_are_spread_over_a_kind() -> None:
    assert planted.spread("abcdefghij", 3) == ["a", "e", "j"] and planted.spread("ab", 5) == ["a", "b"]
    assert planted.spread("", 2) == [] and planted.spread("abc", 1) == ["a"]
