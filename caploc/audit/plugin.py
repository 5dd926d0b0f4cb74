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

from caploc.audit.auditor import Auditor, Bench
from caploc.audit.coverage import Coverage, PendingError, load_pending, write_coverage
from caploc.audit.expectations import Expectation, ExpectationsError, load_expectations
from caploc.audit.ledger import Ledger
from caploc.audit.options import MARKERS, add_options
from caploc.audit.outcomes import settle
from caploc.audit.planning import group_by_model, parametrize, plan_of, skip_without_gpu
from caploc.audit.results import Planned, Result, Status
from caploc.audit.session import Books, record_expectations, start_ledger
from caploc.audit.settings import PAPER, AuditSettings, read_settings
from caploc.audit.summary import provenance
from caploc.audit.terminal import header, status_of, write_summary
from caploc.papers import load_paper

EXPECTATIONS = Path("fixtures") / "expected.toml"
PENDING = Path("claims") / "pending.toml"

_NOTHING_RAN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
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
    if config.getoption("claim_coverage"):
        config.option.collectonly = True
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
        self.coverage: Coverage | None = None
        html = config.getoption("htmlpath", None)
        if html and not self.worker:
            from caploc.audit.report import HtmlReport

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
        if self.config.getoption("claim_coverage"):
            plan = [item.stash[_PLANNED] for item in items if _PLANNED in item.stash]
            self.coverage = self._covered(plan)
            items.clear()  # the claims are listed in the tests' place

    def _covered(self, plan: list[Planned]) -> Coverage:
        try:
            pending = load_pending(self.config.rootpath / PENDING)
        except PendingError as error:
            raise pytest.UsageError(str(error)) from error
        return Coverage.of(load_paper(PAPER), plan, pending)

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
            settle(item, call, report)
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return status_of(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.worker:
            self.books.add(report)

    @pytest.hookimpl(tryfirst=True)  # before pytest-html writes its file
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.coverage is not None and session.exitstatus in _NOTHING_RAN:
            session.exitstatus = (
                pytest.ExitCode.TESTS_FAILED if self.coverage.problems() else pytest.ExitCode.OK
            )
        if self.worker or self.config.getoption("collectonly"):
            return
        self.books.close(self.bench.paper)
        if self.recording:
            cells = (result for result in self.books.results if self._embedded(result))
            self.recorded = record_expectations(self.expectations_path, cells, self.expectations)
        if self.books.of(Status.MISSING) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _embedded(self, result: Result) -> bool:
        return self.settings.expectations_cover(result.planned.cell, result.planned.across)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.coverage is not None:
            write_coverage(terminalreporter, self.coverage)
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


def _ledger_path(config: pytest.Config) -> Path:
    """Beside the HTML report and named like it, or else reports/ledger.jsonl."""
    html = config.getoption("htmlpath", None)
    if not html:
        return config.rootpath / "reports" / "ledger.jsonl"
    path = Path.cwd() / Path(os.path.expandvars(html)).expanduser()
    if path.suffix in (".json", ".jsonl"):
        raise pytest.UsageError(f"--html {html}: the ending {path.suffix} is the ledger's; name it .html")
    return path.with_suffix(".jsonl")
