"""Coverage of the intervals of proportions, enumerated instead of simulated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from scipy import stats

from caploc.benchmarks import Options
from caploc.benchmarks.statistics.intervals import Sizes
from caploc.benchmarks.tables import Table
from caploc.statistics import Interval, binomial_interval, mcnemar_from_counts

GRID = 40


def measure_proportions(sizes: Sizes, options: Options) -> Iterator[Table]:
    """One row per interval and number of items."""
    table = Table(
        "proportions",
        "How often does a 95 % interval of a proportion, or of a difference of paired ones, hold it?",
        {
            "interval": "interval",
            "n": "items",
            "mean": "coverage %, mean",
            "least": "least",
            "width": "width, mean",
        },
    )
    methods: tuple[Literal["exact", "wilson"], ...] = ("exact", "wilson")
    for n in sizes.items:
        for method in methods:
            coverage, width = single(n, method)
            table.rows.append({"interval": method, "n": n, **_summary(coverage, width)})
        coverage, width = paired(n)
        table.rows.append({"interval": "paired difference", "n": n, **_summary(coverage, width)})
    table.notes = [
        "Without simulation error: every outcome is enumerated, weighted by its probability, for 199 proportions, or "
        f"for 441 pairs of discordant ones in steps of 1/{GRID}; the mean is over these.",
        "paired difference: the interval of mcnemar (Bonett & Price 2012).",
    ]
    yield table


def single(n: int, method: Literal["exact", "wilson"]) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and mean width of `binomial_interval` at proportions from .005 to .995."""
    truths = np.linspace(0.005, 0.995, 199)
    chances = stats.binom.pmf(np.arange(n + 1), n, truths[:, None])
    return _averages([binomial_interval(k, n, 0.95, method) for k in range(n + 1)], chances, truths)


def paired(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and mean width of `mcnemar_from_counts` where one is right only with p, the other only with q <= p."""
    outcomes = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    grid = [(p, q) for p in range(GRID + 1) for q in range(min(p, GRID - p) + 1)]
    truths = np.array([(p - q) / GRID for p, q in grid])
    cells = [(b, c, n - b - c) for b, c in outcomes]
    chances = np.array(
        [stats.multinomial.pmf(cells, n, np.array([p, q, GRID - p - q]) / GRID) for p, q in grid]
    )
    return _averages([mcnemar_from_counts(b, c, n).interval for b, c in outcomes], chances, truths)


def _averages(
    intervals: Sequence[Interval], chances: np.ndarray, truths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and width [truths] from one interval per outcome and the outcomes' chances [truths, outcomes]."""
    low, high = np.array([(interval.low, interval.high) for interval in intervals]).T
    rounding = 1e-12
    holds = (low <= truths[:, None] + rounding) & (truths[:, None] - rounding <= high)
    return (chances * holds).sum(axis=1), chances @ (high - low)


def _summary(coverage: np.ndarray, width: np.ndarray) -> dict[str, float]:
    return {
        "mean": 100 * float(coverage.mean()),
        "least": 100 * float(coverage.min()),
        "width": float(width.mean()),
    }
