"""What a check shows: text, HTML, JSON, the error under ``strict``, pytest parameters, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import caploc
from caploc.check import DUTIES, MARKS, MEASURES, LocatorCheckError, parametrize_with_locator_checks
from caploc.check.__main__ import find, main
from caploc.check.contract import calls
from caploc.check.results import planned
from caploc.errors import OptionError, UnknownNameError
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.check.planted import planted

HOME = Path(caploc.__file__).resolve().parents[1]


def truth(lm: LanguageModel, examples: Any) -> NeuronMask:
    """Finds what was planted, for the planted task alone."""
    own = examples[0].answer in "wxyz"
    scores = planted().neurons.double() if own else 1 - planted().neurons.double()
    return NeuronMask(scores > 0, scores=scores)


def lost(lm: LanguageModel, examples: Any) -> NeuronMask:
    scores = torch.arange(120.0).reshape(3, 40)
    return NeuronMask(scores > 110, scores=scores)


def breaks(lm: LanguageModel, examples: Any) -> None:
    raise RuntimeError("<script>alert(1)</script>")


def check(locate: Any, **options: Any) -> caploc.check.LocatorReport:
    return caploc.check_locator(locate, [planted()], progress=False, workers=1, **options)


def test_marks_are_data_about_measures_with_reasons() -> None:
    assert len({mark.key for mark in MARKS} | set(DUTIES)) == len(MARKS) + len(DUTIES)
    for mark in MARKS:
        assert mark.measure in MEASURES and mark.kinds and mark.why
        assert mark.met(mark.bound) and not mark.met(
            mark.bound + (0.01 if mark.relation == "at most" else -0.01)
        )


def test_all_met() -> None:
    report = check(truth, strict=True)
    assert report.passed and not report.missed
    assert str(report).startswith("truth: 17 of 17 checks met on 1 models") and "missed" not in str(report)
    content = json.loads(report.to_json())
    assert content["passed"] and {one["outcome"] for one in content["checks"]} == {"met"}
    assert content["measures"][0]["AUC"] == 1 and content["measures"][0]["kind"] == "written"
    assert [one["check"] for one in content["checks"]] == [
        one.key for one in planned("planted", "written", True)
    ]


def test_strict_names_every_missed_mark() -> None:
    with pytest.raises(LocatorCheckError) as caught:
        check(lost, strict=True)
    text = str(caught.value)
    assert text.startswith("lost missed ")
    for line in (
        "  planted: ranks-written: AUC is 0.",
        "must be at least 0.99: they alone carry it: nothing may rank above",
        "  planted: precision: precision is 0, must be at least 0.7",
        "  planted: recall: recall is 0, must be at least 0.5",
        "  planted: erases: erased above chance is 0.75, must be at most 0.1",
        "  planted: beats-random: random as harmful is 1, must be at most 0",
    ):
        assert line in text
    assert isinstance(caught.value, AssertionError)
    report = check(lost)
    assert not report.passed and all(str(one) in str(report) for one in report.missed)


def test_what_foreign_code_says_is_escaped_in_html() -> None:
    shown = check(breaks)._repr_html_()
    assert "<script>" not in shown and "&lt;script&gt;" in shown
    assert "<table>" in shown


def test_a_broken_call_leaves_marks_unjudged() -> None:
    report = check(breaks)
    assert [one.check.key for one in report.missed] == ["runs"]
    assert "  planted: in-time, shape, finite," in str(report)
    assert "a call gave no answer, see runs" in str(report)


def test_sets_and_rankings_alone() -> None:
    outcomes = {one.check.key: one for one in check(lambda lm, examples: truth(lm, examples).values).judged}
    assert outcomes["ranks-written"].outcome == "not judged" and outcomes["recall"].outcome == "met"
    assert "return a NeuronMask with its scores" in outcomes["ranks-written"].reason
    outcomes = {one.check.key: one for one in check(lambda lm, examples: truth(lm, examples).scores).judged}
    assert outcomes["recall"].outcome == "not judged" and outcomes["ranks-written"].outcome == "met"
    assert outcomes["erases"].outcome == "met", "of a ranking, the top |M| are erased"


def test_others_are_given_to_those_that_ask() -> None:
    seen: dict[str, Any] = {}

    def contrast(lm: LanguageModel, examples: Any, others: Any, weight: float) -> NeuronMask:
        tasks = {one.answer in "wxyz" for one in examples}, {one.answer in "wxyz" for one in others}
        if tasks not in (({True}, {False}), ({False}, {True})):
            raise ValueError(f"mixed up: {tasks}")
        seen[examples[0].id] = weight
        return truth(lm, examples)

    assert check(contrast, options={"weight": 2.0}).passed and seen == {}, "it runs in a child"


def test_halves_are_drawn_and_hold_each_example_once() -> None:
    model = planted()
    turns = replace(model, examples=tuple(replace(model.examples[0], id=str(at)) for at in range(41)))
    planned_calls = calls(turns, repeat=True)
    one, other = (
        [int(example.id) for example in planned_calls[f"{name} half"][0]] for name in ("first", "second")
    )
    assert sorted(one + other) == list(range(41)) and len(one) == 21
    assert 5 < sum(at % 2 for at in one) < 16, "not every second one"
    assert planned_calls["the same again"] == planned_calls["first half"]
    assert [len(some) for some, _ in planned_calls.values()] == [41, 21, 21, 20, 8]
    nothing = calls(replace(turns, neurons=torch.zeros_like(model.neurons)), repeat=False)
    assert list(nothing) == ["all examples"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout must be a positive number of seconds, got 0"),
        ({"timeout": float("nan")}, "timeout must be a positive"),
        ({"workers": 0}, "workers must be a whole number of at least 1, got 0"),
        ({"models": []}, "no models to check a locator on"),
        ({"models": [3]}, "models are names or ZooModel objects, got int"),
        ({"models": [planted(), planted()]}, "two models are called 'planted'"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        caploc.check_locator(truth, **{"models": [planted()], "progress": False, **options})


def test_what_cannot_be_called() -> None:
    with pytest.raises(
        OptionError, match=r"a locator is a callable locate\(lm, examples, \*\*options\), got int"
    ):
        caploc.check_locator(3, [planted()])  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        caploc.check_locator(truth, ["no-such-model"])
    with pytest.raises(OptionError, match="pass a list of at least one locator"):
        parametrize_with_locator_checks(truth)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="got str"):
        parametrize_with_locator_checks(["cnl"], models=[planted()])  # type: ignore[list-item]


PROJECT = """
from caploc import LocatorCheckError, parametrize_with_locator_checks
from caploc.tests.check.planted import planted
from caploc.tests.check.test_results import lost, truth

