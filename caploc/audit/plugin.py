"""The audit as a pytest plugin: options, cells, the fixture ``audit``, computing before the tests, the run's record.

Importing this module is cheap: torch, transformers and matplotlib are imported when a test or the report needs
them. Under pytest-xdist every worker judges and writes to the ledger; the controller reconciles and reports.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.auditor import Auditor, Context, report_verdict
from caploc.audit.cells import PLANNED, group_by_model, parametrize, plan_item, skip_without_gpu
from caploc.audit.coverage import Coverage, PendingError, load_pending, write_coverage
from caploc.audit.expectations import (
    Expectation,
    ExpectationsError,
    load_expectations,
    record_expectations,
)
from caploc.audit.ledger import Ledger, RunRecord, start_ledger
from caploc.audit.options import MARKERS, add_options
from caploc.audit.progress import ProgressFile, ProgressLine
from caploc.audit.results import Planned, Result, Status
from caploc.audit.running import Run, data_hashes
from caploc.audit.settings import AuditSettings, read_settings
from caploc.audit.summary import provenance
from caploc.audit.terminal import header, status_of, write_summary
from caploc.findings import PRINTED

if TYPE_CHECKING:
    from caploc.papers import Paper

EXPECTATIONS = Path("fixtures") / "expected.toml"
CLAIMS, PENDING = Path("claims"), "pending.toml"

_NOTHING_RAN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


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
        self.record = RunRecord(self.ledger)
        self.coverage: list[Coverage] = []
        self.progress_line: ProgressLine | None = None
        html = config.getoption("htmlpath", None)
        if html and not self.worker:
            from caploc.audit.report import HtmlReport

            config.option.self_contained_html = True
            config.pluginmanager.register(HtmlReport(self), "caploc-html")

    @cached_property
    def papers(self) -> dict[str, Paper]:
        """The papers of this run by their keys: those of ``--paper``, or all that caploc has."""
        from caploc.papers import load_paper, paper_names  # here: --help and usage errors need no pydantic

        found = [load_paper(name) for name in self.settings.papers or paper_names()]
        return {paper.key: paper for paper in found}

    def paper_of(self, path: Path) -> Paper | None:
        """The paper whose claims a file tests: that of its folder's name; None where there is none."""
        return self.papers.get(path.parent.name)

    @cached_property
    def run(self) -> Run:
        """What this process computes and measures."""
        progress = ProgressFile(self.progress_folder, f"{os.getpid()}")
        return Run(self.settings, self.papers.__getitem__, progress, self.ledger.head().get("data", {}))

    @property
    def progress_folder(self) -> Path:
        """Where the processes of this run tell how far they have come."""
        return self.ledger.path.with_name(f".{self.ledger.path.stem}-{self.ledger.run}.progress")

    @cached_property
    def context(self) -> Context:
        """What the auditors share."""
        return Context(
            self.settings,
            self.papers.__getitem__,
            lambda: self.expectations,
            self.ledger,
            self.run.finding,
            recording=self.recording,
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
        parametrize(metafunc, self.settings, self.paper_of)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            plan_item(item, self.paper_of(item.path))
        group_by_model(items)
        skip_without_gpu(items, self.settings.device)
        if self.config.getoption("claim_coverage"):
            plan = [item.stash[PLANNED] for item in items if PLANNED in item.stash]
            folders = {item.stash[PLANNED].paper: item.path.parent for item in items if PLANNED in item.stash}
            self.coverage = self._covered(plan, folders)
            items.clear()  # the claims are listed in the tests' place

    def _covered(self, plan: list[Planned], folders: dict[str, Path]) -> list[Coverage]:
        found = []
        for key, paper in self.papers.items():
            try:
                folder = folders.get(key, self.config.rootpath / CLAIMS / key)
                pending = load_pending(folder / PENDING)
            except PendingError as error:
                raise pytest.UsageError(str(error)) from error
            found.append(Coverage.of(paper, [one for one in plan if one.paper == key], pending))
        return found

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        plan = [item.stash[PLANNED] for item in session.items if PLANNED in item.stash]
        if plan and not self.config.getoption("collectonly"):
            self._check_expectations()
            try:
                start_ledger(self.ledger, plan, partial(self._provenance, plan))
            except OSError as error:
                raise pytest.UsageError(
                    f"cannot write the ledger {self.ledger.path}: {error}; name a writable place with --html"
                ) from error

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if self.config.getoption("collectonly") or session.testsfailed:
            return (yield)
        if self.worker:
            self.run.compute(session.items)
            return (yield)
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        with ProgressLine(self.progress_folder, reporter) as self.progress_line:
            if session.items:  # with workers, they collect and compute
                self.run.compute(session.items)
            return (yield)

    @pytest.hookimpl(tryfirst=True)  # before the terminal shows anything of a test
    def pytest_runtest_logstart(self) -> None:
        if self.progress_line is not None:
            self.progress_line.close()

    def _check_expectations(self) -> None:
        try:
            _ = self.expectations
        except ExpectationsError as error:
            raise pytest.UsageError(str(error)) from error

    def _provenance(self, plan: list[Planned]) -> dict[str, Any]:
        arguments = [str(argument) for argument in self.config.invocation_params.args]
        measured = any(planned.cell.model != PRINTED for planned in plan)
        data = data_hashes(self.settings) if measured else {}
        return provenance(self.settings, self.papers.values(), self.config.rootpath, arguments, data)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if PLANNED in item.stash:
            report_verdict(item, call, report)
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return status_of(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.worker:
            self.record.add(report)

    @pytest.hookimpl(tryfirst=True)  # before pytest-html writes its file
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.coverage and session.exitstatus in _NOTHING_RAN:
            bad = any(one.problems() for one in self.coverage)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if bad else pytest.ExitCode.OK
        if self.worker or self.config.getoption("collectonly"):
            return
        self.record.finish(self.papers)
        if self.recording:
            cells = (result for result in self.record.results if self._embedded(result))
            self.recorded = record_expectations(self.expectations_path, cells, self.expectations)
        if self.record.of(Status.MISSING) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _embedded(self, result: Result) -> bool:
        return self.settings.expectations_cover(result.planned.cell, result.planned.across)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for coverage in self.coverage:
            write_coverage(terminalreporter, coverage)
        if self.record.results:
            recorded = self.expectations_path if self.recording else None
            audited = {result.planned.paper for result in self.record.results}
            papers = [paper for key, paper in self.papers.items() if key in audited]
            write_summary(terminalreporter, self.record, papers, self.config, recorded, self.recorded)


@pytest.fixture
def audit(request: pytest.FixtureRequest) -> Auditor:
    """Measures and judges the cell of a claim test, and ends the test accordingly: ``audit.check()``."""
    planned = request.node.stash.get(PLANNED, None)
    if planned is None:
        raise pytest.UsageError(
            f"{request.node.nodeid}: the fixture audit is for tests made by caploc.audit.claims.claim"
        )
    return Auditor(request.node, planned, _plugin(request.config).context)


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
