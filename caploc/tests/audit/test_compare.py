"""Comparing two runs: what is listed, the exit status, and what is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caploc.audit.__main__ import main
from caploc.tests.audit.conftest import ClaimsRun

Edit = Callable[[dict[str, Any]], object]


def cell(test: str, status: str = "SUPPORTED", estimate: float | None = 0.9, **more: Any) -> dict[str, Any]:
    interval = None if estimate is None else [estimate - 0.05, estimate + 0.05]
    entry = {
        "test": test,
        "paper": "p",
        "claim": "table1-overlap",
        "model": "m",
        "status": status,
        "reason": "because",
    }
    return {**entry, "estimate": estimate, "interval": interval, "unit": "fraction", **more}


RUN: dict[str, Any] = {
    "kind": "caploc audit",
    "schema": 2,
    "run": "r",
    "provenance": {
        "started": "2025-01-01",
        "commit": "0123456789abcdef",
        "dirty": False,
        "packages": {"torch": "2.6", "numpy": "2.0"},
        "papers": {"p": "aaaa"},
        "settings": {
            "seed": 0, "samples": None, "store": "/a", "models": [{"label": "m"}], "reading": {"scope": "model"},
        },
        "fingerprints": {"model m": "f00d"},
    },
    "cells": [cell("a"), cell("b", "REFUTED", 0.2), cell("c", "NOT RUN", None, reason="no GPU"), cell("d")],
    "derived": [{"paper": "p", "claim": "x", "model": "m", "status": "INCONCLUSIVE", "reason": ""}],
}  # fmt: skip


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(edit: Edit = lambda _: None) -> tuple[int, str, str]:
        """Compares the run above with itself after an edit."""
        later = copy.deepcopy(RUN)
        edit(later)
        paths = [tmp_path / "a.json", tmp_path / "b.json"]
        for path, content in zip(paths, (RUN, later), strict=True):
            path.write_text(json.dumps(content), encoding="ascii")
        status = main(["compare", *map(str, paths)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


Compare = Callable[..., tuple[int, str, str]]


def test_the_same_run_is_the_same(
    compare: Compare, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = compare()
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 4
    assert (
        out.splitlines()[-1]
        == "4 cells in both runs, 4 of them identical in verdict, estimate, interval and p; no verdict moved"
    )
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 0


def test_a_verdict_that_moved(compare: Compare) -> None:
    status, out, _ = compare(lambda run: run["cells"].__setitem__(1, cell("b", "SUPPORTED", 0.85)))
    assert status == 1
    assert (
        "verdicts that moved (1)\n  b  REFUTED -> SUPPORTED  20.00 [15.00, 25.00] % -> 85.00 [80.00, 90.00] %"
        in out
    )
    assert "outside the other" not in out  # said above already
    assert out.endswith(
        "3 of them identical in verdict, estimate, interval and p; 1 verdict moved; the largest relative change of a "
        "number is 0.81\n"
    )


@pytest.mark.parametrize("status", ["ERROR", "MISSING"])
def test_a_verdict_that_an_error_took_away_moved(compare: Compare, status: str) -> None:
    code, out, _ = compare(lambda run: run["cells"].__setitem__(0, cell("a", status, None)))
    assert code == 1 and f"SUPPORTED -> {status}" in out


def test_a_number_that_changed_in_its_last_digit_is_not_identical(compare: Compare) -> None:
    status, out, _ = compare(lambda run: run["cells"][0].update(interval=[0.85, 0.95 * (1 + 2e-7)], p=None))
    assert status == 0 and "4 cells in both runs, 3 of them identical" in out
    assert out.endswith("no verdict moved; the largest relative change of a number is 2e-07\n")


def test_what_one_run_could_not_run_did_not_move(compare: Compare) -> None:
    status, out, _ = compare(lambda run: run["cells"].__setitem__(2, cell("c")))
    assert status == 0
    assert "cells that one run could not run (1)\n  1 cell  in A: no GPU" in out


def test_a_derived_verdict_that_moved(compare: Compare) -> None:
    status, out, _ = compare(lambda run: run["derived"][0].update(status="REFUTED"))
    assert status == 1
    assert "derived verdicts that moved (1)\n  x m  INCONCLUSIVE -> REFUTED" in out


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ({"estimate": 0.94}, False),
        ({"estimate": 0.96}, True),  # outside the earlier interval [0.85, 0.95]
        ({"estimate": 0.94, "interval": [0.91, 0.97]}, True),  # the earlier one outside the later interval
        ({"estimate": 0.94, "interval": None}, False),
        ({"interval": [0.95, 0.99]}, False),  # the same estimate, if outside an interval that bootstraps gave
        ({"estimate": None, "interval": None}, False),
    ],
)
def test_an_estimate_that_left_the_interval(compare: Compare, change: dict[str, Any], listed: bool) -> None:
    status, out, _ = compare(lambda run: run["cells"][0].update(change))
    assert status == 0
    assert ("estimates outside the other run's interval (1)\n  a  SUPPORTED" in out) is listed


def test_without_intervals_any_difference_is_told(compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUN, "cells", [cell("a", interval=None, estimate=2, unit="count")])
    status, out, _ = compare(lambda run: run["cells"][0].update(estimate=3))
    assert status == 0 and "interval (1)\n  a  SUPPORTED  2 -> 3" in out


def test_cells_of_one_run_alone(compare: Compare) -> None:
    status, out, _ = compare(lambda run: run["cells"].__setitem__(3, cell("e")))
    assert status == 0
    assert "cells only in A (1)\n  d  SUPPORTED" in out and "cells only in B (1)\n  e  SUPPORTED" in out
    assert "3 cells in both runs" in out


def test_runs_without_a_cell_in_common_are_not_taken_for_equal(compare: Compare) -> None:
    status, out, err = compare(lambda run: run.update(cells=[cell("other")]))
    assert status == 2 and "cells only in B (1)" in out
    assert err == "error: the two runs have no cell in common; nothing was compared\n"


def test_settings_and_sources_that_differ(compare: Compare) -> None:
    def edit(run: dict[str, Any]) -> None:
        provenance = run["provenance"]
        provenance |= {"started": "2026-01-01", "dirty": True}
        provenance["settings"] |= {"seed": 1, "samples": 20, "store": "/b"}
        provenance["settings"]["reading"] = {"scope": "layer"}
        provenance["settings"]["models"].append({"label": "n"})
        provenance["packages"] = {"torch": "2.7", "numpy": "2.0"}
        provenance["papers"]["p"] = "bbbb"
        provenance["fingerprints"] = {"model m": "beef", "data d for m": "of one run alone"}

    status, out, _ = compare(edit)
    assert status == 0
    section = out.partition("settings and sources that differ")[2].splitlines()[1:-2]
    assert [line.split(maxsplit=1) for line in section[:-1]] == [
        ["dirty", "False -> True"],
        ["packages.torch", "2.6 -> 2.7"],
        ["papers.p", "aaaa -> bbbb"],
        ["settings.seed", "0 -> 1"],
        ["settings.samples", "- -> 20"],
        ["settings.models", "m -> m, n"],
        ["settings.reading.scope", "model -> layer"],
    ]
    assert section[-1].split(maxsplit=4) == ["fingerprints.model", "m", "f00d", "->", "beef"]


def test_what_older_runs_do_not_say_is_no_difference(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(run: dict[str, Any]) -> None:
        provenance = run["provenance"] | {"status": "finished", "left_out": ["1 item of d left out: a copy"]}
        provenance["settings"] |= {"device": {"m": "cpu"}, "dtype": {"m": "float32"}}
        run["provenance"] = provenance

    assert "settings and sources that differ" not in compare(newer)[1]
    monkeypatch.setitem(RUN["provenance"]["settings"], "device", "auto")
    assert "settings and sources that differ" not in compare(newer)[1]


def test_another_device_and_an_interruption_are_differences(
    compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RUN["provenance"], "status", "finished")
    monkeypatch.setitem(RUN["provenance"]["settings"], "device", {"m": "cpu"})

    def edit(run: dict[str, Any]) -> None:
        run["provenance"]["status"] = "interrupted"
        run["provenance"]["settings"]["device"] = {"m": "cuda"}

    out = compare(edit)[1]
    assert "settings.device.m  cpu -> cuda" in out and "finished -> interrupted" in out


def test_a_run_of_schema_1_is_read_too(compare: Compare) -> None:
    def as_it_was(run: dict[str, Any]) -> None:
        run["schema"] = 1
        run["provenance"]["paper"] = {"key": "p", "digest": run["provenance"].pop("papers")["p"]}
        for entry in [*run["cells"], *run["derived"]]:
            del entry["paper"]

    status, out, err = compare(as_it_was)
    assert (status, err) == (0, "") and len(out.splitlines()) == 4
    status, out, _ = compare(lambda run: (run["cells"][0].update(status="REFUTED"), as_it_was(run)))
    assert status == 1 and "verdicts that moved (1)\n  a  SUPPORTED -> REFUTED" in out


def test_two_papers_may_have_a_claim_of_one_name(compare: Compare) -> None:
    status, out, _ = compare(lambda run: run["cells"].append(cell("a", "REFUTED", 0.1, paper="q")))
    assert status == 0
    assert "cells only in B (1)\n  a  REFUTED" in out and "4 cells in both runs" in out


def test_hostile_text_is_shown_not_obeyed(compare: Compare) -> None:
    def edit(run: dict[str, Any]) -> None:
        run["cells"][0] = cell("a", "\x1b[31mRED\u202e", unit="\x1b", estimate=0.1)
        odd = cell("\x1b[2J\ud800" + "x" * 5000, "REFUTED\n")
        run["cells"].append(odd | {"estimate": "\x07", "interval": ["\x07", {}]})
        run["provenance"]["packages"]["\x1b[31m"] = "\u202e"

    status, out, _ = compare(edit)
    assert status == 1
    assert not any(mark in out for mark in ("\x1b", "\u202e", "\ud800", "\x07"))
    assert max(map(len, out.splitlines())) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "x.json: cannot be read: No such file or directory"),
        ("", "x.json: is not JSON: "),
        ('{"type": "provenance"}\n{"type": "finding"}', "x.json: is not JSON: Extra data"),
        ("\x00\xff", "x.json: is not JSON: "),
        ("[" * 100_000, "x.json: is not JSON: "),
        ('{"kind": NaN}', "x.json: is not JSON: NaN is no number in JSON"),
        ("[]", "x.json: is no summary of an audit; give the .json beside a run's ledger"),
        ('{"counts": {}}', "x.json: is no summary of an audit"),
        ('{"kind": "caploc audit", "schema": 9}', "x.json: has schema 9, this version reads 1 and 2"),
        ('{"kind": "caploc audit", "schema": 1}', "x.json: lacks provenance"),
        ('{"kind": "caploc audit", "schema": 1, "provenance": {}, "cells": 1}', "x.json: cells: a list is expected"),
        ('{"kind": "caploc audit", "schema": 1, "provenance": {}, "cells": [{"claim": 1}]}',
         "x.json: cells: entry 1 lacks claim, test, status"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    assert main(["compare", str(path), str(path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and message in shown.err and shown.err.count("\n") == 1


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("exit status", "reports/ledger.json", "example"))
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2


def test_two_runs_of_one_seed_are_equal_whatever_the_number_of_workers(
    claims_run: ClaimsRun, capsys: pytest.CaptureFixture[str]
) -> None:
    claims_run.write(
        """
@claim("table1-overlap", measured(lambda study, cell, claim: overlap(
    .85 + study.settings.seed / 1000, .95, settings={"model_fingerprint": "f00d"})))
def test_overlap(): ...
"""
    )
    claims_run("--seed=1", "-n0", "--html=reports/a.html")
    claims_run("--seed=1", "-n2", "--html=reports/b.html")
    claims_run("--seed=2", "-n0", "--html=reports/c.html")
    reports = claims_run.pytester.path / "reports"
    capsys.readouterr()
    assert main(["compare", str(reports / "a.json"), str(reports / "b.json")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4  # the runs and the sentence, nothing differs
    assert main(["compare", str(reports / "a.json"), str(reports / "c.json")]) == 0
    assert "settings.seed  1 -> 2" in capsys.readouterr().out
