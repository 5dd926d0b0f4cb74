"""SIGKILL and signals that can be heard, to one worker and to a whole run, in the middle of a test."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from caploc.audit.results import Result
from caploc.tests.audit.conftest import ClaimsRun, Start, wait_for

# The file "hold" names a test; that one writes down its process id and waits until it is killed. With "stored" there,
# each test computes its number through the store, as an experiment does, and says in a log that it did.
SLOW = """
import time
from pathlib import Path

def compute(name):
    import numpy as np
    with Path("computed.log").open("a") as log:
        log.write(name + "\\n")
    return {"number": np.array(0.9)}, {}

def number_of(name, store):
    if not Path("stored").exists():
        return 0.9
    from caploc.fingerprints import fingerprint
    (entry,) = store.compute_all({fingerprint(name): lambda: compute(name)})
    return float(entry.arrays["number"])

def measure(study, cell, name):
    name = f"{name}[{cell.label}]"
    if Path("hold").exists() and Path("hold").read_text() == name:
        Path("held.tmp").write_text(str(os.getpid()))
        Path("held.tmp").rename("held")
        time.sleep(60)
    value = number_of(name, study.settings.store)
    return overlap(value - .05, value + .05)

for number in range(10):

    def body(): ...

    body.__name__ = f"test_overlap_{number}"
    by_hand = measured(lambda study, cell, claim, name=body.__name__: measure(study, cell, name))
    globals()[body.__name__] = claim("table1-overlap", by_hand)(body)
"""
CELLS = [f"test_overlap_{number}[tiny-llama-gsm8k-s6]" for number in range(10)]
HELD = CELLS[1]


@pytest.fixture(autouse=True)
def slow(claims_run: ClaimsRun) -> None:
    claims_run.write(SLOW)


def findings(path: Path) -> list[Result]:
    """The findings of a ledger, each line of which must be JSON."""
    lines = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [
        Result.loads(json.dumps({key: value for key, value in line.items() if key != "type"}))
        for line in lines
        if line["type"] == "finding"
    ]


@pytest.mark.parametrize("restart", [True, False])
def test_a_killed_worker_leaves_no_cell_unnamed(claims_run: ClaimsRun, start: Start, restart: bool) -> None:
    folder = claims_run.pytester.path
    (folder / "hold").write_text(HELD, encoding="ascii")
    run = start("-n2") if restart else start("-n2", "--max-worker-restart=0")
    wait_for((folder / "held").exists)
    (folder / "hold").unlink()
    os.kill(int((folder / "held").read_text()), signal.SIGKILL)
    shown, _ = run.communicate(timeout=300)
    assert run.returncode != 0
    reported = {result.planned.test for result in findings(folder / "reports" / "run.jsonl")}
    missing = [cell for cell in CELLS if cell not in reported]
    assert HELD in missing
    if restart:
        assert missing == [HELD]  # another worker took the rest
    summary = claims_run.summary("run.json")
    assert sorted(summary["missing"]) == missing
    assert summary["missing"][HELD] == "its worker process died while it ran"
    assert summary["counts"]["SUPPORTED"] == len(CELLS) - len(missing)
    page = (folder / "reports" / "run.html").read_text(encoding="utf-8")
    for cell in missing:
        assert f"  MISSING {cell}: " in shown
        assert cell in page


def test_a_killed_run_keeps_its_findings_and_the_next_goes_on_from_there(
    claims_run: ClaimsRun, start: Start
) -> None:
    folder = claims_run.pytester.path
    ledger = folder / "reports" / "run.jsonl"
    (folder / "stored").touch()
    (folder / "hold").write_text(HELD, encoding="ascii")
    run = start("-n2")
    wait_for(lambda: (folder / "held").exists() and len(findings(ledger)) >= 3)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=300)
    (folder / "hold").unlink()
    before = findings(ledger)
    assert len(before) >= 3 and all(result.status == "SUPPORTED" for result in before)
    assert not (folder / "reports" / "run.json").exists()  # that run never ended

    again = start("-n0")
    shown, _ = again.communicate(timeout=300)
    assert again.returncode == 0, shown
    assert {result.planned.test for result in findings(ledger)} == set(CELLS)
    assert claims_run.summary("run.json")["counts"]["SUPPORTED"] == len(CELLS)
    computed = Counter((folder / "computed.log").read_text(encoding="ascii").split())
    assert set(computed) == set(CELLS)
    assert all(
        computed[result.planned.test] == 1 for result in before
    )  # what was finished was not done again
    assert computed.total() <= len(CELLS) + 1  # but for what the other worker was doing when it died


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_run_that_is_told_to_end_says_what_is_missing(
    claims_run: ClaimsRun, start: Start, workers: str
) -> None:
    folder = claims_run.pytester.path
    reports = folder / "reports"
    reports.mkdir()
    earlier = [reports / f"run.{kind}" for kind in ("html", "json", "jsonl")]
    for path in earlier:
        path.write_text('{"run": "an earlier one", "status": "finished"}\n', encoding="ascii")
    (folder / "hold").write_text(HELD, encoding="ascii")
    run = start(workers)
    wait_for(lambda: (folder / "held").exists() and len(findings(earlier[2])) >= 1)
    # as SIGKILL would leave it: nothing of the earlier run, and nothing that passes for finished
    left = {path.name: path for path in reports.iterdir() if path in earlier}
    page = left.pop("run.html", None)  # there is one if the run has been going on for long
    assert list(left) == ["run.jsonl"]
    assert page is None or " so far; still running" in page.read_text(encoding="utf-8")
    assert claims_run.ledger("run.jsonl")[0]["status"] == "started"

    os.killpg(run.pid, signal.SIGTERM)  # as timeout does
    shown, _ = run.communicate(timeout=300)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, shown
    lines = claims_run.ledger("run.jsonl")
    ended = [line for line in lines if line["type"] in ("finding", "cell")]
    assert [line["planned"]["test"] for line in ended] == CELLS  # each once
    assert {line["status"] for line in ended if line["type"] == "finding"} == {"SUPPORTED"}
    missing = [line["planned"]["test"] for line in ended if line["type"] == "cell"]
    assert HELD in missing
    assert (lines[0]["status"], lines[-1]["status"]) == ("interrupted", "interrupted")
    summary = claims_run.summary("run.json")
    assert sorted(summary["missing"]) == missing and summary["provenance"]["status"] == "interrupted"
    assert "INTERRUPTED" in shown and f"  MISSING {HELD}: " in shown
    last = earlier[0].read_text(encoding="utf-8")
    assert "Interrupted" in last and "still running" not in last
