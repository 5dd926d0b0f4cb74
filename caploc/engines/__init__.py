"""Where a plan computes what is missing: this process (`caploc.experiments.specs.Here`), or a Ray cluster
(`caploc.engines.cluster`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from caploc.errors import CaplocError

if TYPE_CHECKING:
    from caploc.experiments.specs import Job
    from caploc.experiments.study import Study


class EngineError(CaplocError):
    """Results cannot be computed where they were asked to be."""


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
