"""The audit as a pytest plugin: options, cells, the fixture ``audit``, computing before the tests, the run's record.

Importing this module is cheap: torch, transformers and matplotlib are imported when a test or the report needs
them. Under pytest-xdist every worker judges and writes to the ledger; the controller reconciles and reports.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Iterable
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.auditor import Auditor, Context, report_verdict
from caploc.audit.cells import (
    CLAIM_TEST,
    GB,
    PLANNED,
    group_by_model,
    parametrize,
    plan_item,
    skip_without_gpu,
    will_run,
)
from caploc.audit.claims import experiment_of
from caploc.audit.coverage import Coverage, write_coverage
from caploc.audit.expectations import (
    Expectation,
    ExpectationsError,
    key_of,
    load_expectations,
    record_expectations,
)
from caploc.audit.gpus import take_gpu, workers_for_gpus
from caploc.audit.ledger import PHASES, Ledger, RunRecord, start_ledger
from caploc.audit.options import MARKERS, add_options
from caploc.audit.places import (
    CLAIMS,
    LEDGER,
    expectations_of,
    html_path,
    one_folder_each,
    project_of_run,
)
from caploc.audit.progress import ProgressFile, ProgressLine
from caploc.audit.results import Planned, Result, Status, claim_of, status_of, telling
from caploc.audit.running import Run, data_hashes, end_undisturbed, interruptible
from caploc.audit.settings import AuditSettings, read_settings
from caploc.audit.summary import provenance
from caploc.audit.terminal import header, write_summary
from caploc.findings import PRINTED

if TYPE_CHECKING:
    from caploc.engines import Engine
    from caploc.engines.cluster import Cluster
    from caploc.papers import Paper

_FOLDERS, _USAGE = "caploc_folders", "caploc_usage_error"
_SHOWING = ("collectonly", "setuponly", "showfixtures", "show_fixtures_per_test")
_NOTHING_RAN = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
_RAN = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


@pytest.hookimpl(wrapper=True)
def pytest_cmdline_main() -> Generator[None, Any, Any]:
    with interruptible():
        return (yield)


@pytest.hookimpl(tryfirst=True)  # before pytest-html reads its options
def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    settings = read_settings(config.getoption)
    worker = str(getattr(config, "workerinput", {}).get("workerid", ""))
    if worker.startswith("gw"):
        take_gpu(int(worker[2:]), settings.device)
    if config.getoption("record_expectations") and settings.departures:
        raise pytest.UsageError(
            f"--record-expectations needs the default settings; leave out {', '.join(settings.departures)}"
        )
    _check_plan(config)
    if config.getoption("claim_coverage") or config.getoption("plan"):
        config.option.collectonly = True
    cluster = None
    if settings.engine == "ray" and not config.option.collectonly:
        cluster = _cluster(config, settings)
        settings = replace(settings, gpus=cluster.gpu_bytes is not None)
    config.pluginmanager.register(Audit(config, settings, cluster), "caploc-audit")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    return workers_for_gpus(config)


def _cluster(config: pytest.Config, settings: AuditSettings) -> Cluster:
    """The Ray cluster, whose workers are being started. Raises `pytest.UsageError`."""
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("--engine ray has workers of its own; leave -n out")
    try:
        from caploc.engines.cluster import Cluster
    except ModuleNotFoundError as error:
        raise pytest.UsageError(f"--engine ray needs Ray ({error}): pip install 'caploc[ray]'") from error
    from caploc.engines import EngineError

    try:
        return Cluster(settings.ray_address, {"cuda": True, "cpu": False}.get(settings.device))
    except EngineError as error:
        raise pytest.UsageError(str(error)) from error


def _check_plan(config: pytest.Config) -> None:
    """Options that ask a run for something make no sense where nothing runs."""
    if not config.getoption("plan"):
        return
    for other in ("claim_coverage", "record_expectations"):
        if config.getoption(other):
            raise pytest.UsageError(
                f"--plan runs nothing, so --{other.replace('_', '-')} makes no sense beside it; leave one of them out"
            )


class Audit:
    """The plugin of one process: a plain run's, an xdist controller's or a worker's."""

    def __init__(
        self, config: pytest.Config, settings: AuditSettings, cluster: Cluster | None = None
    ) -> None:
        self.config = config
        self.settings = settings
        self.cluster = cluster
        self.worker = hasattr(config, "workerinput")
        self.recording = bool(config.getoption("record_expectations"))
        self.project = project_of_run(config)
        self.folders: dict[str, Path] = {}
        self.recorded: dict[Path, int] = {}
        given = getattr(config, "workerinput", {})
        html = html_path(config)
        which, runs = settings.shard
        ledger = (
            LEDGER.with_stem(f"{LEDGER.stem}-{which}") if runs > 1 else LEDGER
        )  # they may share the folder, too
        default = html.with_suffix(".jsonl") if html else self.project / ledger
        path = Path(given.get("caploc_ledger") or default)
        reports = [path.with_suffix(".json"), *([html] if html else [])]
        self.ledger = Ledger(path, given.get("caploc_run") or uuid.uuid4().hex, reports)
        self.record = RunRecord(self.ledger)
        self.coverage: list[Coverage] = []
        self.planned: list[pytest.Item] | None = None
        self.experiments: dict[str, str] = {}
        """Claim -> the name of the experiment that its tests run."""
        self.progress_line: ProgressLine | None = None
        if html is not None and not self.worker:
            from caploc.audit.report import HtmlReport

            config.option.self_contained_html = True
            config.pluginmanager.register(HtmlReport(self), "caploc-html")

    @cached_property
    def papers(self) -> dict[str, Paper]:
        """The papers of this run by their keys: those of ``--paper``, or all that caploc has."""
        from caploc.papers import load_paper, paper_names  # here: --help and usage errors need no pydantic

        found = [load_paper(name) for name in self.settings.papers or paper_names()]
        return {paper.key: paper for paper in found}

    @property
    def runs(self) -> bool:
        """Whether pytest is to run the tests rather than to show something of them."""
        return not any(self.config.getoption(name, False) for name in _SHOWING)

    def paper_of(self, path: Path) -> Paper | None:
        """The paper whose claims a file tests: that of its folder's name; None where there is none."""
        return self.papers.get(path.parent.name)

    @cached_property
    def run(self) -> Run:
        """What this process computes and measures."""
        progress = ProgressFile(self.progress_folder, f"{os.getpid()}")
        data = self.ledger.head().get("data", {})
        return Run(self.settings, self.papers.__getitem__, progress, data, self.engine)

    @property
    def engine(self) -> Engine:
        """Who computes: a cluster, or this process, which begins where no other of its run and shard does."""
        if self.cluster is not None:
            return self.cluster
        from caploc.experiments.specs import Here

        which, runs = self.settings.shard
        given = getattr(self.config, "workerinput", {})
        among = int(given["workerid"].removeprefix("gw")) / given["workercount"] if given else 0.0
        return Here((which + among) / runs if runs > 1 else 0.0)

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
            self.expectation,
            self.ledger,
            self.run.finding,
            recording=self.recording,
        )

    @cached_property
    def expectations(self) -> dict[str, dict[str, Expectation]]:
        """The reviewed expectations of each paper that has tests here, by `key_of` their cells."""
        return {paper: load_expectations(expectations_of(folder)) for paper, folder in self.folders.items()}

    def expectation(self, planned: Planned) -> Expectation | None:
        """What was reviewed of a cell."""
        return self.expectations[planned.paper].get(key_of(planned))

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        try:
            return (yield)
        except pytest.UsageError as error:
            if not self.worker:
                raise
            self.config.workeroutput[_USAGE] = str(error)  # type: ignore[attr-defined]
            pytest.exit(str(error), pytest.ExitCode.USAGE_ERROR)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Takes over where a worker found the tests; raises its usage error in the process that shows it."""
        told = getattr(node, "workeroutput", {})
        self.folders |= {key: Path(one) for key, one in told.get(_FOLDERS, {}).items()}
        if _USAGE in told:
            raise pytest.UsageError(told[_USAGE])

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput |= {"caploc_ledger": str(self.ledger.path), "caploc_run": self.ledger.run}

    def pytest_report_header(self) -> str:
        return header(self.settings, self.recording)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        parametrize(metafunc, self.settings, self.paper_of)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._leave_other_papers(items)
        for item in items:
            plan_item(item, self.paper_of(item.path))
        self.folders = one_folder_each(items, PLANNED)
        if self.worker:
            self.config.workeroutput[_FOLDERS] = {key: str(one) for key, one in self.folders.items()}  # type: ignore[attr-defined]
        group_by_model(items)
        found = None if self.cluster is None else self.cluster.gpu_bytes
        told = None if self.cluster is None else lambda: None if found is None else found / GB
        skip_without_gpu(items, self.settings.device, told)
        if self.config.getoption("claim_coverage"):
            self.coverage = self._covered(_cells(items))
            items.clear()  # the claims are listed in the tests' place

    def _leave_other_papers(self, items: list[pytest.Item]) -> None:
        """Takes out the tests of papers that caploc has and that ``--paper`` does not name."""
        from caploc.papers import paper_names

        others = set(paper_names()) - self.papers.keys()
        left = [item for item in items if item.path.parent.name in others]
        if left:
            self.config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if item.path.parent.name not in others]

    def _folder(self, paper: str) -> Path:
        """The paper's tests, or where they would be."""
        return self.folders.get(paper, self.project / CLAIMS / paper)

    def _covered(self, plan: Iterable[Planned]) -> list[Coverage]:
        """Of the papers that ``--paper`` names, or else of those whose tests were collected, or of all without any."""
        plan = list(plan)
        tested = {one.paper for one in plan}
        asked = {key: paper for key, paper in self.papers.items() if self.settings.papers or key in tested}
        return [
            Coverage.of(paper, [one for one in plan if one.paper == key])
            for key, paper in (asked or self.papers).items()
        ]

    # before the terminal lists the tests, and before a worker says in what order they stand
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self.config.getoption("plan"):
            self.planned = list(session.items)
            session.items.clear()  # the plan is shown in the tests' place
            return
        self.experiments = {
            item.stash[PLANNED].claim: experiment_of(item.stash[CLAIM_TEST])
            for item in session.items
            if PLANNED in item.stash and CLAIM_TEST in item.stash
        }
        plan = _cells(session.items)
        if plan and self.runs:
            self._check_expectations()
            running = [
                item.stash[PLANNED] for item in session.items if PLANNED in item.stash and will_run(item)
            ]
            try:
                start_ledger(self.ledger, plan, partial(self._provenance, running))
            except OSError as error:
                raise pytest.UsageError(
                    f"cannot write the ledger {self.ledger.path}: {error}; name a writable place with --html"
                ) from error
            if self.worker and not session.testsfailed:
                self.run.plan(session.items)
                self._put_in_phases(session.items)

    def _put_in_phases(self, items: list[pytest.Item]) -> None:
        """Sorts the tests by the phase of the plan, within a phase headline claims first; all processes of a run go by
        the plan of the first one, since what the others find in the store may be more."""
        headline = {(key, claim) for key, paper in self.papers.items() for claim in telling(paper)}
        cells = {item: item.stash[PLANNED] for item in items if PLANNED in item.stash}
        first = {
            item for item, one in cells.items() if (one.paper, one.claim) in headline and not one.cell.variant
        }
        fewest = 2 * self.config.workerinput["workercount"] if self.worker else 1  # type: ignore[attr-defined]
        phases = self.ledger.settle(PHASES, lambda: self.run.phases(first, fewest))
        self.run.follow(phases)

        def place(item: pytest.Item) -> tuple[int, bool]:
            return (phases.get(cells[item].nodeid, 0), item not in first) if item in cells else (-1, False)

        items.sort(key=place)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Generator[None, object, object]:
        if not self.runs or session.testsfailed:
            return (yield)
        if self.worker:
            return (yield)
        reporter = self.config.pluginmanager.getplugin("terminalreporter")
        with ProgressLine(self.progress_folder, reporter) as self.progress_line:
            if any(PLANNED in item.stash for item in session.items):  # with workers, they collect and compute
                self.run.plan(session.items)
                self._put_in_phases(session.items)
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Computes what the tests of a phase need before the first of them begins, and the clock of its time limit."""
        if PLANNED in item.stash:
            self.run.compute(item)
        return (yield)

    @pytest.hookimpl(tryfirst=True)  # before the terminal shows anything of a test
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.progress_line is not None:
            self.progress_line.pause(nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        if self.progress_line is not None:
            self.progress_line.resume(nodeid)

    def _check_expectations(self) -> None:
        try:
            _ = self.expectations
        except ExpectationsError as error:
            raise pytest.UsageError(str(error)) from error

    def _provenance(self, running: list[Planned]) -> dict[str, Any]:
        arguments = [str(argument) for argument in self.config.invocation_params.args]
        models = {label for planned in running for label in planned.cell.models} - {PRINTED}
        data = data_hashes(self.settings) if models else {}
        return provenance(self.settings, models, self.papers.values(), self.project, arguments, data)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if PLANNED in item.stash:
            report.caploc_cell = item.stash[PLANNED].nodeid  # type: ignore[attr-defined]
            report_verdict(item, call, report)
        return report

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return status_of(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.worker:
            self.record.add(report)

    @pytest.hookimpl(tryfirst=True)  # before pytest-html writes its file
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        end_undisturbed()
        if self.coverage and session.exitstatus in _NOTHING_RAN:
            bad = any(one.problems() for one in self.coverage)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED if bad else pytest.ExitCode.OK
        if self.planned and session.exitstatus in _NOTHING_RAN:
            session.exitstatus = pytest.ExitCode.OK
        if self.worker or not self.runs:
            return
        self.record.finish(self.papers, interrupted=session.exitstatus not in _RAN)
        if self.recording:
            self._record_expectations()
        lacking = [*self.record.of(Status.MISSING), *self.record.of(Status.ERROR)]
        if lacking and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _record_expectations(self) -> None:
        found: dict[Path, list[Result]] = {}
        for result in self.record.results:
            planned = result.planned
            claim = claim_of(planned, self.papers)
            if self.settings.expectations_cover(planned.cell, planned.across, claim.sigmas if claim else ()):
                path = expectations_of(self._folder(planned.paper))
                found.setdefault(path, []).append(result)
        for path, results in found.items():
            try:
                self.recorded[path] = record_expectations(path, results, load_expectations(path))
            except OSError as error:
                raise pytest.UsageError(
                    f"cannot write {path}: {error}; record in a copy of the project"
                ) from error

    def pytest_unconfigure(self) -> None:
        if self.cluster is not None:
            self.cluster.close()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for coverage in self.coverage:
            write_coverage(terminalreporter, coverage)
        if self.planned:
            from caploc.audit.planning import write_plan  # here: rates are simulated with scipy

            run = Run(
                self.settings,
                self.papers.__getitem__,
                ProgressFile(self.progress_folder, "plan"),
                data_hashes(self.settings),
                self.engine,
            )
            write_plan(terminalreporter, self.planned, self.settings, self.papers, run)
        if self.record.results:
            audited = {result.planned.paper for result in self.record.results}
            papers = [paper for key, paper in self.papers.items() if key in audited]
            write_summary(terminalreporter, self.record, papers, self.config, self.recorded)


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


def _cells(items: Iterable[pytest.Item]) -> dict[Planned, list[str]]:
    """The cells that these tests decide, each with the node ids of its tests: pytest's final ones."""
    found: dict[Planned, list[str]] = {}
    for item in items:
        if PLANNED in item.stash:
            found.setdefault(item.stash[PLANNED], []).append(item.nodeid)
    return found
