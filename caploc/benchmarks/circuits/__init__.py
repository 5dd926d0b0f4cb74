"""The circuits benchmark: how much faster exact pruning is than one forward pass an edge, and how good its rival is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from caploc.benchmarks import Options
from caploc.benchmarks.circuits import FULL, QUICK, Sizes, measure_methods, measure_speed
from caploc.benchmarks.tables import Table

QUESTIONS: Mapping[str, Callable[[Sizes, Options], Iterator[Table]]] = {
    "speed": measure_speed,
    "methods": measure_methods,
}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
