"""What has to be computed, named before any of it is: specs, and the plan that a run makes of them.

A `Spec` is plain data, such as "the scores of gsm8k's locating examples in the untrained twin". It says what it rests
on (``after``), which entries of the store hold it (``tasks``, each a content hash and what computes it) and what they
amount to (``read``). An experiment names its specs first; a `Plan` collects those of all cells, with what they rest
on, and computes what the store lacks, stage by stage: masks follow scores, outcomes follow masks. Measurements are then
made from results alone.

    plan = Plan([Need(study, Scores("gsm8k")), Need(study, Erasures("gsm8k", 3.0))])
    plan.compute(report)
    study.result(Erasures("gsm8k", 3.0))        # read from the store: no weight is touched
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from caploc.engines import Engine, Listener
from caploc.errors import CaplocError
from caploc.fingerprints import fingerprint
from caploc.store import Compute, Entry, StoreError

if TYPE_CHECKING:
    from caploc.experiments.study import Study

Result = TypeVar("Result")
Arrays = Mapping[str, np.ndarray]

# Part of every key that `key_of` makes: raise it when a change of the code changes numbers by more than rounding.
CODE_VERSION = 1
SMALL = 1e5
"""Bytes of a result that holds a number or two for each of some hundred items."""


class NotRunError(CaplocError):
    """A cell cannot be measured here, through no fault of the claim; the message is a reason a user can act on."""


class FloorError(CaplocError):
    """A floor or ceiling effect makes a measurement uninformative; the message names it."""


class NotStoredError(CaplocError):
    """A result is asked for that is not computed yet, where nothing may be."""


ENDINGS = (NotRunError, FloorError)
"""Why there is no result, as a result: an experiment ends with the reason."""


class Task(NamedTuple):
    """One entry of the store: its key, and what computes it where it is missing."""

    key: str
    compute: Compute


class Spec(Generic[Result]):
    """One result of a study, named. Subclasses are frozen dataclasses of plain fields, or of other specs.

    Everything here may raise NotRunError or FloorError: then that is the result.
    """

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        """What it rests on: results that ``tasks`` and ``read`` look up; its fields that are specs, unless it says
        otherwise. Data may be read here, no weights."""
        return (value for value in vars(self).values() if isinstance(value, Spec))

    def tasks(self, study: Study) -> Iterable[Task]:
        """The entries that hold it; none where it follows from what it rests on."""
        return ()

    def read(self, study: Study, entries: Iterator[Entry]) -> Result:
        """The result, from the entries in the order of ``tasks``."""
        raise NotImplementedError

    def flops(self, study: Study) -> float:
        """Roughly how many floating-point operations the tasks take; told before anything is computed."""
        return 0.0

    def size(self, study: Study) -> float:
        """Roughly how many bytes the store takes for it, where that is much; told before anything is computed."""
        return SMALL

    @property
    def title(self) -> str:
        """What is being computed, for a progress line."""
        values = (value for value in vars(self).values() if isinstance(value, str | float) and value)
        fields = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)
        return f"{self.kind} {fields}".strip()

    @property
    def kind(self) -> str:
        """What sort of result it is."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(self).__name__).lower()


def key_of(study: Study, what: str, depends_on: Mapping[str, Any]) -> str:
    """A key that hashes the study's model, dtype and device type, and all else that the result depends on."""
    common = {
        "what": what,
        "code": CODE_VERSION,
        "model": study.lm.fingerprint,
        "dtype": study.settings.dtype,
        "device": study.settings.device.partition(":")[0],
    }
    return fingerprint({**common, **depends_on})


def keyed(study: Study, what: str, depends_on: Mapping[str, Any], make: Callable[[], Arrays]) -> Task:
    """A task of arrays alone, under its `key_of`."""
    return Task(key_of(study, what, depends_on), lambda: (make(), {}))


class Need(NamedTuple):
    """A spec in the study that it is a result of."""

    study: Study
    spec: Spec[Any]


@dataclass(frozen=True)
class Outlook:
    """What a plan has to compute, as far as is known before it does.

    Attributes:
        results: specs that entries of the store hold; those that merely follow from others are not counted.
        models: how many there are results of.
        stored: how many of the results are.
        flops: estimate of the floating-point operations that the others take.
    """

    results: int
    models: int
    stored: int
    flops: float


