"""Computing before the tests that need it: what the terminal says of it, and whose error an error is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caploc.audit.progress import ProgressFile, ProgressLine, plan_line
from caploc.experiments.specs import Outlook, Progress
from caploc.tests.audit.conftest import ClaimsRun

# each computation writes itself down; one dataset's fails
SOURCE = """
from dataclasses import dataclass
import numpy as np
from caploc.experiments.specs import Spec, Task
from caploc.fingerprints import fingerprint

@dataclass(frozen=True)
class Number(Spec):
    dataset: str

    def tasks(self, study):
        def compute():
            with open("computed.log", "a") as log:
                log.write(self.dataset + "\\n")
            if self.dataset == BROKEN:
                raise ValueError("no such tensor")
            return {"number": np.array(0.85)}, {}

        yield Task(fingerprint(self.dataset), compute)

    def read(self, study, entries):
        return float(next(entries).arrays["number"])

    def flops(self, study):
        return 1e12

def number(study, dataset):
    value = study.result(Number(dataset))
    return overlap(value - .01, value + .05)

BROKEN = "emotion"
own = measured(lambda study, cell, _: number(study, cell.dataset), lambda study, cell, _: [Number(cell.dataset)])
same = measured(lambda study, cell, _: number(study, "gsm8k"), lambda study, cell, _: [Number("gsm8k")])

@claim("table1-overlap", own)
def test_own(): ...

@claim("table1-overlap", same)
def test_same(): ...
"""
SETTINGS = ("--seed=1", "--store=store")


def computed(claims_run: ClaimsRun) -> list[str]:
    return (claims_run.pytester.path / "computed.log").read_text(encoding="ascii").split()


def test_what_several_cells_need_is_computed_once_and_before_the_tests(claims_run: ClaimsRun) -> None:
    claims_run.write(SOURCE.replace('BROKEN = "emotion"', "BROKEN = None"))
    run = claims_run(*SETTINGS)
    run.assert_outcomes(passed=4)
    run.stdout.fnmatch_lines(
        [
            "plan: 2 results for 1 model, 0 in the store, 2 to compute, about 2 TFLOP",
            "computed 2 results in *",
            "*test_claims.py *",
        ]
    )
    assert computed(claims_run) == ["gsm8k", "emotion"]
    again = claims_run(*SETTINGS)
    again.stdout.fnmatch_lines(["plan: 2 results for 1 model, all of them in the store"])
    again.stdout.no_fnmatch_line("comput*")
    assert len(computed(claims_run)) == 2
    assert not list((claims_run.pytester.path / "reports").glob(".*progress*"))
    claims_run(*SETTINGS, "-q").stdout.no_fnmatch_line("plan:*")


def test_workers_share_the_work_and_the_line(claims_run: ClaimsRun) -> None:
    claims_run.write(SOURCE.replace('BROKEN = "emotion"', "BROKEN = None"))
    run = claims_run(*SETTINGS, "-n2")
    run.assert_outcomes(passed=4)
    run.stdout.fnmatch_lines(["plan: 2 results for 1 model, *", "computed 2 results in *"])
    assert sorted(computed(claims_run)) == ["emotion", "gsm8k"]


def test_an_error_is_that_of_exactly_the_cells_that_need_the_result(claims_run: ClaimsRun) -> None:
    claims_run.write(SOURCE)
    run = claims_run(*SETTINGS)
    run.assert_outcomes(passed=3, errors=1)
    assert claims_run.summary()["errors"] == {
        "test_own[tiny-llama-emotion-s6]": "call: ValueError: no such tensor"
    }


def test_needs_that_cannot_be_named_are_an_error_of_the_cell(claims_run: ClaimsRun) -> None:
    claims_run.write(
        SOURCE.replace('[Number("gsm8k")]', '[Number("gsm8k")] if cell.dataset == "gsm8k" else 1 / 0')
    )
    claims_run(*SETTINGS)
    assert set(claims_run.summary()["errors"]) == {
        "test_own[tiny-llama-emotion-s6]", "test_same[tiny-llama-emotion-s6]",
    }  # fmt: skip


def test_a_store_that_cannot_be_written_is_said_by_every_cell(claims_run: ClaimsRun) -> None:
    claims_run.write(SOURCE)
    store = claims_run.pytester.mkdir("store")
    (store / "locks").write_text("a file where the folder should be", encoding="ascii")
    claims_run(*SETTINGS)
    errors = claims_run.summary()["errors"]
    assert len(errors) == 4 and all("cannot write the store" in reason for reason in errors.values())


def test_what_is_skipped_needs_nothing(claims_run: ClaimsRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    claims_run.write(SOURCE)
    run = claims_run(*SETTINGS, model="llama2-7b")
    run.assert_outcomes(skipped=4)
    run.stdout.no_fnmatch_line("plan:*")


@pytest.mark.parametrize(
    ("outlook", "line"),
    [
        (Outlook(8, 2, 8, 0.0), "plan: 8 results for 2 models, all of them in the store"),
        (
            Outlook(8, 1, 3, 1.5e12),
            "plan: 8 results for 1 model, 3 in the store, 5 to compute, about 1.5 TFLOP",
        ),
        (Outlook(1, 1, 0, 0.0), "plan: 1 result for 1 model, 0 in the store, 1 to compute"),
    ],
)
def test_the_plan_in_a_line(outlook: Outlook, line: str) -> None:
    assert plan_line(outlook) == line


class Terminal:
    """Of pytest's terminal reporter what the line uses."""

    verbosity = 0

    def __init__(self, isatty: bool) -> None:
        self.isatty, self.written = isatty, list[str]()
        self._tw = self
        self.fullwidth = 60

    def flush(self) -> None:
        pass

    def write_line(self, line: str) -> None:
        self.written.append(line)

    def rewrite(self, line: str, erase: bool = False) -> None:
        self.written.append(f"\r{line}")


@pytest.mark.parametrize("isatty", [True, False])
def test_a_terminal_gets_one_line_again_and_again_and_a_log_a_few(tmp_path: Path, isatty: bool) -> None:
    terminal: Any = Terminal(isatty)
    file, line = ProgressFile(tmp_path / "progress", "1"), ProgressLine(tmp_path / "progress", terminal)
    file.plan(Outlook(40, 1, 0, 40.0))
    line._look()
    for done in range(40):
        file._written = 0.0
        file.progress(Progress(done, 40, done, 40, 2.0 * done, "scores gsm8k (tiny-llama)"))
        line._look()
    file.end(40, 80.0)
    line._look()
    shown = [text for text in terminal.written if "computing: " in text]
    assert (
        terminal.written[0].startswith("plan: 40 results")
        and terminal.written[-1] == "computed 40 results in 1 min 20 s"
    )
    if isatty:
        assert len(shown) == 40 and all(text.startswith("\r") and len(text) <= 60 for text in shown)
        assert shown[20].startswith("\rcomputing: 50% of the work, 20 of 40 results, about 40.")
    else:
        assert 8 <= len(shown) <= 11
        assert shown[-1].endswith("; now scores gsm8k (tiny-llama)")
