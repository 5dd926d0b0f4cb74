"""The enhancement benchmark: what does training a few neurons cost, beside fine-tuning with masked gradients?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from caploc.benchmarks import Options
from caploc.benchmarks.enhancement import FULL, QUICK, Sizes, measure_memory, measure_steps
from caploc.benchmarks.tables import Table

QUESTIONS: Mapping[str, Callable[[Sizes, Options], Iterator[Table]]] = {
    "steps": measure_steps,
    "memory": measure_memory,
}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
