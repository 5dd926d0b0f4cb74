"""The statistics benchmark: its figures mean what their headings say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from caploc.benchmarks import Options, statistics
from caploc.benchmarks.__main__ import main
from caploc.benchmarks.statistics import intervals, nulls
from caploc.benchmarks.statistics.intervals import Sizes, percent
from caploc.benchmarks.statistics.nulls import Null
from caploc.statistics import Interval

TINY = Sizes(samples=60, nulls=60, units=(12,), items=(10,))
OPTIONS = Options(quick=True, repeat=1)


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    assert main(["statistics", "--quick", "--only", "proportions", "--json", str(file)]) == 0
    assert "paired difference" in capsys.readouterr().out
    (table,) = json.loads(file.read_text())["benchmarks"]["statistics"]
    assert table["key"] == "proportions"
    assert {row["interval"] for row in table["rows"]} == {"exact", "wilson", "paired difference"}


def test_percent_is_given_with_its_binomial_error() -> None:
    rate, error = percent(950, 1000)
    assert rate == 95
    assert error == pytest.approx(1.4, abs=0.1)


def test_coverage_counts_intervals_that_hold_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    always, never = Interval(-9, 9, 0.95, ""), Interval(8, 9, 0.95, "")
    monkeypatch.setattr(
        intervals,
        "METHODS",
        {"percentile": lambda *_: always, "BCa": lambda *_: never, "t": intervals.student},
    )
    (table,) = statistics.measure_coverage(TINY, OPTIONS)
    assert [row["distribution"] for row in table.rows] == list(intervals.SHAPES)
    for row in table.rows:
        assert (row["percentile %"], row["BCa %"], row["samples"]) == (100, 0, 60)
    normal = table.rows[0]
    assert isinstance(normal["t %"], float) and normal["t %"] + 3 * normal["t +-"] > 95
    assert "rows %" not in normal and table.rows[-1]["rows %"] < 85
    (again,) = statistics.measure_coverage(TINY, OPTIONS)
    assert again == table


@pytest.mark.parametrize("shape", list(intervals.SHAPES))
def test_samples_have_the_mean_that_is_covered(shape: str) -> None:
    draw, mean = intervals.SHAPES[shape]
    values, clusters = draw(np.random.default_rng(0), 40_000)
    means = values if clusters is None else np.bincount(clusters, values) / np.bincount(clusters)
    assert len(means) == 40_000
    assert means.mean() == pytest.approx(mean, abs=5 * means.std() / 200)


def test_proportions_are_enumerated() -> None:
    (table,) = statistics.measure_proportions(TINY, OPTIONS)
    rows = {row["interval"]: row for row in table.rows}
    assert rows["exact"]["least"] >= 95 > rows["wilson"]["least"]
    assert rows["paired difference"]["coverage %, mean"] == pytest.approx(96.6, abs=0.1)
    chance_of_none = 0.9**10
    covered, _ = intervals.single(10, "exact")
    assert len(covered) == 199 and covered[19] >= 0.95 > chance_of_none


def test_levels_show_a_test_that_does_not_keep_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    def fair(rng: np.random.Generator) -> float:
        """A fair one."""
        return float(rng.random())

    def loose(rng: np.random.Generator) -> float:
        """A loose one."""
        return float(rng.random() / 10)

    some = (Null("x", fair, 0.05), Null("x", loose), Null("x", loose, wrong=True))
    monkeypatch.setattr(nulls, "NULLS", some)
    (table,) = statistics.measure_levels(TINY, OPTIONS)
    assert [row["level kept"] for row in table.rows] == ["yes", "NO", "no, the wrong test"]
    assert [row["exact %"] for row in table.rows] == [5, None, None]
    assert [row["null hypothesis"] for row in table.rows] == ["A fair one", "A loose one", "A loose one"]


def test_power_is_about_what_was_asked() -> None:
    (table,) = statistics.measure_power(Sizes(200, 1, (30,), ()), OPTIONS)
    assert [row["units"] for row in table.rows] == [30] * 3
    for row in table.rows:
        assert isinstance(row["found %"], float) and abs(row["found %"] - 80) < 12


def test_times_compare_the_same_interval() -> None:
    (table,) = statistics.measure_times(TINY, OPTIONS)
    compared = [row for row in table.rows if row["scipy / fast"] is not None]
    assert {row["call"] for row in compared} == {"bootstrap_mean, BCa", "bootstrap_mean, BCa, clusters"}
    assert all(row["scipy / fast"].median > 1 and row["CPU ms"].median > 0 for row in compared)
