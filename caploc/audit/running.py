"""A run's three acts: what its cells need is planned, then computed, and only then is each cell measured and judged.

The second and the third are played in phases, so that a first report stands early (`phases`).

Signals that ask a process to end, as ``timeout``, schedulers and closed terminals send them, end a run as Ctrl-C does:
with its ledger, reports and summary.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from caploc.audit.cells import CLAIM_TEST, PLANNED, REQUEST, CellRequest, will_run
from caploc.audit.claims import experiment_of
from caploc.audit.kept import KeptFindings
from caploc.audit.progress import ProgressFile
from caploc.audit.settings import PAPER_SIGMA, AuditSettings, own_files
from caploc.errors import CaplocError
from caploc.findings import Finding, Outcome
from caploc.fingerprints import content_hashes, pinned

if TYPE_CHECKING:
    from caploc.engines import Engine
    from caploc.experiments.specs import Need, Plan, Spec
    from caploc.experiments.study import Study
    from caploc.papers import Paper
    from caploc.rules.looks import Look


PHASES = 8
"""At most so many phases of about equal work; each ends with a report. More of them would load models more often."""
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU)


class Studies:
    """The studies of a run's cells, one a paper, model, reading of the paper and share of the default facts."""

    def __init__(self, settings: AuditSettings) -> None:
        self._settings = settings
        self._kept: dict[tuple[str, str, str, float], Study] = {}

    def of(self, request: CellRequest, paper: Paper, share: float = 1.0) -> Study:
        """The study of a cell's model under the cell's reading. Another reading changes nothing about the model: it is
        loaded once."""
        key = (paper.key, request.model, request.cell.variant, share)
        if key not in self._kept:
            from caploc.experiments.study import Study
            from caploc.rows.sizing import prepare_process

            prepare_process()
            same = (old for old in self._kept.values() if old.model == request.model)
            loaded = next((vars(old).get("lm") for old in same), None)
            self._kept[key] = Study(request.model, self._asked(request, paper, share), loaded)
        return self._kept[key]

    def all_of(self, request: CellRequest, paper: Paper, share: float = 1.0) -> list[Study]:
        """The studies that a cell is about: its own, those of the models it compares, or none."""
        if request.each:
            return [self.of(one, paper, share) for one in request.each]
        return [self.of(request, paper, share)] if request.model else []

    def keep_only(self, studies: Sequence[Study]) -> None:
        """Let go of the results of all others but those of other shares: tests come in the order of models and
        readings."""
        same = {key[:3] for key, study in self._kept.items() if study in studies}
        for key, study in self._kept.items():
            if key[:3] not in same:
                study.forget()

    def _asked(self, request: CellRequest, paper: Paper, share: float) -> Any:
        from caploc.attribution.method import Method
        from caploc.experiments.readings import Reading
        from caploc.experiments.study import StudySettings
        from caploc.store import Store

        settings = self._settings
        device, dtype = settings.placement(request.model)
        reading = Reading.of({**settings.reading.settings, **request.reading})
        return StudySettings(
            samples=settings.most_samples,
            share=share,
            draws=settings.draws,
            seed=settings.seed,
            device=device,
            dtype=dtype,
            data_root=settings.data_root,
            files={entry.label: entry.path for entry in settings.datasets if entry.path},
            sigmas=settings.sigmas or (PAPER_SIGMA,),
            datasets=tuple(entry.label for entry in settings.datasets),
            method=Method(settings.steps, reading.quadrature),
            reading=reading,
            margins=paper.margins,
            scorings=dict(settings.scorings),
            store=Store(settings.store),
            elsewhere=settings.engine == "ray",
        )


class Cost(NamedTuple):
    """What a cell takes: floating-point operations, bytes of the store. ``warm``: the store lacks nothing of it."""

    flops: float
    size: float
    warm: bool


