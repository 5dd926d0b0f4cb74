"""Counts against closed forms and counting."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.tests.statistics.samples import levels


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_hypergeometric_p_by_counting(total: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    k = data.draw(st.integers(max(0, a + b - total), min(a, b)))
    ways = sum(math.comb(a, i) * math.comb(total - a, b - i) for i in range(k, min(a, b) + 1))
    assert statistics.hypergeometric_p(k, a, b, total) == pytest.approx(
        float(Fraction(ways, math.comb(total, b)))
    )


@settings(deadline=None)
@given(st.integers(1, 200), st.data(), levels)
def test_binomial_interval_by_closed_form(n: int, data: st.DataObject, level: float) -> None:
    k = data.draw(st.integers(0, n))
    tail = (1 - level) / 2
    exact = statistics.binomial_interval(k, n, level)
    assert exact.low == pytest.approx(stats.beta.ppf(tail, k, n - k + 1) if k else 0, abs=1e-9)
    assert exact.high == pytest.approx(stats.beta.isf(tail, k + 1, n - k) if k < n else 1, abs=1e-9)
    z = stats.norm.isf(tail)
    wilson = statistics.binomial_interval(k, n, level, "wilson")
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert (wilson.low, wilson.high) == pytest.approx((centre - half, centre + half), abs=1e-9)
