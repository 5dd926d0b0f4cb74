"""The ledger outlives workers, torn lines and hostile strings, and says the same whatever the number of workers."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caploc.audit.ledger import Ledger, RunRecord, start_ledger
from caploc.audit.results import Planned, Result, Status
from caploc.findings import Bound, Cell, Finding, Measurement, Outcome, Verdict
from caploc.tests.audit.conftest import ClaimsRun


def head() -> dict[str, Any]:
    return {"commit": "abc"}


def test_only_the_first_process_of_a_run_begins_the_file(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "x.jsonl"
    first, second = Ledger(path, "run-1"), Ledger(path, "run-1")
    first.start(head, [{"type": "planned"}])
    first.append({"type": "finding", "n": 1})
    second.start(head, [{"type": "planned"}])
    second.append({"type": "finding", "n": 2})
    assert [line["type"] for line in first.read()] == ["provenance", "planned", "finding", "finding"]
    later = Ledger(path, "run-2")
    assert later.read() == []  # another run's lines are not its own
    later.start(head, [])
    assert [line["run"] for line in later.read()] == ["run-2"]


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "x.jsonl", "run")
    ledger.start(head, [])
    with ledger.path.open("ab") as file:
        file.write(b'{"type": "finding", "claim": "tab')  # killed here
    ledger.append({"type": "finding", "n": 1})
    assert [line.get("n") for line in ledger.read()] == [None, 1]


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    ledgers = [Ledger(tmp_path / "x.jsonl", "run") for _ in range(4)]

    def write(writer: int) -> None:
        ledgers[writer].start(head, [])
        for n in range(20):
            ledgers[writer].append({"writer": writer, "n": n, "text": "x" * 20_000})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    lines = ledgers[0].read()[1:]
    assert sorted((line["writer"], line["n"]) for line in lines) == [
        (w, n) for w in range(4) for n in range(20)
    ]


def test_numbers_and_strings_of_any_kind_become_strict_ascii_json(tmp_path: Path) -> None:
    finding = Finding(
        "table1-overlap",
        Cell("m", "d", 6.0),
        Measurement(
            "nul \x00 surrogate \ud800 separator \u2028",
            Bound(np.float32(0.5), (math.nan, np.float64(1))),  # type: ignore[arg-type]
            asides={"array": np.arange(3), "infinite": math.inf},  # type: ignore[dict-item]
            n=np.int64(3),  # type: ignore[arg-type]
        ),
    )
    planned = Planned("f::t", "t", "table1-overlap", finding.cell)
    result = Result.of(planned, finding, Verdict(Outcome.SUPPORTED, "\udfff"))
    text = result.dumps()
    assert text.isascii() and "\n" not in text and "NaN" not in text
    assert Result.loads(text) == Result.loads(Result.loads(text).dumps())
    ledger = Ledger(tmp_path / "x.jsonl", "run")
    ledger.start(head, [])
    ledger.append(vars(result))
    raw = ledger.path.read_bytes()
    assert raw.isascii() and len(raw.splitlines()) == 2
    saved = ledger.read()[1]["finding"]
    assert saved["interval"] == [None, 1.0] and saved["asides"] == {"array": [0, 1, 2], "infinite": None}


MIXED = """
for low in (0.1, 0.4, 0.85, None):
    found = not_run("no data") if low is None else overlap(
        low, low + 0.1, notes=["\\ud800 lone"], asides={"x": __import__("numpy").float32(.1)})

    def body(): ...

    body.__name__ = f"test_overlap_{low}"
    globals()[body.__name__] = claim("table1-overlap", measured(found))(body)
"""


def comparable(lines: list[dict[str, Any]]) -> list[str]:
    """Everything but what differs between two runs of the same code: their names, times and commands."""
    for line in lines:
        for name in ("run", "started", "command"):
            line.pop(name, None)
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


def test_two_workers_write_what_one_process_writes(claims_run: ClaimsRun) -> None:
    claims_run.write(MIXED)
    claims_run("--seed=1", "-n0")
    alone, summary = claims_run.ledger(), claims_run.summary()
    run = claims_run("--seed=1", "-n2")
    run.assert_outcomes(failed=2, xfailed=2, passed=2, skipped=2)
    assert comparable(claims_run.ledger()) == comparable(alone)
    again = claims_run.summary()
    assert comparable([again, again.pop("provenance")]) == comparable([summary, summary.pop("provenance")])
    run.stdout.fnmatch_lines(["all cells: 2 supported, 2 refuted, 2 inconclusive, 2 not run: no data*"])


DYING = """
def measure(number, cell):
    if number == 1 and cell.dataset == "emotion":
        os.kill(os.getpid(), 9)
    if number == 2:
        raise ValueError("\\ud800 <b>")  # a message that cannot be sent as it is
    return overlap(0.85, 0.9)