class Run:
    """What one process does of a run: it computes its share of all cells' needs, and measures the cells it is given.

    ``data``: the `data_hashes` that all of the run's processes go by. ``engine``: who computes.
    """

    def __init__(
        self,
        settings: AuditSettings,
        papers: Callable[[str], Paper],
        progress: ProgressFile,
        data: Mapping[str, Mapping[str, str]],
        engine: Engine,
    ) -> None:
        self._papers, self._progress, self._engine = papers, progress, engine
        self._data = {path: known for files in data.values() for path, known in files.items()}
        self._studies, self._kept = Studies(settings), KeptFindings(settings, data)
        self._looking = settings.samples == "auto"
        self._decided: dict[pytest.Item, Finding] = {}
        self._defects: dict[pytest.Item, Exception] = {}
        self._needs: dict[pytest.Item, list[Need]] = {}
        self._plan: Plan | None = None
        self._phase_of: Mapping[str, int] = {}
        self._left: list[int] = []
        self._seconds = 0.0

    def _needed(self, item: pytest.Item, share: float = 1.0) -> list[Need]:
        """What the cell of this test needs. An exception is kept for the cell's own test."""
        planned, request = item.stash[PLANNED], item.stash[REQUEST]
        paper = self._papers(planned.paper)
        if not (request.model or request.each) or planned.claim not in paper.claims:
            return []
        try:
            studies = self._studies.all_of(request, paper, share)
            experiment = item.stash[CLAIM_TEST].load()
            subject = studies if request.each else studies[0]
            return list(experiment.needs(subject, planned.cell, paper.claim(planned.claim)))
        except Exception as error:  # noqa: BLE001 - raised again by `finding`
            self._defects[item] = error
            return []

    def costs(self, items: Sequence[pytest.Item]) -> dict[pytest.Item, Cost]:
        """What each test's cell lacks in the store, what cells share counted for the first of them; nothing of one that
        was measured before. Nothing is computed. Where a run may stop early, it is that of all looks."""
        found = dict.fromkeys(items, Cost(0.0, 0.0, warm=True))
        counted: set[tuple[Study, Spec[Any]]] = set()
        with pinned(self._data):
            from caploc.experiments.specs import Plan

            needs = {
                item: self._needed(item) for item in items if not self._kept.has(item, self._paper(item))
            }
            plan = Plan((one for group in needs.values() for one in group), ignore=(Exception,))
            for item, group in needs.items():
                missing = plan.missing(group)
                new = missing.keys() - counted
                flops = sum(missing[one] for one in new)
                found[item] = Cost(
                    flops, sum(map(_size, new)), warm=not missing and item not in self._defects
                )
                counted |= new
        return found

    def plan(self, items: Sequence[pytest.Item]) -> None:
        """Takes note of what these tests need, and of what of it the store lacks."""
        cells = [item for item in items if PLANNED in item.stash and will_run(item)]
        new = [item for item in cells if not self._kept.has(item, self._paper(item))]
        kept = len(cells) - len(new)
        with pinned(self._data):
            self._needs = {}
            for item in new:
                looks = self._looks(item)
                self._needs[item] = self._needed(item, looks[0].share if looks else 1.0)
            needs = [need for found in self._needs.values() for need in found]
            if needs:
                from caploc.engines import EngineError
                from caploc.experiments.specs import Plan

                try:
                    self._engine.prepare({need.study: None for need in needs})
                except EngineError as error:
                    raise pytest.UsageError(f"--engine: {error}") from error
                # an error is that of the cells that need the result: each meets it again when it is measured
                self._plan = Plan(needs, ignore=(Exception,))
                self._progress.plan(self._plan.outlook, kept, len(cells))
            elif kept:
                self._progress.plan(None, kept, len(cells))

    def phases(self, telling: Collection[pytest.Item], fewest: int) -> dict[str, int]:
        """The phase of each cell of the plan by its node id, as `phases` has it; 0 for all others."""
        if self._plan is None:
            return {}
        found = phases(
            {item: self._plan.missing(needs) for item, needs in self._needs.items()}, telling, fewest
        )
        return {item.stash[PLANNED].nodeid: phase for item, phase in found.items() if phase}

    def follow(self, phase_of: Mapping[str, int]) -> None:
        """From now on `compute` goes by these phases, which the processes of the run have agreed on."""
        self._phase_of = phase_of
        self._left = sorted({self._phase(item) for item in self._needs} - {0})
        if not self._left:
            self._progress.end(0, 0.0)

    def compute(self, item: pytest.Item) -> None:
        """Computes what the store lacks of all phases up to that of this test, unless this was done before; other
        processes of the run share the work. Where a cell is looked at before its last fact is in, what further looks
        take is computed here, too, before the clock of its test runs."""
        while self._plan is not None and self._left and self._left[0] <= self._phase(item):
            from caploc.engines import EngineError
            from caploc.store import StoreError

            phase, ended = self._left.pop(0), False
            needs = [
                need for one, found in self._needs.items() if self._phase(one) == phase for need in found
            ]
            began, results = time.monotonic(), 0
            try:
                with pinned(self._data), suppress(StoreError):  # every cell meets it
                    results = self._plan.compute(self._progress.progress, needs, self._engine)
                ended = bool(self._left)
            except EngineError as error:  # what is computed is kept, and a further run goes on from there
                pytest.exit(str(error), pytest.ExitCode.INTERRUPTED)
            finally:
                self._seconds += time.monotonic() - began
                if ended:
                    self._progress.rest()
                else:
                    self._progress.end(results, self._seconds)
        if self._looks(item) and will_run(item) and not self._kept.has(item, self._paper(item)):
            with suppress(Exception):  # its own test meets it again
                self._decided[item] = self.finding(item)

    def _phase(self, item: pytest.Item) -> int:
        return self._phase_of.get(item.stash[PLANNED].nodeid, 0) if PLANNED in item.stash else 0

    def finding(self, item: pytest.Item) -> Finding:
        """The finding of a test's cell: that of an earlier run, or made from results that were computed before."""
        paper = self._paper(item)
        found = self._decided.pop(item, None) or self._kept.get(item, paper)
        if found is None:
            found = self._looked(item, paper) if self._looks(item) else self._measured(item, paper)
            self._kept.put(item, paper, found)
        return found

    def _looks(self, item: pytest.Item) -> tuple[Look, ...]:
        """The looks of a cell under ``--samples auto``; none where it is measured once, with all that there is."""
        if not self._looking or CLAIM_TEST not in item.stash:
            return ()
        from caploc.rules.looks import EARLY, LOOKS

        return LOOKS if experiment_of(item.stash[CLAIM_TEST]) in EARLY else ()

    def _looked(self, item: pytest.Item, paper: Paper) -> Finding:
        """The finding of the first look that decides a cell, or of the last; a number without a verdict has no use for
        the looks between."""
        from caploc.rules import judge
        from caploc.rules.looks import DECIDED, held_to

        claim, looks = paper.claim(item.stash[PLANNED].claim), list(self._looks(item))
        while True:
            look = looks.pop(0)
            found = held_to(self._measured(item, paper, look.share), look, claim)
            outcome = judge(claim, found).outcome
            if look.last or outcome in DECIDED:
                return found
            if outcome is Outcome.MEASURED:
                del looks[:-1]

    def _paper(self, item: pytest.Item) -> Paper:
        return self._papers(item.stash[PLANNED].paper)

    def _measured(self, item: pytest.Item, paper: Paper, share: float = 1.0) -> Finding:
        from caploc.experiments.evidence import assemble

        if item in self._defects:
            raise self._defects[item]
        planned, request = item.stash[PLANNED], item.stash[REQUEST]
        claim = paper.claim(planned.claim)
        experiment = item.stash[CLAIM_TEST].load()
        if not (request.model or request.each):
            return assemble(claim, planned.cell, experiment(paper, claim))
        studies = self._studies.all_of(request, paper, share)
        self._studies.keep_only(studies)
        with pinned(self._data):
            measurement = experiment(studies if request.each else studies[0], planned.cell, claim)
        return assemble(claim, planned.cell, measurement, studies)


