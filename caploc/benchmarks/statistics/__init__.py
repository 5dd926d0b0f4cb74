"""The statistics benchmark: do the intervals cover (``intervals``), do the tests keep their level (``nulls``) and
detect the effects that they should, do the claims' ``rules``, and what does a call cost?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from caploc import statistics
from caploc.benchmarks import Options
from caploc.benchmarks.measuring import Rounds, timed
from caploc.benchmarks.statistics import nulls
from caploc.benchmarks.statistics.intervals import (
    ERROR_NOTE,
    FULL,
    QUICK,
    Sizes,
    measure_coverage,
    measure_proportions,
    percent,
)
from caploc.benchmarks.statistics.nulls import LEVEL
from caploc.benchmarks.tables import Table

__all__ = [
    "FULL",
    "QUICK",
    "measure_coverage",
    "measure_levels",
    "measure_looks",
    "measure_power",
    "measure_proportions",
    "measure_rules",
    "measure_times",
]

LOOKED = 400
"""Simulated cells a truth and claim: 5 % is found within 2.2 points."""
SHORTEST = 0.02
"""CPU seconds that a round lasts at least, so that the clock's grain does not count."""


def measure_levels(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per null hypothesis."""
    table = Table(
        "levels",
        "How often is p <= .05 where the null hypothesis holds?",
    )
    for null in nulls.NULLS:
        count = nulls.rejections(null, sizes.nulls)
        rate, error = percent(count, sizes.nulls)
        kept = statistics.binomial_interval(count, sizes.nulls, 0.999).low <= LEVEL
        table.rows.append(
            {
                "test": null.test,
                "null hypothesis": null.what,
                "samples": sizes.nulls,
                "p <= .05 %": rate,
                "+-": error,
                "exact %": None if null.size is None else 100 * null.size,
                "level kept": "yes" if kept else "no, the wrong test" if null.wrong else "NO",
            }
        )
    table.notes = [
        "exact: the rate by calculation (discreteness can keep it below 5 %); elsewhere only the bound is known. kept: "
        "the rate's exact 99.9 % interval reaches down to 5 %.",
        ERROR_NOTE,
    ]
    yield table


def measure_power(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per test and number of units."""
    table = Table(
        "power",
        "How often is the minimum detectable effect found?",
    )
    for units in sizes.units:
        for test, effect, simulate in _tests(units):
            rng = np.random.default_rng(units)
            found, error = percent(sum(simulate(rng) <= LEVEL for _ in range(sizes.samples)), sizes.samples)
            table.rows.append(
                {
                    "test": test,
                    "units": units,
                    "effect": effect,
                    "samples": sizes.samples,
                    "found %": found,
                    "+-": error,
                }
            )
    table.notes = [
        "Two-sided at .05, with 999 flips; wanted 80 %. Effects by minimum_detectable_effect from the number of units "
        "and the standard deviation of a unit's mean, 1.00 or 1.04; for mcnemar, with 60 % discordant pairs, the "
        "difference of proportions by minimum_detectable_difference, which does not exist for 10 pairs.",
        ERROR_NOTE,
    ]
    yield table


def measure_rules(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per claim: the rates of its rule at default sizes."""
    from caploc.benchmarks.statistics.rules import table_of_rules  # experiments, which need torch

    yield table_of_rules(None if sizes is FULL else 10)


def measure_looks(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per claim that is looked at early: its rates, and how many facts that takes."""
    from caploc.benchmarks.statistics.rules import table_of_looks  # as above

    yield table_of_looks(LOOKED if sizes is FULL else 10)


def _tests(units: int) -> Iterator[tuple[str, float, Callable[[np.random.Generator], float]]]:
    """Name, smallest detectable effect and a p value at that effect."""
    effect = statistics.minimum_detectable_effect(n=units, sd=1.0, level=LEVEL)

    def permuted(rng: np.random.Generator) -> float:
        differences = rng.normal(effect, 1, units)
        return statistics.paired_permutation(differences, draws=999, seed=int(rng.integers(2**31))).p

    yield "paired_permutation", effect, permuted

    # clusters of 3 rows: their means spread by 1 between and 0.5 / sqrt(3) within clusters
    spread = float(np.hypot(1, 0.5 / np.sqrt(3)))
    wider = statistics.minimum_detectable_effect(n=units, sd=spread, level=LEVEL)
    facts = np.arange(3 * units) // 3

    def clustered(rng: np.random.Generator) -> float:
        rows = rng.normal(wider, 1, units)[facts] + 0.5 * rng.normal(size=facts.size)
        seed = int(rng.integers(2**31))
        return statistics.paired_permutation(rows, clusters=facts, draws=999, seed=seed).p

    yield "paired_permutation, clusters of 3", wider, clustered

    discordant = 0.6
    difference = statistics.minimum_detectable_difference(units, discordant, level=LEVEL)
    if np.isfinite(difference):
        shares = [(discordant + difference) / 2, (discordant - difference) / 2, 1 - discordant]

        def counted(rng: np.random.Generator) -> float:
            b, c, _ = rng.multinomial(units, shares)
            return statistics.mcnemar_from_counts(int(b), int(c), units).p

        yield "mcnemar", difference, counted


def measure_times(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per function, and the fast bootstrap against scipy's."""
    table = Table(
        "times",
        "What does a call cost?",
    )
    for rows in sizes.units[-1], 1600:
        for name, call, slow in _calls(rows):
            calls = max(1, int(SHORTEST / max(1e-7, timed(call)[0])))
            rounds = Rounds()
            for _ in rounds.over(range(options.repeat), name):
                rounds.time("fast", partial(_repeat, call, calls), 1000 / calls)
                if slow is not None:
                    rounds.time("scipy", slow, 1000)
            milliseconds, ratio = rounds.seconds("fast"), rounds.ratio("scipy", "fast")
            table.rows.append({"call": name, "rows": rows, "CPU ms": milliseconds, "scipy / fast": ratio})
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
