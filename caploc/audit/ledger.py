"""The ledger on disk, and the record of a run: what was planned, what each test reported, and how the two agree.

A ledger is JSON Lines, one line a finding, written as it happens; the truth that reports are made from. Line types:
``provenance`` (the first line), ``planned`` (every cell that was collected), ``finding``, and at the end of a run
``cell`` (one for each that ended without a finding) and ``summary``. Strict JSON: no nan, ASCII only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from caploc.audit.results import (
    RESULT_PROPERTY,
    Flip,
    Planned,
    Result,
    Status,
    Tally,
    corrected,
    derived,
    flips,
)
from caploc.audit.summary import outcome, summary, write_json
from caploc.audit.text import visible
from caploc.findings import plain

if TYPE_CHECKING:
    from caploc.papers import Paper

CRASHED = "its worker process died while it ran"
NEVER_RAN = "the run ended before it was run"
ERROR = Status.ERROR.value
WITHOUT_FINDING = "the test ended without a finding"


class Ledger:
    """One run's ledger, which any number of processes may write to.

    ``run`` tells this run's file from an earlier one of the same name, which `start` replaces. A line is written
    under a lock and in one go; a line that a killed process left half-written spoils no other.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path = path
        self.run = run
        self._lock_path = path.with_name(f".{path.name}.lock")

    def start(self, head: Callable[[], Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]) -> None:
        """Begins the file with ``head()`` and ``lines``, unless a process of this run has done so already."""
        with self._locked():
            if self._run_on_disk() == self.run:
                return
            first = {"type": "provenance", "run": self.run, **head()}
            temporary = self.path.with_name(f".{self.path.name}.new")
            temporary.write_bytes(b"".join(map(_line, [first, *lines])))
            os.replace(temporary, self.path)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds one line."""
        with self._locked(), self.path.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                torn = file.read(1) != b"\n"
            else:
                torn = False
            file.write((b"\n" if torn else b"") + _line(entry))

    def read(self) -> list[dict[str, Any]]:
        """The lines of this run, none if it has written none; half-written lines are left out."""
        if self._run_on_disk() != self.run:
            return []
        return list(_objects(self.path))

    def tidy(self) -> None:
        """Removes the lock file; for the last process of a run."""
        with suppress(OSError):
            self._lock_path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self._lock_path)):
            yield

    def _run_on_disk(self) -> str | None:
        with suppress(OSError, StopIteration):
            return str(next(_objects(self.path)).get("run"))
        return None


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(plain(entry), allow_nan=False, ensure_ascii=True).encode() + b"\n"


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry


@dataclass
class TestReports:
    """What pytest's reports on one test, a report a phase, said so far."""

    __test__ = False  # pytest collects classes of this name

    result: str | None = None
    skip: str | None = None
    error: str | None = None
    crashed: bool = False
    finished: bool = False

    def add(self, report: pytest.TestReport) -> None:
        """Takes in one phase's report. An attempt that another plugin repeats (pytest-rerunfailures) is void."""
        if report.outcome not in ("passed", "failed", "skipped"):
            self.result = self.skip = self.error = None
            return
        result: Any = dict(report.user_properties).get(RESULT_PROPERTY, self.result)
        if self.result not in (None, result):  # the test of a cell that is run several times
            before, after = (Result.loads(one).status for one in (self.result, result))
            if before != after:
                self.error = (
                    f"run more than once, it came out {before} and {after}: report this, with the data"
                )
        self.result = result
        if report.when not in ("setup", "call", "teardown"):  # what xdist reports in a dead worker's place
            self.crashed = True
        elif report.failed and getattr(report, "caploc_word", ERROR) == ERROR:
            self.error = self.error or f"{report.when}: {last_line(report)}"
        elif report.skipped and self.result is None and isinstance(report.longrepr, tuple):
            self.skip = report.longrepr[2].removeprefix("Skipped: ")
        self.finished = self.finished or report.when == "teardown"

    def end(self, planned: Planned) -> Result:
        """The planned cell's result."""
        if self.crashed:
            return Result(planned, Status.MISSING, CRASHED)
        known = Result.loads(self.result) if self.result else None
        if self.error is not None:
            return Result(planned, Status.ERROR, self.error, finding=known.finding if known else None)
        if known is not None:
            return known
        if self.skip is not None:
            return Result(planned, Status.NOT_RUN, self.skip)
        return Result(planned, Status.MISSING, WITHOUT_FINDING if self.finished else NEVER_RAN)


