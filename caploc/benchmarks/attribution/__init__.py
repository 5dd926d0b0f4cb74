"""The attribution benchmark: is the packed engine as fast as is said, at what cost, and still exact?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from caploc.benchmarks import Options
from caploc.benchmarks.attribution import measure_memory, measure_quadratures, measure_rate
from caploc.benchmarks.attribution.speed import FULL, QUICK, Sizes, measure_growth, measure_ratios
from caploc.benchmarks.tables import Table

QUESTIONS: Mapping[str, Callable[[Sizes, Options], Iterator[Table]]] = {
    "ratios": measure_ratios,
    "growth": measure_growth,
    "memory": measure_memory,
    "rate": measure_rate,
    "quadratures": measure_quadratures,
}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
