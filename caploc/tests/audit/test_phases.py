"""The phases of a run: what comes first, the pages that stand meanwhile, and what a killed run leaves."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import html5lib
import pytest

from caploc.audit.results import Planned, Result, Status, corrected, derived
from caploc.audit.running import PHASES, phases
from caploc.findings import Cell
from caploc.papers import load_paper
from caploc.tests.audit.conftest import PAPER, ClaimsRun, Start, wait_for

# a cheap headline claim after dear cells, whose computing waits as long as there is the file "hold"
SOURCE = """
import time
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from caploc.experiments.specs import Spec, Task
from caploc.fingerprints import fingerprint

@dataclass(frozen=True)
class Number(Spec):
    name: str
    cost: float

    def tasks(self, study):
        def compute():
            with Path("computed.log").open("a") as log:
                log.write(self.name + "\\n")
            while self.name == "dear" and Path("hold").exists():
                Path("held").touch()
                time.sleep(.01)
            return {"number": np.array(.9)}, {}

        yield Task(fingerprint(self.name), compute)

    def read(self, study, entries):
        return float(next(entries).arrays["number"])

    def flops(self, study):
        return self.cost

def needing(spec):
    def measure(study, cell, claim):
        value = study.result(spec)
        return overlap(value - .05, value + .05)
    return measured(measure, lambda *_: [spec])

for number in range(5):

    def body(): ...

    body.__name__ = f"test_dear_{number}"
    globals()[body.__name__] = claim("table1-overlap", needing(Number("dear", 1e13)))(body)

@claim("abstract-gsm8k-overlap", needing(Number("cheap", 1e12)))
def test_cheap(): ...
"""
CELLS = [f"test_dear_{number}[tiny-llama-gsm8k-s6]" for number in range(5)] + [
    "test_cheap[tiny-llama-gsm8k-s6]"
]
# pytest-html is killed in the middle of its last page
KILLING = """
import os, signal
from pytest_html.basereport import BaseReport

write = BaseReport._write_report

def half(self, page):
    if self._report.running_state == "finished":
        write(self, page[: len(page) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, page)

BaseReport._write_report = half
"""


@pytest.fixture
def folder(claims_run: ClaimsRun) -> Path:
    claims_run.write(SOURCE)
    (claims_run.pytester.path / "hold").touch()
    return claims_run.pytester.path


def page_of(folder: Path) -> str:
    """The text of the report, which must be a whole page."""
    source = (folder / "reports" / "run.html").read_text(encoding="utf-8")
    assert source.rstrip().endswith("</html>") and "Content-Security-Policy" in source
    return " ".join("".join(html5lib.parse(source, namespaceHTMLElements=False).itertext()).split())


def computed(folder: Path) -> list[str]:
    return (folder / "computed.log").read_text(encoding="ascii").split()


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_first_page_stands_before_the_dear_cells_are_computed(
    claims_run: ClaimsRun, folder: Path, start: Start, workers: str
) -> None:
    run = start(workers)
    wait_for(lambda: (folder / "held").exists() and (folder / "reports" / "run.html").exists())
    first = page_of(folder)
    assert "1 of 6 cells so far; still running when this page was written: 5 cells are missing." in first
    assert CELLS[5] in first
    assert "test_dear" not in first and "MISSING" not in first
    (folder / "hold").unlink()
    shown, _ = run.communicate(timeout=300)
    assert run.returncode == 0, shown
    assert "run.html" in shown and ".new" not in shown
    assert computed(folder) == ["cheap", "dear"]
    assert "still running" not in page_of(folder)
    lines = claims_run.ledger("run.jsonl")
    ended = [line["planned"]["test"] for line in lines if line["type"] == "finding"]
    assert ended == CELLS  # in the order of collection
    assert {line["type"] for line in lines} == {"provenance", "planned", "finding", "summary"}
    assert [path.name for path in (folder / "reports").glob(".*")] == []


def test_a_run_killed_between_phases_leaves_a_page_that_says_what_is_missing(
    folder: Path, start: Start
) -> None:
    run = start("-n2")
    wait_for(lambda: (folder / "held").exists() and (folder / "reports" / "run.html").exists())
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=300)
    left = page_of(folder)
    assert "1 of 6 cells so far" in left and "5 cells are missing" in left
    assert "If none does, the run was killed; the same command goes on from there." in left
    (folder / "hold").unlink()
    shown, _ = start("-n0").communicate(timeout=300)
    assert computed(folder).count("cheap") == 1, shown
    assert "still running" not in page_of(folder) and CELLS[0] in page_of(folder)


def test_a_run_killed_while_it_writes_the_last_page_leaves_the_one_before(folder: Path, start: Start) -> None:
    (folder / "hold").unlink()
    (folder / "killing.py").write_text(KILLING, encoding="ascii")
    run = start("-n0", "-p", "killing")
    run.communicate(timeout=300)
    assert run.returncode == -signal.SIGKILL
    assert "1 of 6 cells so far; still running" in page_of(folder)


def test_headline_claims_come_first_and_the_cheap_ones_before_the_dear() -> None:
    missing: dict[Any, dict[str, float]] = {
        "dear": {"a": 1.0, "b": 40.0},
        "print": {},
        "headline": {"a": 1.0, "c": 4.0},
        "dear headline": {"d": 35.0},
        "its sibling": {"a": 1.0},
        "cheap": {"e": 2.0},
    }
    found = phases(missing, {"dear headline", "headline"}, 1)
    late = {"dear headline": 4, "cheap": 5, "dear": PHASES}
    assert found == {"print": 0, "headline": 1, "its sibling": 1, **late}
    assert set(phases(missing, set(), 2).values()) == {0, 1, 5}  # the last phase has two cells
    assert phases({"known": {}, "of unknown size": {"a": 0.0}}, set(), 1) == {
        "known": 0,
        "of unknown size": 1,
    }


def test_what_follows_from_others_waits_for_all_of_them() -> None:
    paper = load_paper(PAPER)
    follows = next(one for one in paper.claims.values() if one.rule.claims and len(one.rule.reads) > 1)
    cells = [
        Planned(f"x::{one}", one, one, Cell("tiny-llama"), paper=paper.key) for one in follows.rule.claims
    ]
    results = [Result(one, Status.SUPPORTED, "") for one in cells]
    assert follows.id in {one.planned.claim for one in derived(results, paper)}
    assert follows.id not in {one.planned.claim for one in derived(results[1:], paper, cells[:1])}
    other = Planned("y::y", "y", cells[0].claim, Cell("tiny-gptj"), paper=paper.key)
    assert follows.id in {one.planned.claim for one in derived(results, paper, [other])}  # another model


def test_p_values_are_corrected_once_their_family_is_whole() -> None:
    paper = load_paper(PAPER)
    one, other = (
        Planned(f"x::{name}", name, "table1-overlap", Cell("tiny-llama", name), paper=paper.key)
        for name in "ab"
    )
    result = Result(one, Status.SUPPORTED, "", p=0.01)
    assert corrected([result], {paper.key: paper})[0].p_holm == 0.01
    assert corrected([result], {paper.key: paper}, [other])[0].p_holm is None
