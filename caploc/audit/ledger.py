"""The ledger on disk, and the record of a run: what was planned, what each test reported, and how the two agree.

A ledger is JSON Lines, one line a finding, written as it happens; the truth that reports are made from. Line types:
``provenance`` (the first line), ``planned`` (every cell that was collected), ``finding``, while the run goes on
``phases`` (the order that its processes keep to), and at the end of a run ``cell`` (one for each that ended without a
finding) and ``summary``. Strict JSON: no nan, ASCII only.

The first line's ``status`` is "started" until the run ends, then "finished" or "interrupted": a run that was killed
never passes for one that finished.
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
from caploc.audit.summary import fingerprints, left_out, outcome, summary, write_json
from caploc.audit.text import visible
from caploc.findings import plain

if TYPE_CHECKING:
    from caploc.papers import Paper

STARTED, FINISHED, INTERRUPTED = "started", "finished", "interrupted"
CRASHED = "its worker process died while it ran"
NEVER_RAN = "the run ended before it was run"
ERROR = Status.ERROR.value
PHASES = "phases"
WITHOUT_FINDING = "the test ended without a finding"


class Ledger:
    """One run's ledger, which any number of processes may write to.

    ``run`` tells this run's file from an earlier one of the same name, which `start` replaces; `start` also removes
    ``reports``, what an earlier run made of its ledger. A line is written under a lock and in one go; a line that a
    killed process left half-written spoils no other.
    """

    def __init__(self, path: Path, run: str, reports: Iterable[Path] = ()) -> None:
        self.path = path
        self.run = run
        self.reports = tuple(reports)
        self._lock_path = path.with_name(f".{path.name}.lock")

    def start(self, head: Callable[[], Mapping[str, Any]], lines: Iterable[Mapping[str, Any]]) -> None:
        """Begins the file with ``head()`` and ``lines``, unless a process of this run has done so already."""
        with self._locked():
            if self.head():
                return
            first = {"type": "provenance", "run": self.run, "status": STARTED, **head()}
            for report in self.reports:
                report.unlink(missing_ok=True)
            self._replace([first, *lines])

    def append(self, entry: Mapping[str, Any]) -> None:
        """Adds one line, unless the run has ended: what a worker has found by then is in the store alone."""
        with self._locked():
            if self.head().get("status") != STARTED:
                self.tidy()
                return
            self._add(entry)

    def settle(self, what: str, decide: Callable[[], Any]) -> Any:
        """What the first process of the run that asks ``decide``s of a matter, for all of them, as JSON data."""
        with self._locked():
            settled = [line["settled"] for line in self.read() if line.get("type") == what]
            if settled:
                return settled[0]
            found = decide()
            if self.head():
                self._add({"type": what, "settled": found})
            return found

    def finish(self, head: Mapping[str, Any], lines: Iterable[Mapping[str, Any]]) -> bool:
        """Completes the first line by ``head`` and replaces all others; False, and nothing is done, where another run
        has replaced the file meanwhile."""
        with self._locked():
            first = self.head()
            if first:
                self._replace([{**first, **head}, *lines])
        self.tidy()
        return bool(first)

    def read(self) -> list[dict[str, Any]]:
        """The lines of this run, none if it has written none; half-written lines are left out."""
        return list(_objects(self.path)) if self.head() else []

    def head(self) -> dict[str, Any]:
        """The first line, where the run's numbers come from; empty before `start`."""
        first = self._first_line()
        return first if first.get("run") == self.run else {}

    def tidy(self) -> None:
        """Removes the lock file; for the last process of a run."""
        with suppress(OSError):
            self._lock_path.unlink()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(str(self._lock_path)):
            yield

    def _add(self, entry: Mapping[str, Any]) -> None:
        with self.path.open("ab+") as file:
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
            file.write((b"\n" if torn else b"") + _line(entry))

    def _first_line(self) -> dict[str, Any]:
        with suppress(OSError, StopIteration):
            return next(_objects(self.path))
        return {}

    def _replace(self, lines: Iterable[Mapping[str, Any]]) -> None:
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.write_bytes(b"".join(map(_line, lines)))
        os.replace(temporary, self.path)


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

    def end(self, planned: Planned, written: Result | None) -> Result:
        """The planned cell's result. Its finding may have been ``written`` to the ledger without a report."""
        known = Result.loads(self.result) if self.result else written
        if self.error is not None:
            return Result(planned, Status.ERROR, self.error, finding=known.finding if known else None)
        if known is not None:
            return known
        if self.crashed:
            return Result(planned, Status.MISSING, CRASHED)
        if self.skip is not None:
            return Result(planned, Status.NOT_RUN, self.skip)
        return Result(planned, Status.MISSING, WITHOUT_FINDING if self.finished else NEVER_RAN)


