"""Corrections against the stepwise procedures, written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc import statistics
from caploc.tests.statistics.samples import p_values


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
