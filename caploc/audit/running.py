"""A run's three acts: what its cells need is planned, then computed, and only then is each cell measured and judged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.cells import CLAIM_TEST, PLANNED, REQUEST, CellRequest, will_run
from caploc.audit.settings import AuditSettings
from caploc.audit.text import duration, in_ascii
from caploc.findings import Finding
from caploc.papers import Paper

if TYPE_CHECKING:
    from caploc.experiments.specs import Need, Progress
    from caploc.experiments.study import Study

SECONDS_BETWEEN = 0.5
"""At most so often a process tells how far it has come."""


class Studies:
    """The studies of a run's cells, one a model and reading of the paper."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._kept: dict[tuple[str, str, str], Study] = {}

    def of(self, request: CellRequest, paper: Paper) -> Study:
        """The study of a cell's model under the cell's reading. Another reading changes nothing about the model: it is
        loaded once."""
        key = (paper.key, request.model, request.cell.variant)
        if key not in self._kept:
            from caploc.experiments.study import Study

            same = (old for old in self._kept.values() if old.model == request.model)
            loaded = next((vars(old).get("lm") for old in same), None)
            self._kept[key] = Study(request.model, self._asked(request, paper), loaded)
        return self._kept[key]

    def all_of(self, request: CellRequest, paper: Paper) -> list[Study]:
        """The studies that a cell is about: its own, those of the models it compares, or none."""
        if request.each:
            return [self.of(one, paper) for one in request.each]
        return [self.of(request, paper)] if request.model else []

    def keep_only(self, studies: Sequence[Study]) -> None:
        """Let go of the results of all others: tests come in the order of models and readings."""
        for study in self._kept.values():
            if study not in studies:
                study.forget()

    def _asked(self, request: CellRequest, paper: Paper) -> Any:
        from caploc.attribution.method import Method
        from caploc.experiments.readings import Reading
        from caploc.experiments.settings import StudySettings
        from caploc.store import Store

        settings = self._settings
        device, dtype = settings.placement(request.model)
        reading = Reading.of({**settings.reading.settings, **request.reading})
        return StudySettings(
            samples=settings.samples,
            draws=settings.draws,
            seed=settings.seed,
            device=device,
            dtype=dtype,
            data_root=settings.data_root,
            files={entry.label: entry.path for entry in settings.datasets if entry.path},
            sigmas=settings.sigmas,
            datasets=tuple(entry.label for entry in settings.datasets),
            method=Method(settings.steps, reading.quadrature),
            reading=reading,
            margins=paper.margins,
            store=Store(settings.store),
        )


class Run:
    """What one process does of a run: it computes its share of all cells' needs, and measures the cells it is given."""

    def __init__(self, settings: AuditSettings, papers: Callable[[str], Paper], told: Told) -> None:
        self._papers, self._told = papers, told
        self._studies = Studies(settings)

    def needs(self, items: Sequence[pytest.Item]) -> list[Need]:
        """What the cells of these tests need, in their order; those that are skipped need nothing."""
        found: list[Need] = []
        for item in items:
            if PLANNED not in item.stash or not will_run(item):
                continue
            planned, request = item.stash[PLANNED], item.stash[REQUEST]
            paper = self._papers(planned.paper)
            if not (request.model or request.each) or planned.claim not in paper.claims:
                continue
            with suppress(Exception):  # the test itself says what is wrong
                studies = self._studies.all_of(request, paper)
                experiment = item.stash[CLAIM_TEST].load()
                subject = studies if request.each else studies[0]
                found += experiment.needs(subject, planned.cell, paper.claim(planned.claim))
        return found

    def compute(self, items: Sequence[pytest.Item]) -> None:
        """Computes what the store lacks of all that these tests need; other processes of the run share the work."""
        from caploc.experiments.specs import Plan

        _settle_torch()
        # an error is that of the cells that need the result: each meets it again when it is measured
        plan = Plan(self.needs(items), ignore=(Exception,))
        with self._told.while_computing(len(plan)):
            plan.compute(self._told.progress)

    def finding(self, item: pytest.Item) -> Finding:
        """The finding of a claim test's cell, from results that were computed before."""
        from caploc.experiments.assembling import assemble

        planned, request = item.stash[PLANNED], item.stash[REQUEST]
        paper = self._papers(planned.paper)
        claim = paper.claim(planned.claim)
        experiment = item.stash[CLAIM_TEST].load()
        if not (request.model or request.each):
            return assemble(claim, planned.cell, experiment(paper, claim))
        _settle_torch()
        studies = self._studies.all_of(request, paper)
        self._studies.keep_only(studies)
        measurement = experiment(studies if request.each else studies[0], planned.cell, claim)
        return assemble(claim, planned.cell, measurement, studies)


def _settle_torch() -> None:
    """The same numbers whatever the machine: one thread a process; -n gives more processes, which share the work."""
    import torch

    from caploc.rows.sizing import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(1)


class Told:
    """How far the computing of a run has come, told by all its processes and shown by the one with the terminal.

    Each process writes a small file of its own into ``folder``; tests run only once everything is computed, so the
    terminal has nothing else to show meanwhile.
    """

    def __init__(self, folder: Path, process: str) -> None:
        self._folder, self._file = folder, folder / f"{process}.json"
        self._last = 0.0

    @contextmanager
    def while_computing(self, specs: int) -> Iterator[None]:
        """Around the computing of a plan."""
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            self._write({"ended": True, "specs": specs})

    def progress(self, progress: Progress) -> None:
        """Takes note of how far a plan has come."""
        if time.monotonic() - self._last > SECONDS_BETWEEN:
            self._last = time.monotonic()
            self._write(
                {
                    "share": progress.share,
                    "left": progress.seconds_left,
                    "entries": progress.entries,
                    "what": progress.what,
                }
            )

    def _write(self, content: dict[str, Any]) -> None:
        with suppress(OSError):  # a run goes on where its progress cannot be shown
            temporary = self._file.with_suffix(".new")
            temporary.write_text(json.dumps(content))
            temporary.replace(self._file)


class ProgressLine:
    """One line of pytest's own terminal reporter, kept up to date while any process computes."""

    def __init__(self, folder: Path, reporter: Any) -> None:
        self._folder, self._reporter = folder, reporter
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caploc-progress", daemon=True)
        self._shown, self._lines = "", 0

    def __enter__(self) -> ProgressLine:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            for file in self._folder.glob("*.json"):
                file.unlink()
            self._folder.rmdir()

    def line(self) -> str | None:
        """What is known now: done of all, time left, what is being computed; None where nothing is computed."""
        told = [one for one in map(_read, sorted(self._folder.glob("*.json"))) if one and "share" in one]
        if not told:
            return None
        ahead = max(told, key=lambda one: one["share"])
        left = [one["left"] for one in told if one["left"] is not None]
        time_left = f", about {duration(min(left))} left" if left else ""
        entries = sum(one["entries"] for one in told)
        done = f"{ahead['share']:.0%} of the work ({entries} results)"
        return f"computing: {done}{time_left}: {in_ascii(ahead['what'], 80)}"

    def _run(self) -> None:
        while not self._stop.wait(SECONDS_BETWEEN):
            line = self.line()
            if line is None or line == self._shown:
                continue
            self._shown = line
            if self._reporter.isatty:
                self._reporter.rewrite(line, erase=True)
            elif self._lines % 20 == 0:  # a log wants few lines
                self._reporter.write_line(line)
            self._lines += 1


def _read(file: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        content = json.loads(file.read_text())
        return content if isinstance(content, dict) else None
    return None
