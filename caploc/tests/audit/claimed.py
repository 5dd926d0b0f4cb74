"""For claims made by hand: measurements without a model, and a plugin whose studies load none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

import caploc.experiments.study as studies
from caploc.audit.cells import CellRequest
from caploc.audit.claims import ClaimTest, claim
from caploc.experiments.study import Experiment, Study
from caploc.findings import (
    PRINTED,
    Bound,
    Cell,
    Chance,
    Count,
    Effect,
    Measurement,
    Number,
    Part,
    Plot,
    Reading,
    Test,
)  # fmt: skip

__all__ = [
    "PRINTED", "Bound", "Cell", "CellRequest", "Chance", "ClaimTest", "Count", "Effect", "Measurement", "Number",
    "Part", "Plot", "Reading", "Test", "claim", "measured", "not_run", "overlap", "pytest",
]  # fmt: skip

Needs = Callable[..., Iterable[Any]]


def measured(found: Any, needs: Needs = lambda *_: ()) -> Experiment:
    """An experiment that finds this, or what this function of (study, cell, claim) gives."""
    return Experiment("by hand", "", needs, found if callable(found) else lambda *_: found)


def overlap(low: float, high: float, parts: Mapping[str, Part] | None = None, **more: Any) -> Measurement:
    """An overlap of halves that is the same at the paper's number of samples, and far above untrained twins'."""
    level = Bound((low + high) / 2, (low, high))
    own = {"at full size": level, "beyond twins": Effect(0.5, (0.4, 0.6), (0.42, 0.58))}
    return Measurement("overlap", level, {**own, **(parts or {})}, **more)


def not_run(why: str) -> Measurement:
    return Measurement("", not_run=why)


class WithoutModel(Study):
    """A study that says of itself only what needs no model."""

    @property
    def record(self) -> dict[str, Any]:
        return {"seed": self.settings.seed}


def pytest_configure() -> None:
    studies.Study = WithoutModel  # type: ignore[misc]


def pytest_unconfigure() -> None:
    studies.Study = Study  # type: ignore[misc]
