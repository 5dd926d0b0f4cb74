"""How an experiment ends where there is nothing to measure: in a finding that says why."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from caploc.errors import CaplocError
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding

_Experiment = TypeVar("_Experiment", bound=Callable[..., Finding])


class FloorError(CaplocError):
    """A floor or ceiling effect makes a measurement uninformative; the message names it."""


def ends_in_a_finding(experiment: _Experiment) -> _Experiment:
    """Turn a NotRunError of ``experiment(study, cell, claim, ...)`` into a Finding that says so, a FloorError too."""

    @functools.wraps(experiment)
    def run(study: Study, cell: Cell, claim: str, **options: Any) -> Finding:
        try:
            return experiment(study, cell, claim, **options)
        except NotRunError as error:
            return Finding(claim=claim, cell=cell, quantity=claim, not_run=str(error))
        except FloorError as error:
            return Finding(claim=claim, cell=cell, quantity=claim, floor=str(error))

    return run  # type: ignore[return-value]
