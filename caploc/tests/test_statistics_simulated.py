"""Simulated from a null that holds, p stays at or below its level; intervals cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from caploc import statistics

LEVEL = 0.05


def exchangeable(rng: np.random.Generator) -> float:
    values = rng.poisson(5, 40)
    return statistics.permutation_p(values[0], values[1:])


def two_sided(rng: np.random.Generator) -> float:
    values = rng.normal(size=80)
    return statistics.permutation_p(values[0], values[1:], "two-sided")


def difference_at_the_margin(rng: np.random.Generator) -> float:
    return statistics.tost(rng.normal(0.5, 1, 30), 0.5).p


def short_curve_with_ties(rng: np.random.Generator) -> float:
    return statistics.mann_kendall(rng.integers(0, 4, 7), alternative="greater").p


def long_curve_with_ties(rng: np.random.Generator) -> float:
    return statistics.mann_kendall(rng.integers(0, 5, 14)).p


def several_curves_with_ties(rng: np.random.Generator) -> float:
    return statistics.page_trend(rng.integers(0, 4, (10, 5))).p


def family_of_five(rng: np.random.Generator) -> float:
    return float(
        statistics.holm([statistics.permutation_p(x[0], x[1:]) for x in rng.normal(size=(5, 120))]).min()
    )


def random_sets(rng: np.random.Generator) -> float:
    located = rng.permutation(200)[:20]
    return statistics.hypergeometric_p(int(np.sum(located < 30)), 20, 30, 200)


NULLS = [
    exchangeable,
    two_sided,
    difference_at_the_margin,
    short_curve_with_ties,
    long_curve_with_ties,
    several_curves_with_ties,
    family_of_five,
    random_sets,
]


@pytest.mark.parametrize("simulate", NULLS)
def test_level_is_kept(simulate: Callable[[np.random.Generator], float]) -> None:
    rng = np.random.default_rng(20)
    ps = np.array([simulate(rng) for _ in range(800)])
    rejections = int(np.sum(ps <= LEVEL))
    assert statistics.binomial_interval(rejections, ps.size, 0.999).low <= LEVEL
    assert rejections > 0, "a test that never rejects keeps every level"


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_covers(method: str) -> None:
    rng = np.random.default_rng(21)
    covered = 0
    for seed in range(150):
        facts = np.repeat(rng.normal(1, 1, 25), 3) + rng.normal(0, 0.3, 75)
        interval = statistics.bootstrap_interval(
            facts, np.mean, 0.9, 200, seed, method, clusters=np.repeat(range(25), 3)
        )
        covered += interval.contains(1)
    assert statistics.binomial_interval(covered, 150, 0.999).contains(0.9)
