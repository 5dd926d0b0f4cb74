"""The ledger on disk, and the record of a run: what was planned, what each test reported, and how the two agree.

A ledger is JSON Lines, one line a finding, written as it happens; the truth that reports are made from. Line types:
``provenance`` (the first line), ``planned`` (every cell that was collected), ``finding``, and at the end of a run
``cell`` (one for each that ended without a finding) and ``summary``. Strict JSON: no nan, ASCII only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
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
            if self.head():
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

    def _first_line(self) -> dict[str, Any]:
        with suppress(OSError, StopIteration):
            return next(_objects(self.path))
        return {}


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
        """Takes in one phase's report."""
        self.result = dict(report.user_properties).get(RESULT_PROPERTY, self.result)  # type: ignore[assignment]
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
        self._planned: dict[str, Planned] = {}

    @property
    def planned(self) -> Mapping[str, Planned]:
        """The planned cells by node id, as the first process that collected them wrote them down."""
        if not self._planned:
            lines = (line for line in self.ledger.read() if line.get("type") == "planned")
            self._planned = {cell.nodeid: cell for cell in map(Planned.from_json, lines)}
        return self._planned

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
        self._reports.setdefault(report.nodeid, TestReports()).add(report)

    def finish(self, papers: Mapping[str, Paper]) -> None:
        """Reconciles reports with the plan, corrects p values within their families, draws the verdicts that follow,
        and writes the ledger's last lines and the JSON summary."""
        ended = [self._reports.get(nodeid, TestReports()).end(cell) for nodeid, cell in self.planned.items()]
        self.results = corrected(ended, papers)
        self.derived = [one for paper in papers.values() for one in derived(self.results, paper)]
        if not self.results:
            return
        for result in self.results:
            if result.finding is None:
                self.ledger.append({"type": "cell", **asdict(result)})
        self.ledger.append({"type": "summary", "run": self.ledger.run, **outcome(self.results)})
        head = self.ledger.head()
        path = self.ledger.path.with_suffix(".json")
        write_json(path, summary(self.ledger.run, self.results, self.derived, head))
        self.ledger.tidy()


def start_ledger(ledger: Ledger, plan: Iterable[Planned], head: Callable[[], Mapping[str, Any]]) -> None:
    """Begins the run's ledger with its provenance and its plan; any process of the run may."""
    ledger.start(head, [{"type": "planned", **asdict(cell)} for cell in plan])


def last_line(report: pytest.TestReport) -> str:
    """What went wrong, on one line: the exception's message rather than its traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return visible(text.strip().splitlines()[0] if text.strip() else "failed without a message")