@dataclass(frozen=True)
class Progress:
    """How far a plan has come.

    Attributes:
        done: floating-point operations that the results computed so far were estimated to take.
        total: of all that has to be computed.
        results: how many of the missing results there are by now, whichever process computed them.
        missing: how many were missing.
        what: the result that is being computed.
    """

    done: float
    total: float
    results: int
    missing: int
    seconds: float
    what: str
    left: float | None = None

    @property
    def share(self) -> float | None:
        """Of the work, in [0, 1]; None where its size is unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """By how long each kind of result took for its operations so far (``left``), or else by the rate of all; None
        before anything was computed."""
        if self.left is not None:
            return self.left
        return self.seconds / self.share - self.seconds if self.share else None


class Job(NamedTuple):
    """A missing entry of the store.

    ``spec`` of ``study`` is the first result that it belongs to, ``rests_on`` what that looks up.
    """

    study: Study
    spec: Spec[Any]
    key: str
    compute: Compute
    rests_on: Sequence[tuple[Study, Spec[Any]]] = ()

    @property
    def title(self) -> str:
        """What the entry says that it is."""
        return f"{self.spec.kind} of {self.study.model}"


class Here:
    """This process, which shares the work with all others that compute into the same store.

    ``turn``: where in the order of jobs it begins, in [0, 1). Runs that begin apart seldom want the same one.
    """

    elsewhere = False

    def __init__(self, turn: float = 0.0) -> None:
        self._turn = turn

    def prepare(self, studies: Iterable[Study]) -> None:
        """What this process lacks is told by the cells."""

    def compute(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Returns when each job's entry is in the store, whichever process computed it, or it has failed."""
        first = int(self._turn * len(jobs))
        missing = {job.key: job for job in [*jobs[first:], *jobs[:first]]}
        began = ""

        def begin(key: str) -> None:
            nonlocal began
            began = key
            listener.begin(key)

        while missing:
            try:
                next(iter(missing.values())).study.settings.store.compute_all(
                    {key: job.compute for key, job in missing.items()},
                    each=lambda key, here: listener.add(key),
                    begin=begin,
                    title=lambda key: missing[key].title,
                )
                return
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - the listener raises it again where it must
                listener.failed(missing.pop(began), error)


Report = Callable[[Progress], None]
HERE = Here()


