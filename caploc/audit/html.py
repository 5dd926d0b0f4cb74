"""The HTML report: pytest-html is its frame, this plugin fills title, rows and summary. Everything is escaped."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.html_rows import details, header_cells, row_cells
from caploc.audit.html_summary import closing, opening
from caploc.audit.results import Status
from caploc.audit.text import escaped

if TYPE_CHECKING:
    from caploc.audit.plugin import Audit


class HtmlReport:
    """pytest-html's hooks, on the process that writes the report."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._page: Any = None

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

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        self._page = report
        report.title = "caploc audit"
        report.set_data("renderCollapsed", ["all"])

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_header(self, cells: list[str]) -> None:
        cells[:] = header_cells()

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        result = self._audit.books.result_of(report.nodeid)
        paper = self._audit.bench.paper
        cells[:] = row_cells(report.nodeid, result, paper, outcome=cells[0], duration=cells[2])

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: Any, data: list[str]) -> None:
        result = self._audit.books.result_of(report.nodeid)
        if result is not None and result.status not in (Status.ERROR, Status.MISSING):
            data[:] = [html.escape(details(result))]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str], postfix: list[str]) -> None:
        books = self._audit.books
        if not books.results:
            return
        self._order_rows()
        self._count_errors()
        prefix.append(opening(books, self._audit.bench.paper))
        postfix.append(closing(books, self._audit.bench.paper))

    def _order_rows(self) -> None:
        """Rows in the order of collection, in which no number of workers shows."""
        tests = self._page.data["tests"]
        rank = {nodeid: place for place, nodeid in enumerate(self._audit.books.planned)}
        ordered = sorted(tests, key=lambda nodeid: rank.get(nodeid, len(rank)))
        for nodeid in ordered:
            tests[nodeid] = tests.pop(nodeid)

    def _count_errors(self) -> None:
        """pytest-html counts an error inside a test as failed; its row says error, and so must the filter."""
        outcomes = self._page.outcomes
        shown = [row.get("result") for rows in self._page.data["tests"].values() for row in rows]
        moved = shown.count("Error") - outcomes["error"]["value"]
        outcomes["error"]["value"] += moved
        outcomes["failed"]["value"] -= moved
