"""The audit as a pytest plugin: options, parameters, the fixtures ``audit`` and ``settings``, and the run's books.

Importing this module is cheap: torch, transformers and matplotlib are imported when a test or the report needs
them. Under pytest-xdist every worker judges and writes to the ledger; the controller reconciles and reports.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from caploc.audit.auditor import STATUS_PROPERTY, Auditor, Bench, ClaimRefuted, ExpectationMoved
from caploc.audit.expectations import Expectation, ExpectationsError, load_expectations
from caploc.audit.ledger import Ledger
from caploc.audit.options import MARKERS, add_options
from caploc.audit.planning import group_by_model, parametrize, plan_of, skip_without_gpu
from caploc.audit.provenance import provenance
from caploc.audit.results import MOVED, Planned, Result, Status
from caploc.audit.session import WITHOUT_FINDING, Books, last_line, record_expectations, start_ledger
from caploc.audit.settings import AuditSettings, read_settings
from caploc.audit.terminal import header, status_of, write_summary
from caploc.audit.text import LONGEST_SHOWN, visible
from caploc.errors import CaplocError
from caploc.papers import load_paper

PAPER = "capability_localization"
EXPECTATIONS = Path("fixtures") / "expected.toml"

_PLANNED = pytest.StashKey[Planned]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(tryfirst=True)  # before pytest-html reads its options
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    settings = read_settings(config.getoption)
    if config.getoption("record_expectations") and settings.departures:
        raise pytest.UsageError(
            f"--record-expectations needs the default settings; leave out {', '.join(settings.departures)}"
        )
    config.pluginmanager.register(Audit(config, settings), "caploc-audit")


class Audit:
    """The plugin of one process: a plain run's, an xdist controller's or a worker's."""

    def __init__(self, config: pytest.Config, settings: AuditSettings) -> None:
        self.config = config
        self.settings = settings
        self.worker = hasattr(config, "workerinput")
        self.recording = bool(config.getoption("record_expectations"))
        self.expectations_path = config.rootpath / EXPECTATIONS
        self.recorded = 0
        given = getattr(config, "workerinput", {})
        path = given.get("caploc_ledger") or _ledger_path(config)
        self.ledger = Ledger(Path(path), given.get("caploc_run") or uuid.uuid4().hex)
        self.books = Books(self.ledger)
        html = config.getoption("htmlpath", None)
        if html and not self.worker:
            from caploc.audit.html import HtmlReport

            config.option.self_contained_html = True
            config.pluginmanager.register(HtmlReport(self), "caploc-html")

    @cached_property
    def bench(self) -> Bench:
        """What the auditors share."""
        return Bench(
            self.settings, load_paper(PAPER), lambda: self.expectations, self.ledger, recording=self.recording
        )

    @cached_property
    def expectations(self) -> dict[str, Expectation]:
        """The reviewed expectations."""
        return load_expectations(self.expectations_path)

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput |= {"caploc_ledger": str(self.ledger.path), "caploc_run": self.ledger.run}

    def pytest_report_header(self) -> str:
        return header(self.settings, self.recording)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        parametrize(metafunc, self.settings)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        group_by_model(items)
        for item in items:
            planned = plan_of(item)
            if planned is not None:
                item.stash[_PLANNED] = planned
        skip_without_gpu(items, self.settings.device)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        plan = [item.stash[_PLANNED] for item in session.items if _PLANNED in item.stash]
        if plan and not self.config.getoption("collectonly"):
            self._check_expectations()
            try:
                start_ledger(self.ledger, plan, self._provenance)
            except OSError as error:
                raise pytest.UsageError(
                    f"cannot write the ledger {self.ledger.path}: {error}; name a writable place with --html"
                ) from error

    def _check_expectations(self) -> None:
        try:
            _ = self.expectations
        except ExpectationsError as error:
            raise pytest.UsageError(str(error)) from error

    def _provenance(self) -> dict[str, Any]:
        arguments = [str(argument) for argument in self.config.invocation_params.args]
        return provenance(self.settings, PAPER, self.config.rootpath, arguments)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if _PLANNED in item.stash:
            _settle(item, call, report)
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return status_of(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.worker:
            self.books.add(report)

    @pytest.hookimpl(tryfirst=True)  # before pytest-html writes its file
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.worker or self.config.getoption("collectonly"):
            return
        self.books.close()
        if self.recording:
            cells = (result for result in self.books.results if self._embedded(result))
            self.recorded = record_expectations(self.expectations_path, cells, self.expectations)
        if self.books.of(Status.MISSING) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _embedded(self, result: Result) -> bool:
        cell = result.planned.cell
        return self.settings.expectations_cover(cell.model, cell.dataset, cell.sigma)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.books.results:
            recorded = self.expectations_path if self.recording else None
            write_summary(terminalreporter, self.books, self.config, recorded, self.recorded)


@pytest.fixture(scope="session")
def settings(pytestconfig: pytest.Config) -> AuditSettings:
    """The options of this run, checked and typed."""
    return _plugin(pytestconfig).settings


@pytest.fixture
def audit(request: pytest.FixtureRequest) -> Auditor:
    """Hand it the finding: ``audit.check(finding)``. The test needs the marker ``claim(id)``."""
    planned = request.node.stash.get(_PLANNED, None)
    if planned is None:
        raise pytest.UsageError(
            f"{request.node.nodeid}: the fixture audit needs the marker claim, as in claim('id')"
        )
    return Auditor(request.node, planned, _plugin(request.config).bench)


def _plugin(config: pytest.Config) -> Audit:
    plugin = config.pluginmanager.getplugin("caploc-audit")
    assert isinstance(plugin, Audit)
    return plugin


def _settle(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Tells verdicts, which end a test by an exception of ours, from errors, which are any other failure."""
    error = call.excinfo.value if call.excinfo is not None else None
    word = dict(item.user_properties).get(STATUS_PROPERTY)
    if isinstance(error, (ClaimRefuted, ExpectationMoved)):
        assert call.excinfo is not None
        word = word if isinstance(error, ClaimRefuted) else MOVED
        report.longrepr = _one_line(call.excinfo)
        if isinstance(error, ClaimRefuted) and error.expected:  # xfail(strict=True, raises=ClaimRefuted)
            report.outcome = "skipped"
            report.wasxfail = f"refuted, as expected: {error}"
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


def _ledger_path(config: pytest.Config) -> Path:
    """Beside the HTML report and named like it, or else reports/ledger.jsonl."""
    html = config.getoption("htmlpath", None)
    if not html:
        return config.rootpath / "reports" / "ledger.jsonl"
    path = Path.cwd() / Path(os.path.expandvars(html)).expanduser()
    if path.suffix in (".json", ".jsonl"):
        raise pytest.UsageError(f"--html {html}: the ending {path.suffix} is the ledger's; name it .html")
    return path.with_suffix(".jsonl")
