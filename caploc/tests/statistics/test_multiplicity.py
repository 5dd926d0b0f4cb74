"""Corrections against the stepwise procedures, written out; and minimum detectable effects: at them, and not below, a
test finds what it should as often as it should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.statistics import draws_for, few_draws, holm
from caploc.tests.statistics.samples import alternatives, p_values


@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.1, 0.3])
def test_minimum_draws_is_the_least_that_works(level: float) -> None:
    for comparisons in [*range(1, 60), 84, 218, 1000]:
        m = statistics.minimum_draws(level, comparisons)

        def reaches(draws: int, comparisons: int = comparisons) -> bool:
            p = statistics.permutation_p(1.0, np.zeros(draws))
            return statistics.holm([p] + [1.0] * (comparisons - 1))[0] <= level

        assert reaches(m)
        assert m == 1 or not reaches(m - 1)
    assert statistics.minimum_draws(0.05) == 19
    assert statistics.minimum_draws(0.05, 5) == 99


@settings(deadline=None)
@given(p_values, st.floats(0.001, 0.5))
def test_holm_rejects_as_the_stepwise_procedure(p: np.ndarray, level: float) -> None:
    rejected = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (p.size - step) > level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(statistics.holm(p) <= level)) == rejected


@settings(deadline=None)
@given(p_values)
def test_benjamini_yekutieli_by_definition(p: np.ndarray) -> None:
    n = p.size
    harmonic = sum(1 / i for i in range(1, n + 1))
    rank = np.sort(p)
    expected = [
        min(
            [
                1.0,
                *(rank[j] * n * harmonic / (j + 1) for j in range(np.searchsorted(rank, x, "right") - 1, n)),
            ]
        )
        for x in p
    ]
    np.testing.assert_allclose(statistics.benjamini_yekutieli(p), expected, rtol=1e-9, atol=1e-300)


powers = st.sampled_from([0.5, 0.8, 0.95])
families = st.sampled_from([1, 5, 218])


@settings(deadline=None)
@given(st.floats(0.01, 10), powers, families, alternatives)
def test_normal_estimate(error: float, power: float, comparisons: int, alternative: str) -> None:
    effect = statistics.minimum_detectable_effect(
        error, power=power, comparisons=comparisons, alternative=alternative
    )
    tail = 0.05 / comparisons / (2 if alternative == "two-sided" else 1)
    assert stats.norm.sf(stats.norm.isf(tail) * error, effect, error) == pytest.approx(power)


def test_textbook_multiplier() -> None:
    """2.80 standard errors two-sided, 2.49 one-sided (Bloom 1995, at 80 % and 5 %)."""
    assert statistics.minimum_detectable_effect(1.0) == pytest.approx(2.80, abs=0.005)
    assert statistics.minimum_detectable_effect(1.0, alternative="less") == pytest.approx(2.49, abs=0.005)


@settings(deadline=None)
@given(st.integers(2, 400), st.floats(0.1, 5), powers, families)
def test_t_test(n: int, sd: float, power: float, comparisons: int) -> None:
    effect = statistics.minimum_detectable_effect(n=n, sd=sd, power=power, comparisons=comparisons)
    critical = stats.t.isf(0.025 / comparisons, n - 1)
    found = stats.nct.sf(critical, n - 1, effect / sd * math.sqrt(n))
    assert found == pytest.approx(power, abs=1e-6)
    normal = statistics.minimum_detectable_effect(sd / math.sqrt(n), power=power, comparisons=comparisons)
    assert effect > normal
    assert effect == pytest.approx(normal, rel=0.02) or n < 300


def test_t_test_finds_it_as_often() -> None:
    effect = statistics.minimum_detectable_effect(n=8, sd=2.0, level=0.05)
    values = np.random.default_rng(6).normal(effect, 2, (4000, 8))
    found = int(np.sum(stats.ttest_1samp(values, 0, axis=1).pvalue <= 0.05))
    assert statistics.binomial_interval(found, 4000, 0.999).contains(0.8)


@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
@pytest.mark.parametrize(("n", "discordant", "comparisons"), [(60, 0.4, 1), (40, 1.0, 3), (100, 0.25, 10)])
def test_paired_proportions_by_enumeration(
    n: int, discordant: float, comparisons: int, alternative: str
) -> None:
    difference = statistics.minimum_detectable_difference(
        n, discordant, comparisons=comparisons, alternative=alternative
    )
    first = (discordant + difference) / 2
    found = sum(
        stats.multinomial.pmf([b, c, n - b - c], n, [first, discordant - first, 1 - discordant])
        for b in range(n + 1)
        for c in range(min(b, n - b) + 1)
        if statistics.mcnemar_from_counts(b, c, n, alternative=alternative).p <= 0.05 / comparisons
    )
    assert found == pytest.approx(0.8, abs=1e-6)


def test_paired_proportions_that_cannot_be_told_apart() -> None:
    assert statistics.minimum_detectable_difference(20, 0.3) == math.inf
    assert statistics.minimum_detectable_difference(5, 1) == math.inf
    assert statistics.minimum_detectable_difference(20, 0.6) < 0.6


def test_more_data_finds_less() -> None:
    effects = [statistics.minimum_detectable_difference(n, 0.3) for n in (50, 100, 200, 400)]
    assert effects == sorted(effects, reverse=True)
    effects = [statistics.minimum_detectable_effect(n=n, sd=1.0) for n in (2, 5, 50, 400)]
    assert effects == sorted(effects, reverse=True)


@pytest.mark.parametrize("family", [1, 5, 6, 12])
def test_draws_follow_from_the_family(family: int) -> None:
    draws = draws_for(100, 0.05, family)
    assert draws >= 100 and holm([1 / (1 + draws)] * family)[0] < 0.05
    assert few_draws(draws, 0.05, family) == []


def test_a_run_with_few_draws_says_how_many_would_do() -> None:
    assert draws_for(20, 0.05, 5) == 20
    (told,) = few_draws(20, 0.05, 5)
    assert "give --draws 100" in told and few_draws(100, 0.05, 5) == []
