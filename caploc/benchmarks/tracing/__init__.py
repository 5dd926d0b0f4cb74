"""The causal tracing benchmark: how much is saved by reusing what a restored state cannot change?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from caploc.benchmarks import Options
from caploc.benchmarks.tables import Table
from caploc.benchmarks.tracing import FULL, QUICK, Case, measure_ratios

QUESTIONS: Mapping[str, Callable[[Sequence[Case], Options], Iterator[Table]]] = {"ratios": measure_ratios}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