class Plan:
    """The needs of a run, each once, with all that they rest on, by study and in stages.

    ``stages[study]``: lists of specs; those of one stage rest on earlier stages alone. What ends in an exception of
    ``ignore`` stays missing, and whoever asks for its result meets the exception; any other passes through.
    """

    def __init__(self, needs: Iterable[Need], ignore: tuple[type[Exception], ...] = ENDINGS) -> None:
        self._ignore = ignore
        self._after: dict[tuple[Study, Spec[Any]], list[Spec[Any]]] = {}
        self._tasks: dict[tuple[Study, Spec[Any]], list[Task]] = {}
        self._missing_flops: dict[tuple[Study, Spec[Any]], float] = {}
        self._computed: set[tuple[Study, Spec[Any]]] = set()
        self._tally: _Tally | None = None
        depth: dict[tuple[Study, Spec[Any]], int] = {}
        for study, spec in needs:
            self._place(study, spec, depth)
        self.stages: dict[Study, list[list[Spec[Any]]]] = {}
        for (study, spec), level in depth.items():
            stages = self.stages.setdefault(study, [])
            stages += [[] for _ in range(level + 1 - len(stages))]
            stages[level].append(spec)

    def _place(self, study: Study, spec: Spec[Any], depth: dict[tuple[Study, Spec[Any]], int]) -> int:
        if (study, spec) not in depth:
            try:
                first = list(spec.after(study))
            except self._ignore:
                first = []
            self._after[study, spec] = first
            depth[study, spec] = max((self._place(study, one, depth) for one in first), default=-1) + 1
        return depth[study, spec]

    def __len__(self) -> int:
        return sum(len(stage) for stages in self.stages.values() for stage in stages)

    @cached_property
    def outlook(self) -> Outlook:
        """What has to be computed, as far as is known beforehand.

        The keys of what rests on a missing result, such as the outcomes under a mask whose scores are missing, are not
        known before that is computed: all of it counts as missing.
        """
        results = 0
        complete: set[tuple[Study, Spec[Any]]] = set()
        for study, spec in self._in_order():
            ready = complete.issuperset((study, one) for one in self._after[study, spec])
            if type(spec).tasks is Spec.tasks:
                if ready:
                    complete.add((study, spec))
                continue
            share = 1.0
            if ready and not study.unread:
                try:
                    tasks = study.tasks(spec)
                except self._ignore:  # there is no such result
                    complete.add((study, spec))
                    continue
                self._tasks[study, spec] = tasks
                lacking = sum(not study.settings.store.has(task.key) for task in tasks)
                share = lacking / max(1, len(tasks))
            results += 1
            if share:
                self._missing_flops[study, spec] = share * self._flops(study, spec)
            else:
                complete.add((study, spec))
        return Outlook(
            results,
            len({study.model for study in self.stages}),
            results - len(self._missing_flops),
            sum(self._missing_flops.values()),
        )

    def _in_order(self) -> Iterator[tuple[Study, Spec[Any]]]:
        return ((study, spec) for study, stages in self.stages.items() for stage in stages for spec in stage)

    def missing(self, needs: Iterable[Need]) -> dict[tuple[Study, Spec[Any]], float]:
        """What the stores lack of the needs and of what they rest on, each with its floating-point operations."""
        if self.outlook.stored == self.outlook.results:
            return {}
        return {one: self._missing_flops[one] for one in self._all(needs) if one in self._missing_flops}

    def _all(self, needs: Iterable[Need]) -> set[tuple[Study, Spec[Any]]]:
        """The needs and all that they rest on."""
        found: set[tuple[Study, Spec[Any]]] = set()
        left: list[tuple[Study, Spec[Any]]] = [(need.study, need.spec) for need in needs]
        while left:
            study, spec = left.pop()
            if (study, spec) not in found:
                found.add((study, spec))
                left += ((study, one) for one in self._after[study, spec])
        return found

    def compute(
        self,
        report: Report = lambda progress: None,
        needs: Iterable[Need] | None = None,
        engine: Engine = HERE,
    ) -> int:
        """Computes what the stores lack, study by study and stage by stage; returns how many missing results there are
        now, whichever process computed them.

        ``needs``: some of the plan's, which are computed alone, with what they rest on; the rest may follow later. The
        first call's ``report`` is told of the whole plan.

        Processes that compute the same plan share its tasks (`caploc.store.Store.compute_all`). In this process, a
        study's weights are let go of before the next one's are loaded; ``engine`` may compute elsewhere, then all
        studies side by side. What was finished before an exception stays.
        """
        if self._tally is None:
            self._tally = _Tally(self.outlook, self._missing_flops, report, self._ignore)
        self._tally.elsewhere = engine.elsewhere
        asked = set(self._after) if needs is None else self._all(needs)
        asked -= self._computed
        for studies in [[*self.stages]] if engine.elsewhere else [[study] for study in self.stages]:
            for level in zip_longest(*map(self.stages.__getitem__, studies), fillvalue=()):
                part = [(study, spec) for study, stage in zip(studies, level, strict=True) for spec in stage]
                jobs = self._lacking([one for one in part if one in asked], self._tally)
                engine.compute(jobs, self._tally)
            for study in studies:
                study.release()
        self._computed |= asked
        return self._tally.results

    def _lacking(self, part: Sequence[tuple[Study, Spec[Any]]], tally: _Tally) -> list[Job]:
        """What the store lacks of a stage; an entry that several results share is a job of the first."""
        jobs: dict[str, Job] = {}
        for study, spec in part:
            known = self._missing_flops.get((study, spec))
            try:
                tasks = self._tasks.pop((study, spec), None) or study.tasks(spec)
            except self._ignore:
                tally.drop(spec, known)
                continue
            lacking = {task.key: task for task in tasks if not study.settings.store.has(task.key)}
            own = [key for key in lacking if key not in jobs]
            flops = self._flops(study, spec) / max(1, len(tasks))
            tally.expect(Need(study, spec), lacking, own, flops, known)
            rests_on = list(self._all([Need(study, spec)]) - {(study, spec)}) if tally.elsewhere else ()
            jobs |= {key: Job(study, spec, key, lacking[key].compute, rests_on) for key in own}
        return list(jobs.values())

    def _flops(self, study: Study, spec: Spec[Any]) -> float:
        """As far as is known without computing anything."""
        try:
            with study.computing_nothing():
                return spec.flops(study)
        except NotStoredError:
            return 0.0
        except self._ignore:
            return 0.0


