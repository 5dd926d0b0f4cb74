"""The enhancement benchmark trains the same both ways, refuses what differs, and weighs what is held."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.benchmarks import BENCHMARKS, Options
from caploc.benchmarks import enhancement as steps
from caploc.benchmarks.enhancement import FULL, QUICK, Case
from caploc.errors import ModelError


def test_a_row_for_each_set_with_what_was_asked() -> None:
    table, memory = BENCHMARKS["enhancement"].run(Options(quick=True, repeat=1))
    assert [row["lowest"] for row in table.rows] == [0, 1, 0] and "met" not in table.rows[0]
    assert {table.key, memory.key} == set(BENCHMARKS["enhancement"].questions)
    few, most = table.rows[0], table.rows[2]
    assert 0 < few["share"] < most["share"] < 100  # type: ignore[operator]
    asked = Case("one", 0.0, least_ratio=1e9, most_memory=1e-9)
    row = steps._row(QUICK, asked, 1)
    assert (row["met"], row["met_share"], row["asked_share"]) == ("NO", "NO", "<= 1e-07")


def test_memory_grows_with_the_neurons_and_nothing_else() -> None:
    """A gradient and two moments of 4 bytes for each of a neuron's weights, and Adam's count of steps."""
    (table,) = BENCHMARKS["enhancement"].run(Options(quick=True, only=("memory",)))
    weights = 3 * QUICK.width
    for row in table.rows:
        count, held = int(row["neurons"]), 1e6 * float(row["memory"])  # type: ignore[arg-type]
        assert 0 <= held - 12 * weights * count <= 4 * 3 * QUICK.layers
    assert table.rows[-1]["neurons"] == QUICK.layers * QUICK.neurons


def test_the_promised_share_of_memory() -> None:
    """By count, at the promised size: what full fine-tuning holds is three numbers a parameter."""
    case = FULL.cases[0]
    count = case.mask(FULL.layers, FULL.neurons).count
    assert count == 17 and case.most_memory == 0.01
    per_layer = 4 * FULL.width**2 + 3 * FULL.width * FULL.neurons
    assert 3 * FULL.width * count < 0.0011 * FULL.layers * per_layer


def test_masks_start_at_the_lowest_layer() -> None:
    for case in FULL.cases:
        values = case.mask(FULL.layers, FULL.neurons).values
        assert int(values.any(1).nonzero()[0]) == case.lowest
        assert int(values.sum()) == round(case.share * values.numel())


def test_refuses_to_compare_the_times_of_different_results(monkeypatch: pytest.MonkeyPatch) -> None:
    own = steps.Contest.rows_step
    monkeypatch.setattr(steps.Contest, "rows_step", lambda contest: own(contest) + np.float64(0.01))
    with pytest.raises(ModelError, match=r"differ by 0\.01 nats a token on few"):
        list(steps.measure_steps(QUICK, Options(quick=True, repeat=1)))
