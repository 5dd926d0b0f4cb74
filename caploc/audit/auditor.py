"""What a claim test talks to: it hands over a finding, and the test ends as the verdict says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest

from caploc.audit.expectations import Expectation
from caploc.audit.ledger import Ledger
from caploc.audit.results import Planned, Result, Status
from caploc.audit.settings import AuditSettings
from caploc.audit.text import visible
from caploc.findings import Finding
from caploc.papers import Paper
from caploc.rules import decisive_p, judge, number_agreement

STATUS_PROPERTY = "verdict"
RESULT_PROPERTY = "caploc"


class ClaimRefuted(AssertionError):
    """The evidence is against the claim. ``excuse`` says why that does not fail the run, empty where it does."""

    def __init__(self, reason: str, excuse: str = "") -> None:
        super().__init__(reason)
        self.excuse = excuse


class ExpectationMoved(AssertionError):
    """A reviewed cell gave another verdict, or an estimate outside its reviewed range."""


@dataclass(frozen=True)
class Judging:
    """What judging a cell takes beside its finding. While ``recording``, every verdict is as expected."""

    settings: AuditSettings
    paper: Callable[[str], Paper]
    expectations: Callable[[], Mapping[str, Expectation]]
    ledger: Ledger
    measure: Callable[[pytest.Item], Finding]
    recording: bool = False


class Auditor:
    """Judges the one finding of one claim test."""

    def __init__(self, item: pytest.Item, planned: Planned, judging: Judging) -> None:
        self._item, self._planned, self._judging = item, planned, judging
        self._paper = judging.paper(planned.paper)
        self._done = False

    def check(self) -> None:
        """Measures the cell, judges it by its claim's rule, writes it to the ledger and ends the test accordingly.

        Returns if the claim is supported; otherwise raises `ClaimRefuted`, `ExpectationMoved`, or pytest's xfail
        (inconclusive) or skip (not run). Raises `RuntimeError` the second time: each test decides one cell.
        """
        if self._done:
            raise RuntimeError(f"{self._planned.test} is checked a second time; one test decides one cell")
        self._done = True
        result = self._judged(self._judging.measure(self._item))
        self._item.user_properties += [
            (STATUS_PROPERTY, result.status.value),
            (RESULT_PROPERTY, result.dumps()),
        ]
        self._judging.ledger.append({"type": "finding", **vars(result)})
        _end(result)

    def _judged(self, finding: Finding) -> Result:
        claim = self._paper.claim(finding.claim)
        verdict = judge(claim, finding)
        measured = finding.measurement
        if finding.cell.variant:  # a figure for each reading would bury the report
            finding = replace(finding, measurement=replace(measured, plots=()))
        expected, moved, why = False, None, ""
        covered = self._judging.settings.expectations_cover(finding.cell, self._planned.across)
        if covered and self._judging.recording:
            expected = True
        elif covered:
            expectation = self._judging.expectations().get(self._planned.test)
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
        pytest.xfail(f"inconclusive: {reason}")
    if result.status is Status.NOT_RUN:
        pytest.skip(reason)
