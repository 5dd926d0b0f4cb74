"""The statistics benchmark: do the intervals cover, do the tests keep their level, and what does a call cost?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from caploc.benchmarks import Options
from caploc.benchmarks.statistics import measure_levels, measure_power, measure_times
from caploc.benchmarks.statistics.intervals import FULL, QUICK, Sizes, measure_coverage, measure_proportions
from caploc.benchmarks.tables import Table

QUESTIONS: Mapping[str, Callable[[Sizes, Options], Iterator[Table]]] = {
    "coverage": measure_coverage,
    "proportions": measure_proportions,
    "levels": measure_levels,
    "power": measure_power,
    "times": measure_times,
}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