class RunRecord:
    """What the process that controls a run knows of it.

    `finish` fills ``results``, one a planned cell in the order of collection, and ``derived``, the verdicts that follow
    from them by model (no tests of their own).
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.results: list[Result] = []
        self.derived: list[Result] = []
        self._reports: dict[str, TestReports] = {}
        self._tests: dict[Planned, list[str]] = {}

    @property
    def tests(self) -> Mapping[Planned, Sequence[str]]:
        """The planned cells, each with the node ids of its tests, as the first process that collected them wrote them
        down."""
        if not self._tests:
            lines = (line for line in self.ledger.read() if line.get("type") == "planned")
            self._tests = {Planned.from_json(line): line.get("tests", [line.get("nodeid")]) for line in lines}
        return self._tests

    @cached_property
    def _cells(self) -> Mapping[str, str]:
        """The node id of its cell for that of each test; first needed when a test has run, and the plan is written."""
        return {test: cell.nodeid for cell, tests in self.tests.items() for test in tests}

    def cell_of(self, report: pytest.TestReport) -> str | None:
        """The planned node id of the cell that a report is about; None for other tests.

        pytest's own may be that of two tests, outside its rootdir. A worker that died has told nothing else.
        """
        own: str | None = getattr(report, "caploc_cell", None)
        return own or self._cells.get(report.nodeid)

    @property
    def tally(self) -> Tally:
        """The run's counts."""
        return Tally.of(self.results)

    def by_group(self, paper: Paper) -> dict[str, Tally]:
        """The counts of each audited group of a paper's claims, in its order; "" for claims it does not have."""
        groups: dict[str, list[Result]] = {name: [] for name in (*paper.groups, "")}
        for result in (one for one in self.results if one.planned.paper == paper.key):
            claim = paper.claims.get(result.planned.claim)
            groups[claim.group if claim else ""].append(result)
        return {name: Tally.of(results) for name, results in groups.items() if results}

    def flips(self) -> list[Flip]:
        """The cells whose verdict is another one under another reading of the paper."""
        return flips(self.results)

    def of(self, status: Status) -> list[Result]:
        """The results of one status."""
        return [result for result in self.results if result.status is status]

    def add(self, report: pytest.TestReport) -> None:
        """Takes in one report of one test."""
        if (cell := self.cell_of(report)) is not None:
            self._reports.setdefault(cell, TestReports()).add(report)

    def finish(self, papers: Mapping[str, Paper]) -> None:
        """Reconciles reports with the plan, corrects p values within their families, draws the verdicts that follow,
        and writes the ledger's last lines and the JSON summary."""
        ended = [self._reports.get(cell.nodeid, TestReports()).end(cell) for cell in self.tests]
        self.results = corrected(ended, papers)
        self.derived = [one for paper in papers.values() for one in derived(self.results, paper)]
        if not self.results:
            return
        for result in self.results:
            if result.finding is None:
                self.ledger.append({"type": "cell", **asdict(result)})
        self.ledger.append({"type": "summary", "run": self.ledger.run, **outcome(self.results)})
        head = next(iter(self.ledger.read()), {})
        path = self.ledger.path.with_suffix(".json")
        write_json(path, summary(self.ledger.run, self.results, self.derived, head))
        self.ledger.tidy()


def start_ledger(
    ledger: Ledger, plan: Mapping[Planned, Sequence[str]], head: Callable[[], Mapping[str, Any]]
) -> None:
    """Begins the run's ledger with its provenance and its plan, the cells and the node ids of their tests; any process
    of the run may."""
    ledger.start(head, _planned(plan))


def _planned(plan: Mapping[Planned, Sequence[str]]) -> list[dict[str, Any]]:
    """One line a cell; its tests only where pytest names them otherwise: another rootdir, repeats, groups of xdist."""
    return [
        {"type": "planned", **asdict(cell), **({} if list(tests) == [cell.nodeid] else {"tests": tests})}
        for cell, tests in plan.items()
    ]


def last_line(report: pytest.TestReport) -> str:
    """What went wrong, on one line: the exception's message rather than its traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return visible(text.strip().splitlines()[0] if text.strip() else "failed without a message")
