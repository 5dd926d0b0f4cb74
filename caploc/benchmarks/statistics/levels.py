"""How often a test rejects a null hypothesis that holds."""

from __future__ import annotations

from collections.abc import Iterator

from caploc.benchmarks import Options
from caploc.benchmarks.statistics.intervals import ERROR_NOTE, Sizes, percent
from caploc.benchmarks.statistics.nulls import LEVEL, NULLS, rejections
from caploc.benchmarks.tables import Table
from caploc.statistics import binomial_interval


def measure_levels(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per null hypothesis."""
    table = Table(
        "levels",
        "How often is p <= .05 where the null hypothesis holds?",
        {
            "test": "test",
            "what": "null hypothesis",
            "samples": "samples",
            "rate": "p <= .05 %",
            "error": "+-",
            "size": "exact %",
            "kept": "level kept",
        },
    )
    for null in NULLS:
        count = rejections(null, sizes.nulls)
        rate, error = percent(count, sizes.nulls)
        kept = binomial_interval(count, sizes.nulls, 0.999).low <= LEVEL
        table.rows.append(
            {
                "test": null.test,
                "what": null.what,
                "samples": sizes.nulls,
                "rate": rate,
                "error": error,
                "size": None if null.size is None else 100 * null.size,
                "kept": "yes" if kept else "no, the wrong test" if null.wrong else "NO",
            }
        )
    table.notes = [
        "exact: the rate by calculation (discreteness can keep it below 5 %); elsewhere only the bound is known. kept: "
        "the rate's exact 99.9 % interval reaches down to 5 %.",
        ERROR_NOTE,
    ]
    yield table
