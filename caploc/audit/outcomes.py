"""How a claim test's end becomes pytest's outcome: a verdict, which an exception of ours carries, or an error."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.audit.auditor import STATUS_PROPERTY, ClaimRefuted, ExpectationMoved
from caploc.audit.results import MOVED, Status
from caploc.audit.session import WITHOUT_FINDING, last_line
from caploc.audit.text import LONGEST_SHOWN, visible
from caploc.errors import CaplocError


def settle(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Tells verdicts, which end a test by an exception of ours, from errors, which are any other failure."""
    error = call.excinfo.value if call.excinfo is not None else None
    word = dict(item.user_properties).get(STATUS_PROPERTY)
    if isinstance(error, (ClaimRefuted, ExpectationMoved)):
        assert call.excinfo is not None
        word = word if isinstance(error, ClaimRefuted) else MOVED
        report.longrepr = _one_line(call.excinfo)
        if isinstance(error, ClaimRefuted) and error.excuse:  # xfail(strict=True, raises=ClaimRefuted)
            report.outcome = "skipped"
            report.wasxfail = f"refuted, {error.excuse}: {error}"
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
