"""One run's books: what was planned, what each test reported, and the reconciliation of the two at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from caploc.audit.auditor import RESULT_PROPERTY
from caploc.audit.corrections import corrected
from caploc.audit.derived import derived
from caploc.audit.expectations import Expectation, dumps, record
from caploc.audit.ledger import Ledger
from caploc.audit.results import Planned, Result, Status, Tally
from caploc.audit.sensitivity import Flip, flips
from caploc.audit.summary import outcome, summary, write_json
from caploc.audit.text import visible
from caploc.papers import Paper

CRASHED = "its worker process died while it ran"
NEVER_RAN = "the run ended before it was run"
ERROR = Status.ERROR.value
WITHOUT_FINDING = "the test ended without handing a finding to the auditor"


@dataclass
class Seen:
    """What a test's reports said so far."""

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


class Books:
    """The books of the process that controls the run. `close` fills ``results``, one a planned cell in the order of
    collection, and ``derived``, the verdicts that follow from them by model (no tests of their own)."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.results: list[Result] = []
        self.derived: list[Result] = []
        self.closed: dict[str, Result] = {}
        self._seen: dict[str, Seen] = {}
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
        self._seen.setdefault(report.nodeid, Seen()).add(report)

    def result_of(self, nodeid: str) -> Result | None:
        """How a test ended as far as is known; None if it decides no claim."""
        if nodeid in self.closed:
            return self.closed[nodeid]
        planned = self.planned.get(nodeid)
        return None if planned is None else self._seen.get(nodeid, Seen()).end(planned)

    def close(self, papers: Mapping[str, Paper]) -> None:
        """Reconciles reports with the plan, corrects p values within their families, draws the verdicts that follow,
        and writes the ledger's last lines and the JSON summary."""
        ended = [self._seen.get(nodeid, Seen()).end(cell) for nodeid, cell in self.planned.items()]
        self.results = corrected(ended, papers)
        self.derived = [one for paper in papers.values() for one in derived(self.results, paper)]
        self.closed = {result.planned.nodeid: result for result in self.results}
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


def start_ledger(ledger: Ledger, plan: Iterable[Planned], head: Callable[[], Mapping[str, Any]]) -> None:
    """Begins the run's ledger with its provenance and its plan; any process of the run may."""
    ledger.start(head, [{"type": "planned", **asdict(cell)} for cell in plan])


def record_expectations(path: Path, results: Iterable[Result], known: Mapping[str, Expectation]) -> int:
    """Writes the verdicts of the embedded cells to the expectations file; returns how many were recorded."""
    kept = [
        replace(result, reason=visible(result.reason)) for result in results if result.finding is not None
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(dumps(record(kept, known)), encoding="utf-8")
    temporary.replace(path)
    return len(kept)


def last_line(report: pytest.TestReport) -> str:
    """What went wrong, on one line: the exception's message rather than its traceback."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    return visible(text.strip().splitlines()[0] if text.strip() else "failed without a message")
