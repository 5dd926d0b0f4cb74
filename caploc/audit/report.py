"""The HTML report: pytest-html writes the file, Jinja templates make our part of it.

Claims are shown as `caploc.audit.views.RunView` arranges them; other tests keep pytest-html's table. A template
prints whatever it is given as text: what comes from data, models or exceptions is made visible
(`caploc.audit.text`) and escaped on its way into the page. Only markup that this module or a template made is exempt.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from markupsafe import Markup, escape

from caploc.audit import views
from caploc.audit.planning import rates_of
from caploc.audit.plots import Theme, draw, plots_version, size
from caploc.audit.results import Result, Status, Tally
from caploc.audit.text import duration, plural, visible, visible_lines
from caploc.audit.views import Log, RunView
from caploc.findings import PRINTED

if TYPE_CHECKING:
    from caploc.audit.plugin import Audit
    from caploc.store import Store

SECTIONS = {
    "headlines": "Headline claims",
    "verdicts": "Verdicts",
    "consistency": "The paper against itself",
    "readings": "Other readings",
    "not-run": "Not run",
    "cells": "Cells",
    "claims": "Claims, rules and plots",
    "provenance": "Provenance",
}
"""The sections of the page, one template each, and their names in the table of contents."""

SIGNS = {
    Status.SUPPORTED: "\u2713",
    Status.REFUTED: "\u2717",
    Status.INCONCLUSIVE: "?",
    Status.MEASURED: "=",
    Status.NOT_RUN: "\u2013",
    Status.ERROR: "!",
    Status.MISSING: "\u2205",
}
MOST_FIGURES = 150
"""A page with more would open slowly; the ledger has the data of the rest."""
MOST_ITEMS = 60
LONGEST_TRACE = 100_000
SECONDS_BETWEEN_PAGES = 20.0
"""In the middle of a phase of the run; at its end the page is written anyway."""
LONGEST_VALUE = 300


def page(
    *runs: RunView,
    other_tests: bool = False,
    store: Store | None = None,
    so_far: tuple[int, int] | None = None,
) -> str:
    """Everything between the title and pytest-html's own table, which is hidden unless there are ``other_tests``.

    ``store`` keeps the figures, so that a run that measures nothing new draws nothing either. ``so_far``: of a run that
    has not ended yet, how many cells have, and of how many; the page says so before all else.
    """
    papers = {run: _paper(run, other_tests, store) for run in runs}
    return _render("page", papers=papers, other_tests=other_tests, so_far=so_far)


def _paper(run: RunView, other_tests: bool, store: Store | None) -> Markup:
    found = {name: section(name, run, store) for name in SECTIONS}
    sections = {name: text for name, text in found.items() if text}
    return Markup(_render("paper", run=run, sections=sections, other_tests=other_tests))


def section(name: str, run: RunView, store: Store | None = None) -> Markup:
    """One section of the page; empty where the run has nothing to show in it."""
    return Markup(_render(name, run=run, figures=Figures(store)).strip())


def _render(name: str, **given: Any) -> str:
    return _environment().get_template(f"{name}.html.j2").render(**given)


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("caploc.audit")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "css": lambda status: status.value.lower().replace(" ", "-"),
        "cut": _cut,
        "duration": duration,
        "lines": lambda text: escape(visible_lines(text)),
        "plural": plural,
        "tallied": lambda checks: Tally.of(check.result for check in checks),
        "value": _value,
        "word": lambda status: "AUDIT ERROR" if status is Status.ERROR else status.value,
    }
    environment.globals |= {
        "COLUMNS": views.COLUMNS,
        "MOST_ITEMS": MOST_ITEMS,
        "PRINTED": PRINTED,
        "SECTIONS": SECTIONS,
        "SIGNS": SIGNS,
        "STATUSES": list(Status),
        "printed": views.printed,
        "rule_parameters": views.rule_parameters,
        **{name: Markup(loader.get_source(environment, f"report.{name}")[0]) for name in ("css", "js")},
    }
    return environment


def _shown(value: object) -> object:
    """What a template prints for a value; markup, which our own code made, stays as it is."""
    return value if isinstance(value, Markup) else visible(value)


def _cut(value: object, limit: int) -> Markup:
    """Text cut to a limit of its own rather than the usual one."""
    return escape(visible(value, limit))


def _value(value: Any) -> Markup:
    """A number or setting of a finding, with more digits than its place in the table has room for."""
    if isinstance(value, float):
        return Markup(f"{value:.6g}")
    if isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        return _cut(", ".join(f"{item:.3g}" for item in value[:MOST_ITEMS]), LONGEST_VALUE)
    return _cut(value, LONGEST_VALUE)


def _as_text(value: object) -> str:
    """A value as HTML, for pytest-html, which inserts what it is given."""
    return str(escape(visible(value)))


@dataclass(frozen=True)
class Figure:
    """A drawn plot: pictures for light and dark pages, and a description in words."""

    light: Markup
    dark: Markup
    size: tuple[int, int]
    alternative: str


class Figures:
    """Draws the plots of results, `MOST_FIGURES` of them, in the order in which it is asked; ``store`` keeps them."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._drawn = 0

    def of(self, results: Iterable[Result]) -> Iterator[Figure | str]:
        """Each plot, or a sentence in place of one that cannot be drawn: a bad plot must not cost the whole page."""
        for result in results:
            for plot in (result.finding or {}).get("plots") or ():
                yield self._figure(plot, result)

    def _figure(self, plot: Mapping[str, Any], result: Result) -> Figure | str:
        cell, caption = result.planned.cell, str(plot.get("title", ""))
        caption += "" if cell.model in caption else f" ({cell.label})"
        if self._drawn >= MOST_FIGURES:
            return f"{caption}: not drawn, after {MOST_FIGURES} figures; the ledger has its data"
        try:
            light, dark = self._pictures(plot["kind"], caption, plot["data"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            return f"no figure for {caption}: {type(error).__name__}: {error}"
        self._drawn += 1
        words = f"{caption}: {result.status.lower()}, {result.reason}"
        return Figure(_embedded(light), _embedded(dark), size(light), words)

    def _pictures(self, kind: str, caption: str, data: Mapping[str, Any]) -> list[bytes]:
        """The PNG files for light and dark pages."""
        if self._store is None:
            return [draw(kind, caption, data, theme) for theme in Theme]
        import numpy as np

        from caploc.fingerprints import fingerprint
        from caploc.store import StoreError

        def drawn() -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            files = {theme.name: draw(kind, caption, data, theme) for theme in Theme}
            return {name: np.frombuffer(file, np.uint8) for name, file in files.items()}, {}

        key = fingerprint(["figure", plots_version(), kind, caption, data])
        try:
            (entry,) = self._store.compute_all({key: drawn}, title=lambda _: "figure of the report")
        except StoreError:  # a store that is full or read-only must not cost the report its figures
            return [draw(kind, caption, data, theme) for theme in Theme]
        return [entry.arrays[theme.name].tobytes() for theme in Theme]


def _embedded(png: bytes) -> Markup:
    return Markup("data:image/png;base64,") + base64.b64encode(png).decode()


def fenced(page: str) -> str:
    """pytest-html's ``page`` behind a second wall, escaping being the first: a policy under which no script or style
    but its own and ours takes effect, and nothing is fetched. A script that got into the page is not among them."""
    ours = _environment().globals
    head = page.partition('<style type="text/css">')[2].partition("</style>")[0]
    foot = page.rpartition("<script>")[2].partition("</script>")[0]
    styles, scripts = ([_hash(own), _hash(str(ours[name]))] for own, name in ((head, "css"), (foot, "js")))
    policy = (
        f"default-src 'none'; script-src {' '.join(scripts)}; style-src {' '.join(styles)}; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )
    metas = (
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    page = page.replace(
        ' onclick="location.reload()"', "", 1
    )  # a button that only a page of a running test needs
    return page.replace('<meta charset="utf-8"/>', f'<meta charset="utf-8"/>{metas}', 1)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class HtmlReport:
    """pytest-html's hooks, on the process that writes the report."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._frame: Any = None
        self._logs: dict[str, Log] = {}
        self._phase: int | None = None
        self._written = 0.0

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Escapes the environment table, which pytest-html inserts as it is."""
        from pytest_metadata.plugin import metadata_key

        table: dict[str, Any] = session.config.stash.get(metadata_key, {})  # -p no:metadata
        for key, value in list(table.items()):
            table[key] = (
                {_as_text(name): _as_text(part) for name, part in value.items()}
                if isinstance(value, dict)
                else _as_text(value)
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keeps the time and the traceback of a claim's test, which its result lacks."""
        cell = self._audit.record.cell_of(report)
        if cell is None:
            return
        log = self._logs.get(cell, Log())
        error = report.failed and getattr(report, "caploc_word", None) == Status.ERROR
        trace = "\n".join([report.longreprtext, *(text for _, text in report.sections)]) if error else ""
        self._logs[cell] = Log(log.seconds + report.duration, log.trace or trace[:LONGEST_TRACE])

    def pytest_runtest_logstart(self) -> None:
        """The first test: so far there is nothing to show."""
        if self._phase is None:
            self._phase, self._written = self._audit.record.phase, time.monotonic()

    @pytest.hookimpl(trylast=True)  # when pytest-html has taken in the test
    def pytest_runtest_logfinish(self) -> None:
        """Writes the page as it stands, at the end of a phase of the run or if it is old."""
        phase = self._audit.record.phase
        late = time.monotonic() > self._written + SECONDS_BETWEEN_PAGES
        if phase is None or not (late or phase != self._phase):
            return
        now = self._audit.record.so_far(self._audit.papers)
        if now.results:
            with suppress(OSError), self._put_in_place() as writer:  # the last page says what is wrong
                summary = self._frame.additional_summary["prefix"]
                summary.append(self._page(now.results, now.derived, (len(now.results), now.planned)))
                writer._generate_report()  # noqa: SLF001 - what it does at the end, and with an option after each test
                summary.clear()
        self._phase, self._written = phase, time.monotonic()

    @pytest.hookimpl(wrapper=True, trylast=True)  # ends before the terminal names the page
    def pytest_sessionfinish(self) -> Generator[None, Any, Any]:
        with self._put_in_place():
            return (yield)

    @contextmanager
    def _put_in_place(self) -> Iterator[Any]:
        """What pytest-html writes meanwhile is fenced and then replaces the page in one go: a page is whole, or none,
        whenever the process is killed."""
        plugins = self._audit.config.pluginmanager.get_plugins()
        writer: Any = next(one for one in plugins if hasattr(one, "_report_path"))
        place = writer._report_path  # noqa: SLF001 - the one place that it writes to
        aside = place.with_name(f".{place.name}.new")
        writer._report_path = aside  # noqa: SLF001
        try:
            yield writer
            if aside.is_file():
                aside.write_bytes(fenced(aside.read_bytes().decode()).encode())
                os.replace(aside, place)
        finally:
            writer._report_path = place  # noqa: SLF001 - the terminal names it
            aside.unlink(missing_ok=True)

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_report_title(self, report: Any) -> None:
        self._frame = report
        report.title = "caploc audit"
        report.set_data("renderCollapsed", ["all"])

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_row(self, report: Any, cells: list[str]) -> None:
        if self._audit.record.cell_of(report) is not None:
            cells.clear()  # pytest-html leaves out a row without cells
            return
        phase = "" if report.when == "call" else f"::{report.when}"
        cells[1] = f'<td class="col-testId"><bdi>{_as_text(report.nodeid + phase)}</bdi></td>'

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_table_html(self, report: Any, data: list[str]) -> None:
        data[:] = [str(escape(visible_lines(html.unescape(part)))) for part in data]

    @pytest.hookimpl(optionalhook=True)
    def pytest_html_results_summary(self, prefix: list[str]) -> None:
        record = self._audit.record
        if record.results:
            prefix.append(self._page(record.results, record.derived))

    def _page(
        self, results: Sequence[Result], derived: Sequence[Result], so_far: tuple[int, int] | None = None
    ) -> str:
        head = next(iter(self._audit.ledger.read()), {})
        runs: list[RunView] = []
        every = rates_of(results, self._audit.experiments, self._audit.settings, self._audit.papers)
        for key, paper in self._audit.papers.items():
            own, follows = ([one for one in of if one.planned.paper == key] for of in (results, derived))
            if own:
                prefix_of_ids = f"{key}-" if runs else ""
                runs.append(RunView(paper, own, follows, self._logs, head, prefix_of_ids, every))
        from caploc.store import Store

        other_tests, store = bool(self._frame.data["tests"]), Store(self._audit.settings.store)
        return page(*runs, other_tests=other_tests, store=store, so_far=so_far)
