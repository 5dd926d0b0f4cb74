"""What a call costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from caploc import statistics
from caploc.benchmarks import Options
from caploc.benchmarks.measuring import timed as cpu_seconds
from caploc.benchmarks.statistics.intervals import Sizes
from caploc.benchmarks.tables import Spread, Table

SHORTEST = 0.02
"""CPU seconds that a round lasts at least, so that the clock's grain does not count."""


def measure_times(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per function, and the fast bootstrap against scipy's."""
    table = Table(
        "times",
        "What does a call cost?",
        {"call": "call", "rows": "rows", "milliseconds": "CPU ms", "scipy": "scipy / fast"},
    )
    for rows in sizes.units[-1], 1600:
        for name, call, slow in _calls(rows):
            calls = max(1, int(SHORTEST / max(1e-7, cpu_seconds(call))))
            fast_rounds, ratios = [], []
            for _ in range(options.repeat):
                seconds = cpu_seconds(partial(_repeat, call, calls)) / calls
                fast_rounds.append(1000 * seconds)
                if slow is not None:
                    ratios.append(cpu_seconds(slow) / seconds)
            table.rows.append(
                {
                    "call": name,
                    "rows": rows,
                    "milliseconds": Spread.of(fast_rounds),
                    "scipy": Spread.of(ratios) if ratios else None,
                }
            )
    table.notes = [
        "Median, lowest and highest of the rounds. Clusters are of 4 rows; bootstraps take 2,000 draws.",
        "scipy / fast: CPU time of bootstrap_interval(values, np.mean), by scipy.stats.bootstrap, over that of "
        "bootstrap_mean, for the same interval from the same draws.",
    ]
    yield table


def _repeat(call: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        call()


def _calls(rows: int) -> Iterator[tuple[str, Callable[[], object], Callable[[], object] | None]]:
    """Name, call and what it is compared with."""
    rng = np.random.default_rng(rows)
    values, first, second = rng.normal(size=rows), rng.random(rows) < 0.6, rng.random(rows) < 0.5
    clusters, strata = np.arange(rows) // 4, np.arange(rows) % 3
    yield (
        "bootstrap_mean, BCa",
        lambda: statistics.bootstrap_mean(values),
        lambda: statistics.bootstrap_interval(values, np.mean),
    )
    yield (
        "bootstrap_mean, BCa, clusters",
        lambda: statistics.bootstrap_mean(values, clusters=clusters),
        lambda: statistics.bootstrap_interval(values, np.mean, clusters=clusters),
    )
    yield "paired_permutation, 9,999 flips", lambda: statistics.paired_permutation(values), None
    yield (
        "paired_permutation, 9,999 flips, clusters",
        lambda: statistics.paired_permutation(values, clusters=clusters),
        None,
    )
    yield "paired_permutation, right and wrong", lambda: statistics.paired_permutation(first, second), None
    yield (
        "stratified_permutation, 9,999 arrangements",
        lambda: statistics.stratified_permutation(values, first, strata),
        None,
    )
    yield "mcnemar", lambda: statistics.mcnemar(first, second), None
    yield "tost", lambda: statistics.tost(values, 0.5), None
    yield (
        "minimum_detectable_difference",
        lambda: statistics.minimum_detectable_difference(rows, 0.3),
        None,
    )