@dataclass(frozen=True)
class SoFar:
    """What is known in the middle of a run: the results of the cells that have ended, and what follows from them.

    A verdict that follows from others needs all of their cells, and corrected p values the whole family: both are left
    out where a cell is pending.
    """

    results: list[Result]
    derived: list[Result]
    planned: int


class RunRecord:
    """What the process that controls a run knows of it.

    `finish` fills ``results``, one a planned cell in the order of collection, and ``derived``, the verdicts that follow
    from them by model (no tests of their own), and sets ``status``.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.status = STARTED
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

    @cached_property
    def _phases(self) -> Mapping[str, int]:
        """The phase of each cell by its node id, where that is not 0."""
        lines = (line["settled"] for line in self.ledger.read() if line.get("type") == PHASES)
        found: Mapping[str, int] = next(lines, {})
        return found

    @property
    def phase(self) -> int | None:
        """The phase that the run is in, the first with a cell that has not ended; None once all have."""
        pending = (self._phases.get(cell.nodeid, 0) for cell in self.tests if not self._ended(cell))
        return min(pending, default=None)

    def _ended(self, cell: Planned) -> bool:
        return cell.nodeid in self._reports and self._reports[cell.nodeid].finished

    def so_far(self, papers: Mapping[str, Paper]) -> SoFar:
        """The run as it stands."""
        pending = [cell for cell in self.tests if not self._ended(cell)]
        ended = [self._reports[cell.nodeid].end(cell, None) for cell in self.tests if self._ended(cell)]
        results = corrected(ended, papers, pending)
        follows = [one for paper in papers.values() for one in derived(results, paper, pending)]
        return SoFar(results, follows, len(self.tests))

    def finish(self, papers: Mapping[str, Paper], interrupted: bool) -> None:
        """Reconciles reports with the plan and with what was written, corrects p values within their families, draws
        the verdicts that follow, and writes the ledger as it ends, with one line a cell, and the JSON summary."""
        lines = self.ledger.read()
        written = {found.planned.nodeid: found for found in map(_finding, lines) if found is not None}
        ended = [
            self._reports.get(cell.nodeid, TestReports()).end(cell, written.get(cell.nodeid))
            for cell in self.tests
        ]
        self.results = corrected(ended, papers)
        self.derived = [one for paper in papers.values() for one in derived(self.results, paper)]
        if not self.results:
            return
        unfinished = any((one.status, one.reason) == (Status.MISSING, NEVER_RAN) for one in self.results)
        self.status = INTERRUPTED if interrupted or unfinished else FINISHED
        head = {
            "status": self.status,
            "fingerprints": fingerprints(self.results),
            "left_out": left_out(self.results),
        }
        cells = [
            {"type": "cell" if one.finding is None else "finding", **asdict(one)} for one in self.results
        ]
        last = {"type": "summary", "run": self.ledger.run, "status": self.status, **outcome(self.results)}
        if self.ledger.finish(head, [*_planned(self.tests), *cells, last]):
            path = self.ledger.path.with_suffix(".json")
            write_json(path, summary(self.ledger.run, self.results, self.derived, self.ledger.head()))


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


def _finding(line: Mapping[str, Any]) -> Result | None:
    """The result that a line of the ledger holds, None where it is of another type."""
    if line.get("type") != "finding":
        return None
    return Result.from_json({name: value for name, value in line.items() if name != "type"})


def last_line(report: pytest.TestReport) -> str:
    """What went wrong, on one line: the exception's message rather than its traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return visible(text.strip().splitlines()[0] if text.strip() else "failed without a message")
