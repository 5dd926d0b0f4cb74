"""The erasure benchmark: how much is saved by scoring many erased sets together, sharing what they have in common?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from caploc.benchmarks import Options
from caploc.benchmarks.erasure import FULL, QUICK, Sizes, measure_ratios
from caploc.benchmarks.tables import Table

QUESTIONS: Mapping[str, Callable[[Sizes, Options], Iterator[Table]]] = {"ratios": measure_ratios}

__all__ = ["FULL", "QUESTIONS", "QUICK"]