def _size(one: tuple[Study, Spec[Any]]) -> float:
    study, spec = one
    with suppress(CaplocError):
        return spec.size(study)
    return 0.0


def phases(
    missing: Mapping[pytest.Item, Mapping[Any, float]], telling: Collection[pytest.Item], fewest: int
) -> dict[pytest.Item, int]:
    """In which phase each cell is judged, given what has to be computed for it and how much work that is.

    Phase 0 lacks nothing. Then ``telling`` cells come before others, and cheap ones before dear; the order is cut into
    at most `PHASES` phases of about equal work. A cell that needs nothing more than those before it is judged with
    them. The last phase has at least ``fewest`` cells: a process that is given none of them would not help to compute.
    """
    total = sum({one: flops for found in missing.values() for one, flops in found.items()}.values())
    order = sorted(missing, key=lambda item: (item not in telling, sum(missing[item].values())))
    when: dict[Any, int] = {}
    done, phase = 0.0, 1
    for item in order:
        new = {one: flops for one, flops in missing[item].items() if one not in when}
        done += sum(new.values())
        phase = max(phase, min(PHASES, math.ceil(PHASES * done / total))) if total else 1
        when |= dict.fromkeys(new, phase)
    found = {item: max((when[one] for one in missing[item]), default=0) for item in order}
    sizes = Counter(phase for phase in found.values() if phase)
    late = sorted(sizes)
    while len(late) > 1 and sum(sizes[phase] for phase in sizes if phase >= late[-1]) < fewest:
        late.pop()
    return {item: min(phase, late[-1]) if phase else 0 for item, phase in found.items()}


def data_hashes(settings: AuditSettings) -> dict[str, dict[str, str]]:
    """Dataset -> file -> sha256 of all that a run may read from this machine. Datasets from the hub are pinned to a
    commit instead."""
    from caploc.datasets import DATASETS
    from caploc.datasets.sources import local_files
    from caploc.model.registry import embedded_data

    root = settings.data_root
    if root is None and any(model.embedded for model in settings.models):
        root = str(embedded_data())
    files = {name: local_files(one, root) for name, one in DATASETS.items()} if root is not None else {}
    files |= {
        entry.label: own
        for entry in settings.datasets
        if not entry.path and (own := own_files(entry.label, settings.data_root))
    }
    files |= {entry.label: [Path(entry.path)] for entry in settings.datasets if entry.path}
    return {name: hashes for name, found in files.items() if (hashes := content_hashes(found))}


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, each of `SIGNALS` raises KeyboardInterrupt, unless whoever started the process handles or ignores it."""
    mine: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        mine = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def end_undisturbed() -> None:
    """The run is ending anyway: a further signal must not cost it its summary."""
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, _ignore)  # SIG_IGN would be inherited


def _interrupt(number: int, _: FrameType | None) -> None:
    end_undisturbed()  # timeout signals the process, and then its group
    raise KeyboardInterrupt(signal.Signals(number).name)


def _ignore(*_: object) -> None:
    pass