class _Tally:
    """Counts work as it is done, and reports it; who is told of jobs (`caploc.engines.Listener`).

    ``elsewhere``: whether they are computed by other processes.
    """

    def __init__(
        self,
        outlook: Outlook,
        missing: Mapping[tuple[Study, Spec[Any]], float],
        report: Report,
        ignore: tuple[type[Exception], ...],
    ) -> None:
        self._ignore, self.elsewhere = ignore, False
        self._rates = _Rates()
        for (_, spec), flops in missing.items():
            self._rates.expect(spec.kind, flops)
        self.results = 0
        self._missing = outlook.results - outlook.stored
        self._total, self._done = outlook.flops, 0.0
        self._report, self._began = report, time.monotonic()
        self._flops: dict[str, float] = {}
        self._titles: dict[str, str] = {}
        self._parts: dict[str, tuple[Need, int]] = {}
        self._ended: Counter[Need] = Counter()
        self._waiting: dict[str, list[set[str]]] = {}
        self._needing: dict[str, list[Need]] = {}

    def expect(
        self, need: Need, lacking: Collection[str], own: Collection[str], flops: float, known: float | None
    ) -> None:
        """Takes in a result that lacks entries, of which ``own`` are counted with it, ``flops`` each; ``known`` is what
        the outlook says of it, None where it was stored."""
        self._total += flops * len(own) - (known or 0.0)
        self._rates.expect(need.spec.kind, flops * len(own) - (known or 0.0))
        self._flops |= dict.fromkeys(own, flops)
        self._parts |= dict.fromkeys(own, (need, len(own)))
        self._titles |= dict.fromkeys(own, f"{need.spec.title} ({need.study.model})")
        waiting = set(lacking)
        for key in lacking:
            self._waiting.setdefault(key, []).append(waiting)
            self._needing.setdefault(key, []).append(need)
        self.results += (
            known is not None and not lacking
        )  # another process computed it, or it was there unknown

    def drop(self, spec: Spec[Any], known: float | None) -> None:
        """Takes note that there is no such result after all; ``known`` as in `expect`."""
        self._missing -= known is not None
        self._rates.expect(spec.kind, -(known or 0.0))
        self._total -= known or 0.0

    def failed(self, job: Job, error: Exception) -> None:
        if not isinstance(error, self._ignore):
            raise error
        for need in self._needing[job.key]:
            need.study.fail(need.spec, error)

    def begin(self, key: str) -> None:
        self._rates.begin(key)
        self._tell(key)

    def add(self, key: str) -> None:
        self._done += self._flops[key]
        need, _ = self._parts[key]
        self._ended[need] += 1
        self._rates.add(key, need.spec.kind, self._flops[key])
        for waiting in self._waiting.pop(key, ()):
            waiting.discard(key)
            self.results += not waiting
        self._tell(key)

    def _tell(self, key: str) -> None:
        seconds, (need, parts) = time.monotonic() - self._began, self._parts[key]
        shards = f", {self._ended[need]} of {parts} shards" if parts > 1 else ""
        left = self._rates.left(seconds)
        what = f"{self._titles[key]}{shards}"
        self._report(Progress(self._done, self._total, self.results, self._missing, seconds, what, left))


class _Rates:
    """How long each kind of result takes for its operations, as measured here, and so what is left: a token that is
    written takes many times longer than one that is read, whatever the estimate beforehand."""

    def __init__(self) -> None:
        self._left: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._measured: dict[str, tuple[float, float]] = {}
        self._began: dict[str, float] = {}

    def expect(self, kind: str, flops: float) -> None:
        self._left[kind] = self._left.get(kind, 0.0) + flops

    def begin(self, key: str) -> None:
        self._began[key] = time.monotonic()

    def add(self, key: str, kind: str, flops: float) -> None:
        """Takes in an entry, and how long it took if it was computed here."""
        self._left[kind] = self._left.get(kind, 0.0) - flops
        self._done[kind] = self._done.get(kind, 0.0) + flops
        began = self._began.pop(key, None)
        if began is not None:
            known, seconds = self._measured.get(kind, (0.0, 0.0))
            self._measured[kind] = known + flops, seconds + time.monotonic() - began

    def left(self, seconds: float) -> float | None:
        """Of the time, by the ``seconds`` that what is done took all processes; None before anything was measured."""
        flops = sum(known for known, _ in self._measured.values())
        took = sum(needed for _, needed in self._measured.values())
        if not flops or not took:
            return None

        def of(work: Mapping[str, float]) -> float:
            """Seconds of one process."""
            found = 0.0
            for kind, amount in work.items():
                known, needed = self._measured.get(kind, (0.0, 0.0))
                found += max(0.0, amount) * (needed / known if known else took / flops)
            return found

        done = of(self._done)
        return seconds * of(self._left) / done if done else None
