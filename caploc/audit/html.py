"""The HTML report: pytest-html is its frame; claims have a page of their own, other tests pytest-html's table."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.report import page
from caploc.audit.results import Status
from caploc.audit.text import escaped, visible_lines
from caploc.audit.views import Log

if TYPE_CHECKING:
    from caploc.audit.plugin import Audit

LONGEST_TRACE = 100_000


class HtmlReport:
    """pytest-html's hooks, on the process that writes the report. Everything is escaped."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._frame: Any = None
        self._logs: dict[str, Log] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Escapes the environment table, which pytest-html inserts as it is."""
        try:
            from pytest_metadata.plugin import metadata_key
        except ImportError:
            return
        table = session.config.stash[metadata_key]
        for key, value in list(table.items()):
            table[key] = (
                {escaped(name): escaped(part) for name, part in value.items()}
                if isinstance(value, dict)
                else escaped(value)
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps what the page says of a claim's test beyond its result."""
        if report.nodeid not in self._audit.books.planned:
            return
        log = self._logs.get(report.nodeid, Log())
        error = getattr(report, "caploc_word", None) == Status.ERROR
        trace = "\n".join([report.longreprtext, *(text for _, text in report.sections)]) if error else ""
        self._logs[report.nodeid] = Log(log.seconds + report.duration, log.trace or trace[:LONGEST_TRACE])

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        self._frame = report
        report.title = "caploc audit"
        report.set_data("renderCollapsed", ["all"])

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        if report.nodeid in self._audit.books.planned:
            cells.clear()  # pytest-html leaves out a row without cells
            return
        phase = "" if report.when == "call" else f"::{report.when}"
        cells[1] = f'<td class="col-testId"><bdi>{escaped(report.nodeid + phase)}</bdi></td>'

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: Any, data: list[str]) -> None:
        data[:] = [html.escape(visible_lines(html.unescape(part))) for part in data]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        if self._audit.books.results:
            paper = self._audit.bench.paper
            prefix.append(page(self._audit.books, paper, self._logs, bool(self._frame.data["tests"])))