for number in range(4):

    def body(): ...

    body.__name__ = f"test_overlap_{number}"
    by_hand = measured(lambda study, cell, claim, number=number: measure(number, cell))
    globals()[body.__name__] = claim("table1-overlap", by_hand)(body)
"""


def test_a_worker_that_dies_leaves_a_named_gap(claims_run: ClaimsRun) -> None:
    claims_run.write(DYING)
    run = claims_run("--seed=1", "-n2", "--html=reports/dying.html")
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    summary = claims_run.summary("dying.json")
    (missing,) = summary["missing"]
    assert "emotion" in missing and missing.startswith("test_overlap_1[")
    assert summary["counts"] == {
        "SUPPORTED": 5, "REFUTED": 0, "INCONCLUSIVE": 0, "MEASURED": 0, "NOT RUN": 0, "ERROR": 2, "MISSING": 1,
    }  # fmt: skip
    run.stdout.fnmatch_lines(
        [f"  MISSING {missing.replace('[', '?').replace(']', '?')}: its worker process died*"]
    )
    assert [line["status"] for line in claims_run.ledger("dying.jsonl") if line["type"] == "cell"].count(
        "MISSING"
    ) == 1
    html = (claims_run.pytester.path / "reports" / "dying.html").read_text(encoding="utf-8")
    assert "Missing: planned, but never reported (1)" in html and missing in html


def test_recording_works_across_workers(claims_run: ClaimsRun) -> None:
    claims_run.write(MIXED)
    claims_run("--record-expectations", "-n2").assert_outcomes(passed=2, xfailed=4, skipped=2)
    recorded = claims_run.expected.read_text(encoding="utf-8")
    assert recorded.count("[cells.") == 8 and recorded.count('verdict = "NOT RUN"') == 2
    claims_run().assert_outcomes(passed=2, xfailed=4, skipped=2)


def test_a_cell_has_one_line_whether_its_report_arrived_or_not(tmp_path: Path) -> None:
    cells = [Planned(f"f::t{n}", f"t{n}", "table1-overlap", Cell("m", "d", 6.0)) for n in range(3)]
    ledger = Ledger(tmp_path / "x.jsonl", "run")
    start_ledger(ledger, {cell: [cell.nodeid] for cell in cells}, head)
    found = Finding("table1-overlap", cells[0].cell, Measurement("overlap", Bound(0.9, (0.8, 1.0))))
    written = Result.of(cells[0], found, Verdict(Outcome.SUPPORTED, "so"))
    ledger.append({"type": "finding", **vars(written)})  # and then its worker was stopped
    record = RunRecord(ledger)
    record.finish({}, interrupted=True)
    assert [one.status for one in record.results] == [Status.SUPPORTED, Status.MISSING, Status.MISSING]
    late = Result.of(cells[1], found, Verdict(Outcome.REFUTED, "so"))
    ledger.append({"type": "finding", **vars(late)})  # by a worker that goes on for a moment
    ended = [line["planned"]["nodeid"] for line in ledger.read() if line["type"] in ("finding", "cell")]
    assert ended == [cell.nodeid for cell in cells]
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".lock"] == []


def test_a_run_neither_reports_nor_writes_over_a_later_one(tmp_path: Path) -> None:
    cell = Planned("f::t", "t", "table1-overlap", Cell("m", "d", 6.0))
    first, second = (Ledger(tmp_path / "x.jsonl", f"run-{n}") for n in range(2))
    start_ledger(first, {cell: [cell.nodeid]}, head)
    record = RunRecord(first)
    assert list(record.tests) == [cell]
    start_ledger(second, {cell: [cell.nodeid]}, head)
    first.append({"type": "finding"})
    record.finish({}, interrupted=False)
    assert [line["type"] for line in second.read()] == ["provenance", "planned"]
    assert not (tmp_path / "x.json").exists()
