"""The tracing benchmark compares the same states, refuses what differs and counts what is executed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from caploc.benchmarks import BENCHMARKS, Options
from caploc.benchmarks import tracing as ratios
from caploc.benchmarks.measuring import executed
from caploc.benchmarks.tracing import FULL, QUICK, Case, Contest, measure_ratios
from caploc.errors import ModelError

CASE = Case("llama", 3, 32, 8, 2, "mlp")


def test_both_ways_give_the_same_states() -> None:
    contest = Contest(QUICK[0])
    states = [(3, 0), (8, 2), (1, 1)]
    found, expected = contest.direct(states), contest.traced()
    timed = ~found.isnan()
    assert int(timed.sum()) == len(states) * contest.tracing.draws
    torch.testing.assert_close(found[timed], expected[timed], rtol=1e-5, atol=1e-8)


def test_a_row_for_each_case_with_what_was_asked() -> None:
    (table,) = BENCHMARKS["tracing"].run(Options(quick=True, repeat=1))
    assert [row["model"] for row in table.rows] == ["llama 3 x 32", "gptj 2 x 32"]
    assert [row["states"] for row in table.rows] == ["3 of 27", "2 of 14"]
    assert "met" not in table.rows[0] and table.key in BENCHMARKS["tracing"].questions
    (asked,) = measure_ratios([Case("llama", 2, 32, 5, 1, "hidden", least_ratio=1e9)], Options(repeat=1))
    assert asked.rows[0]["met"] == "NO" and asked.rows[0]["asked"] == ">= 1e+09"


def test_whole_times_every_state() -> None:
    (table,) = measure_ratios([Case("llama", 2, 32, 5, 1, "hidden")], Options(whole=True, repeat=1))
    assert table.rows[0]["states"] == "10 of 10"


def test_all_states_cost_the_direct_way_the_same() -> None:
    """What scaling a sample by the number of states rests on, in counted work."""
    contest = Contest(CASE)
    counts = []
    for states in ([(0, 0)], [(7, 2)], [(1, 1), (5, 2)]):
        with executed() as work:
            contest.direct(states)
        counts.append(work.matrix / len(states))
    assert counts[0] == counts[1] == counts[2]


def test_counted_work_is_a_fraction_of_the_direct_ways() -> None:
    """The promised sizes by count: rounding, caches and load play no part."""
    for case in FULL[3:4]:
        small = Case(case.family, case.layers, 32, case.tokens, case.start, case.kind)
        contest = Contest(small)
        with executed() as traced:
            contest.traced()
        with executed() as direct:
            contest.direct([(0, 0)])
        assert direct.matrix * case.layers * case.tokens / traced.matrix > 6


def test_refuses_to_compare_the_times_of_different_results(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = Contest.direct

    def wrong(self: Contest, states: Sequence[tuple[int, int]]) -> torch.Tensor:
        return direct(self, states) * 1.001

    monkeypatch.setattr(ratios.Contest, "direct", wrong)
    with pytest.raises(ModelError, match=r"causal tracing and the direct way differ by 0\.00"):
        list(measure_ratios(QUICK[:1], Options(quick=True, repeat=1)))


def test_the_models_are_the_families_they_are_called() -> None:
    for case in QUICK:
        lm = Contest(case).lm
        assert lm.architecture.family == case.family and lm.num_layers == case.layers
