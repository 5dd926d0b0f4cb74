"""Where a plan computes what is missing: in this process (`Here`), or on a Ray cluster (`caploc.engines.cluster`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from caploc.errors import CaplocError
from caploc.store import Compute, StoreError

if TYPE_CHECKING:
    from caploc.experiments.specs import Spec
    from caploc.experiments.study import Study


class EngineError(CaplocError):
    """Results cannot be computed where they were asked to be."""


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


class Listener(Protocol):
    """Who is told of jobs."""

    def begin(self, key: str) -> None:
        """The job of this key is being computed."""

    def add(self, key: str) -> None:
        """Its entry is in the store."""

    def failed(self, job: Job, error: Exception) -> None:
        """There will be none; raised again where nobody may go on without it."""


class Engine(Protocol):
    """Computes jobs.

    ``elsewhere``: by other processes, which hold several models side by side; nothing may be computed in this one.
    """

    elsewhere: bool

    def prepare(self, studies: Iterable[Study]) -> None:
        """Before anything is planned: raises `EngineError` where they cannot be computed on."""

    def compute(self, jobs: Sequence[Job], listener: Listener) -> None:
        """Returns when each job's entry is in its study's store, or it has failed."""


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
