"""How a cell is judged, how that ends its test, and how pytest then reports a verdict apart from an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.expectations import Expectation
from caploc.audit.ledger import WITHOUT_FINDING, Ledger, last_line
from caploc.audit.results import MOVED, RESULT_PROPERTY, STATUS_PROPERTY, Planned, Result, Status
from caploc.audit.settings import AuditSettings
from caploc.audit.text import LONGEST_SHOWN, visible
from caploc.errors import CaplocError
from caploc.findings import Finding

if TYPE_CHECKING:
    from caploc.papers import Paper


class ClaimRefuted(AssertionError):
    """The evidence is against the claim. ``excuse`` says why that does not fail the run, empty where it does."""

    def __init__(self, reason: str, excuse: str = "") -> None:
        super().__init__(reason)
        self.excuse = excuse


class ExpectationMoved(AssertionError):
    """A reviewed cell gave another verdict, or an estimate outside its reviewed range."""


@dataclass(frozen=True)
class Context:
    """What the auditors of a process share. While ``recording``, every verdict is as expected."""

    settings: AuditSettings
    paper: Callable[[str], Paper]
    expectation: Callable[[Planned], Expectation | None]
    ledger: Ledger
    measure: Callable[[pytest.Item], Finding]
    recording: bool = False


class Auditor:
    """Judges the one finding of one claim test."""

    def __init__(self, item: pytest.Item, planned: Planned, context: Context) -> None:
        self._item, self._planned, self._context = item, planned, context
        self._paper = context.paper(planned.paper)
        self._done = False

    def check(self) -> None:
        """Measures the cell, judges it by its claim's rule, writes it to the ledger and ends the test accordingly.

        Returns if the claim is supported, and if there is nothing to hold the number against; otherwise raises
        `ClaimRefuted`, `ExpectationMoved`, or pytest's xfail (inconclusive) or skip (not run). Raises `RuntimeError`
        the second time: each test decides one cell.
        """
        if self._done:
            raise RuntimeError(f"{self._planned.test} is checked a second time; one test decides one cell")
        self._done = True
        result = self._judged(self._context.measure(self._item))
        ours = {STATUS_PROPERTY: result.status.value, RESULT_PROPERTY: result.dumps()}
        others = [one for one in self._item.user_properties if one[0] not in ours]  # not an earlier attempt's
        self._item.user_properties[:] = [*others, *ours.items()]
        self._context.ledger.append({"type": "finding", **vars(result)})
        _end(result)

    def _judged(self, finding: Finding) -> Result:
        from caploc.rules import decisive_p, judge, number_agreement

        claim = self._paper.claim(finding.claim)
        verdict = judge(claim, finding)
        measured = finding.measurement
        if finding.cell.variant:  # a figure for each reading would bury the report
            finding = replace(finding, measurement=replace(measured, plots=()))
        expected, moved, why = False, None, ""
        covered = self._context.settings.expectations_cover(finding.cell, self._planned.across, claim.sigmas)
        if covered and self._context.recording:
            expected = True
        elif covered:
            expectation = self._context.expectation(self._planned)
            if expectation is None:
                moved = (
                    "no expectation is recorded for this cell: review it, then run with --record-expectations"
                )
            else:
                estimate = measured.value.estimate if measured.value else None
                moved = expectation.departure(verdict.outcome, estimate)
                expected, why = moved is None, expectation.why
        return Result.of(
            self._planned,
            finding,
            verdict,
            expected=expected,
            moved=moved,
            why=why,
            agreement=number_agreement(claim, finding),
            p=decisive_p(claim, finding),
        )


def _excuse(result: Result) -> str:
    """Why a refuted cell does not fail the run: it was reviewed, or only asks what another reading would change."""
    if result.expected:
        return "as expected"
    variant = result.planned.cell.variant
    return f"read with {variant}" if variant else ""


def _end(result: Result) -> None:
    __tracebackhide__ = True
    reason = visible(result.reason)
    if result.moved is not None:
        raise ExpectationMoved(f"{result.moved} ({result.status}: {reason})")
    if result.status is Status.REFUTED:
        raise ClaimRefuted(reason, _excuse(result))
    if result.status is Status.INCONCLUSIVE:
        raise pytest.xfail.Exception(f"inconclusive: {reason}")  # pytest.xfail does nothing with --runxfail
    if result.status is Status.NOT_RUN:
        pytest.skip(reason)


def report_verdict(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Makes pytest's report tell verdicts, which end a test by an exception of ours, from errors, any other failure."""
    error = call.excinfo.value if call.excinfo is not None else None
    word = dict(item.user_properties).get(STATUS_PROPERTY)
    if isinstance(error, (ClaimRefuted, ExpectationMoved)):
        assert call.excinfo is not None
        word = word if isinstance(error, ClaimRefuted) else MOVED
        report.longrepr = _one_line(call.excinfo)
        if isinstance(error, ClaimRefuted) and error.excuse:  # xfail(strict=True, raises=ClaimRefuted)
            report.outcome = "skipped"
            report.wasxfail = f"refuted, {error.excuse}: {error}"
    elif isinstance(error, pytest.xfail.Exception) and word is not None:
        report.outcome, report.wasxfail = "skipped", str(error.msg)
    elif report.failed:
        word = Status.ERROR.value
        if isinstance(error, CaplocError):  # the message says what to do, a traceback would hide it
            assert call.excinfo is not None
            report.longrepr = _one_line(call.excinfo)
        _make_printable(report)
    elif report.skipped and isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, visible(reason))
    elif report.when == "call" and report.passed and word is None:
        word = Status.ERROR.value
        report.outcome = "failed"
        report.longrepr = WITHOUT_FINDING
    report.caploc_word = word  # type: ignore[attr-defined]


def _one_line(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    """A verdict's reason without a traceback, which would only show the test's last line."""
    shown = excinfo.getrepr(style="value")
    if shown.reprcrash is not None:
        shown.reprcrash.message = str(excinfo.value)  # without the exception's name
    return shown


def _make_printable(report: pytest.TestReport) -> None:
    """Rewrites a traceback that quotes data line by line where the data are not fit to print.

    Lone surrogates would kill the worker that sends them, control characters steer the terminal, and megabytes on
    a line bury the rest.
    """
    lines = str(report.longrepr).splitlines()
    clean = [visible(line, LONGEST_SHOWN) for line in lines]
    if clean != lines:
        report.longrepr = "\n".join([last_line(report), "", *clean])
