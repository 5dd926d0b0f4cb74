"""Whether the effect called detectable is detected in 80 % of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from caploc import statistics
from caploc.benchmarks import Options
from caploc.benchmarks.statistics.intervals import ERROR_NOTE, Sizes, percent
from caploc.benchmarks.tables import Table

LEVEL = 0.05


def measure_power(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per test and number of units."""
    table = Table(
        "power",
        "How often is the minimum detectable effect found?",
        {
            "test": "test",
            "units": "units",
            "effect": "effect",
            "samples": "samples",
            "found": "found %",
            "error": "+-",
        },
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
                    "found": found,
                    "error": error,
                }
            )
    table.notes = [
        "Two-sided at .05, with 999 flips; wanted 80 %. Effects by minimum_detectable_effect from the number of units "
        "and the standard deviation of a unit's mean, 1.00 or 1.04; for mcnemar, with 60 % discordant pairs, the "
        "difference of proportions by minimum_detectable_difference, which does not exist for 10 pairs.",
        ERROR_NOTE,
    ]
    yield table


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
