"""Simulated from a null that holds, p is at or below its level as often as it should; intervals cover.

Every rate is compared through its exact binomial interval of 99.9 %, so that no seed has to be lucky.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from caploc import statistics
from caploc.benchmarks.statistics.nulls import LEVEL, NULLS, Null, rejections
from caploc.statistics import Interval, Side

RUNS = 1500


@pytest.mark.parametrize("null", NULLS, ids=lambda null: null.simulate.__name__)
def test_level_is_kept(null: Null) -> None:
    runs = 400 if null.wrong else RUNS
    interval = statistics.binomial_interval(rejections(null, runs, seed=20), runs, 0.999)
    if null.wrong:
        assert interval.low > 2 * LEVEL, "clusters or strata ignored must show"
    elif null.size is not None:
        assert null.size <= LEVEL
        assert interval.contains(null.size)
    else:
        assert interval.low <= LEVEL
        assert interval.high >= LEVEL / 4, "a test that hardly ever rejects keeps every level"


def test_every_test_is_simulated() -> None:
    tests = {"holm", "benjamini_yekutieli", "tost", "hypergeometric_p", "mann_kendall"}
    tests |= {"page_trend", "permutation_p", "paired_permutation", "stratified_permutation", "mcnemar"}
    assert {null.test for null in NULLS} == tests


@pytest.mark.parametrize(
    ("truth", "right", "most"),
    [(0.5 + 1e-9, Side.ABOVE, 0.05), (-0.5 - 1e-9, Side.BELOW, 0.05), (0.5 - 1e-9, Side.WITHIN, 0.025)],
)
def test_wrong_sides_are_rare(truth: float, right: Side, most: float) -> None:
    """Just beside a margin of 0.5, where wrong answers are most likely: one of them as often as is said."""
    rng = np.random.default_rng(22)
    outside, inside = 0.1 * stats.norm.isf([0.025, 0.05])
    wrong = 0
    for mean in rng.normal(truth, 0.1, RUNS):
        outer = Interval(mean - outside, mean + outside, 0.95, "normal")
        inner = Interval(mean - inside, mean + inside, 0.9, "normal")
        wrong += statistics.three_sided(outer, -0.5, 0.5, inner) not in (right, Side.UNDECIDED)
    assert statistics.binomial_interval(wrong, RUNS, 0.999).contains(most)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_covers(method: str) -> None:
    rng = np.random.default_rng(21)
    covered = 0
    for seed in range(800):
        facts = np.repeat(rng.normal(1, 1, 30), 3) + rng.normal(0, 0.3, 90)
        interval = statistics.bootstrap_mean(facts, 0.9, 400, seed, method, np.arange(90) // 3)
        covered += interval.contains(1)
    assert statistics.binomial_interval(covered, 800, 0.999).contains(0.9)


@pytest.mark.parametrize("n", [5, 20, 61])
def test_binomial_intervals_cover(n: int) -> None:
    """Enumerated: the exact one at every proportion, Wilson's on average."""
    proportions = np.linspace(0.005, 0.995, 199)
    chances = stats.binom.pmf(np.arange(n + 1)[:, None], n, proportions)
    for method in ("exact", "wilson"):
        ends = [statistics.binomial_interval(k, n, 0.95, method) for k in range(n + 1)]
        low, high = (np.array([getattr(end, name) for end in ends])[:, None] for name in ("low", "high"))
        coverage = (chances * ((low <= proportions) & (proportions <= high))).sum(axis=0)
        if method == "exact":
            assert coverage.min() >= 0.95
        else:
            assert coverage.mean() == pytest.approx(0.95, abs=0.012)
