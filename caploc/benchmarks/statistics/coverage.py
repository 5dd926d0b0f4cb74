"""How often an interval of a mean holds the mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from caploc.benchmarks import Options
from caploc.benchmarks.statistics.intervals import ERROR_NOTE, Sizes, percent
from caploc.benchmarks.tables import Table, Value
from caploc.statistics import Interval, bootstrap_mean, tost

LEVEL = 0.95

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray | None]]
"""So many units at random: values [rows], and their clusters [rows] where a unit is more than one row."""


def normal(rng: np.random.Generator, units: int) -> tuple[np.ndarray, None]:
    """Mean 0."""
    return rng.normal(size=units), None


def lognormal(rng: np.random.Generator, units: int) -> tuple[np.ndarray, None]:
    """Mean exp(1/2), skewness 6.2."""
    return rng.lognormal(size=units), None


def rare(rng: np.random.Generator, units: int) -> tuple[np.ndarray, None]:
    """One in ten is 1."""
    return (rng.random(units) < 0.1).astype(float), None


def clustered(rng: np.random.Generator, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Facts of 1 to 5 paraphrases that share most of their value; mean 0."""
    facts = np.repeat(np.arange(units), rng.integers(1, 6, units))
    return rng.normal(size=units)[facts] + 0.5 * rng.normal(size=facts.size), facts


def clustered_skewed(rng: np.random.Generator, units: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, exponentially distributed; mean 1."""
    facts = np.repeat(np.arange(units), rng.integers(1, 6, units))
    return rng.exponential(size=units)[facts] + 0.5 * rng.normal(size=facts.size), facts


SHAPES: Mapping[str, tuple[Draw, float]] = {
    "normal": (normal, 0.0),
    "lognormal": (lognormal, float(np.exp(0.5))),
    "0 or 1, mean 0.1": (rare, 0.1),
    "clusters of 1..5, normal": (clustered, 0.0),
    "clusters of 1..5, skewed": (clustered_skewed, 1.0),
}


def percentile(values: np.ndarray, clusters: np.ndarray | None, seed: int) -> Interval:
    """Percentile bootstrap, of clusters where there are any."""
    return bootstrap_mean(values, LEVEL, seed=seed, method="percentile", clusters=clusters)


def bca(values: np.ndarray, clusters: np.ndarray | None, seed: int) -> Interval:
    """BCa bootstrap, of clusters where there are any."""
    return bootstrap_mean(values, LEVEL, seed=seed, clusters=clusters)


def expanded(values: np.ndarray, clusters: np.ndarray | None, seed: int) -> Interval:
    """BCa bootstrap, expanded for few units."""
    return bootstrap_mean(values, LEVEL, seed=seed, clusters=clusters, expand=True)


def student(values: np.ndarray, clusters: np.ndarray | None, seed: int) -> Interval:
    """Student's t, of the clusters' means where there are any."""
    if clusters is not None:
        values = np.bincount(clusters, values) / np.bincount(clusters)
    return tost(values, 1.0, alpha=(1 - LEVEL) / 2).interval


def bca_of_rows(values: np.ndarray, clusters: np.ndarray | None, seed: int) -> Interval:
    """BCa bootstrap that takes rows of one cluster for independent."""
    return bootstrap_mean(values, LEVEL, seed=seed)


METHODS: Mapping[str, Callable[[np.ndarray, np.ndarray | None, int], Interval]] = {
    "percentile": percentile,
    "bca": bca,
    "expanded": expanded,
    "t": student,
}


def covered(shape: str, units: int, samples: int) -> dict[str, int]:
    """In how many of so many samples each method's interval held the mean."""
    draw, mean = SHAPES[shape]
    rng = np.random.default_rng([units, *shape.encode()])
    methods = dict(METHODS)
    if draw in (clustered, clustered_skewed):
        methods["rows"] = bca_of_rows
    counts = dict.fromkeys(methods, 0)
    for seed in range(samples):
        values, clusters = draw(rng, units)
        for name, method in methods.items():
            counts[name] += method(values, clusters, seed).contains(mean)
    return counts


def measure_coverage(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per distribution and number of units."""
    names = {
        "percentile": "percentile %",
        "bca": "BCa %",
        "expanded": "expanded %",
        "t": "t %",
        "rows": "rows %",
    }
    columns = {"shape": "distribution", "units": "units", "samples": "samples"}
    for name, heading in names.items():
        columns |= {name: heading, f"{name}_error": "+-"}
    table = Table("coverage", "How often does a 95 % interval of a mean hold it?", columns)
    for shape in SHAPES:
        for units in sizes.units:
            row: dict[str, Value] = {"shape": shape, "units": units, "samples": sizes.samples}
            for name, count in covered(shape, units, sizes.samples).items():
                row[name], row[f"{name}_error"] = percent(count, sizes.samples)
            table.rows.append(row)
    table.notes = [
        "A unit is a value or a cluster. percentile, BCa, expanded: bootstrap_mean with 2,000 draws of units, the last "
        "BCa with expand=True; t: Student's, of the units' means; rows: BCa that ignores the clusters.",
        ERROR_NOTE,
        "In the full run percentile and BCa cover the mean of 10 normal values in 90 %, expanded and t in about 95 %; "
        "for skewed values all cover too seldom, the lognormal even with 100. Of 10 values with mean 0.1 a third of "
        "the samples are all 0, of which no resampling can tell more.",
    ]
    yield table
