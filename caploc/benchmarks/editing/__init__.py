"""The editing benchmark: how much faster all layers are edited together than one by one, and whether edits take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from caploc.benchmarks import Options
from caploc.benchmarks.editing import FULL, QUICK, Sizes, measure_speed, measure_success
from caploc.benchmarks.tables import Table

QUESTIONS: Mapping[str, Callable[[Sizes, Options], Iterator[Table]]] = {
    "speed": measure_speed,
    "success": measure_success,
}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
