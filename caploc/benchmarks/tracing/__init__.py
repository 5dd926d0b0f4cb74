"""The causal tracing benchmark: how much is saved by reusing what a restored state cannot change?"""

from __future__ import annotations

from collections.abc import Iterator

from caploc.benchmarks import Options
from caploc.benchmarks.tables import Table
from caploc.benchmarks.tracing.cases import FULL, QUICK
from caploc.benchmarks.tracing.ratios import measure_ratios


def run(options: Options) -> Iterator[Table]:
    """The table of ratios."""
    yield measure_ratios(QUICK if options.quick else FULL, options)
