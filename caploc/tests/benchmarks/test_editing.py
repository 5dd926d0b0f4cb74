"""The editing benchmark: both ways do the same work, and disagreement is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caploc.benchmarks import BENCHMARKS, Options
from caploc.benchmarks.__main__ import main
from caploc.benchmarks.editing import QUESTIONS, speed
from caploc.benchmarks.editing.cases import QUICK, TOKENS, random_case
from caploc.interventions.rank_one.prompts import Editing


def test_the_registry_lists_the_questions_that_are_answered() -> None:
    assert list(BENCHMARKS["editing"].questions) == list(QUESTIONS)


@pytest.mark.parametrize("token", TOKENS)
def test_both_ways_take_the_same_steps(token: str) -> None:
    lm, prompts = random_case(3, 16, token)
    editing = Editing(steps=3, stop_loss=0.0)
    ours, theirs = speed.together(lm, prompts, editing), speed.one_by_one(lm, prompts, editing)
    assert [len(losses) for losses in ours] == [3, 3, 1 if token == "last-subject" else 3]
    for own, other in zip(ours, theirs, strict=True):
        assert own == pytest.approx(other, rel=1e-5)


def test_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    assert main(["editing", "--quick", "--repeat", "1", "--json", str(file)]) == 0
    assert "one by one / together" in capsys.readouterr().out
    fast, success = json.loads(file.read_text())["benchmarks"]["editing"]
    assert [row["model"] for row in fast["rows"]] == ["random-llama-2x32", "tiny-llama"] * len(TOKENS)
    layers = [row["layer"] for row in success["rows"]]
    assert layers == [None, *range(6), *range(6)]
    assert success["rows"][0]["efficacy"] == 0


def test_disagreement_is_a_note_and_not_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_SAME", -1.0)
    (table,) = speed.measure_speed(QUICK, Options(quick=True, repeat=1))
    assert not table.rows
    assert any("losses together and one by one differ by" in note for note in table.notes)