@parametrize_with_locator_checks([truth, lost], models=[planted()])
def test_locators(locate, check):
    check(locate)

@parametrize_with_locator_checks([lambda lm, examples: truth(lm, examples).values], models=[planted()])
def test_sets(locate, check):
    check(locate)
"""


def test_one_test_a_check_in_another_project(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_mine=PROJECT)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-v", "-rs")
    missed = {mark.key for mark in MARKS if "written" in mark.kinds} - {"own-task"}
    every = len(planned("planted", "written", True))
    result.assert_outcomes(passed=every + every - len(missed) + every - 2, failed=len(missed), skipped=2)
    result.stdout.fnmatch_lines(
        [
            "*test_locators[[]truth-planted-runs] PASSED*",
            "*test_locators[[]lost-planted-recall] FAILED*",
            "*LocatorCheckError: planted: recall: recall is 0, must be at least 0.5*",
            "*the locator gives a set without a ranking*",
        ]
    )


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find("cnl") is caploc.LOCATORS["cnl"]
    assert find("caploc.tests.check.test_results:truth") is truth
    (tmp_path / "mine.py").write_text("class Own:\n    def locate(lm, examples):\n        return 1\n")
    assert find(f"{tmp_path / 'mine.py'}:Own.locate").__name__ == "locate"
    (tmp_path / "broken.py").write_text("import nothing_like_it\n")
    for name, message in (
        ("nonsense", "no locator is called 'nonsense'; name one of cnl, kn"),
        (f"{tmp_path}/none.py:locate", "there is no file"),
        (
            f"{tmp_path}/broken.py:locate",
            "cannot be imported: ModuleNotFoundError: No module named 'nothing_like_it'",
        ),
        ("caploc.tests.check.test_results:nonsense", "has no 'nonsense'"),
    ):
        assert main([name]) == 2
        assert message in capsys.readouterr().err
    assert main(["cnl", "--option", "sigma"]) == 2
    assert "--option 'sigma' is not NAME=VALUE" in capsys.readouterr().err
    assert main(["cnl", "--json", str(tmp_path / "no" / "out.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_help_teaches() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "caploc.check", "--help"], capture_output=True, text=True, check=True, cwd=HOME
    ).stdout
    for part in (
        "def locate(lm, examples, others=None)",
        "python -m caploc.check mypackage.module:locate",
        *DUTIES,
    ):
        assert part in shown
    assert all(mark.key in shown and mark.why in shown for mark in MARKS)
