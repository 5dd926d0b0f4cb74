from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc.consistency.arithmetic import difference, fewest_trials, from_known, significant

counts = st.integers(2, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n)))


@settings(deadline=None)
@given(counts)
def test_the_test_of_no_difference_is_the_chi_square_test(sample: tuple[int, int, int]) -> None:
    a, b, n = sample
    assume(0 < a + b < 2 * n)
    found = difference(Fraction(a, n), Fraction(b, n), n)
    expected = stats.chi2_contingency([[a, n - a], [b, n - b]], correction=False)
    assert found.z**2 == pytest.approx(expected.statistic, abs=1e-9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("share", [0, 1])
def test_equal_shares_without_spread_do_not_differ(share: int) -> None:
    found = difference(Fraction(share), Fraction(share), 1600)
    assert (found.z, found.p, found.interval) == (0, 1, (0, 0))


@settings(deadline=None)
@given(counts)
def test_fewest_trials_are_those_whose_interval_leaves_out_zero(sample: tuple[int, int, int]) -> None:
    a, b, n = sample
    first, second = Fraction(a, n), Fraction(b, n)
    fewest = fewest_trials(first, second, 0.05)
    if first == second:
        assert fewest is None
        return
    assert fewest is not None
    assume(difference(first, second, 1).error > 0)  # shares of 0 and 1 differ from one trial on

    def leaves_out_zero(trials: int) -> bool:
        low, high = difference(first, second, trials).interval
        return low > 0 or high < 0

    assert leaves_out_zero(fewest + 1)
    assert fewest < 2 or not leaves_out_zero(fewest - 1)


def test_a_known_probability_has_no_sampling_error() -> None:
    found = from_known(Fraction("0.2738"), Fraction(1, 4), 1600)
    assert found.z == pytest.approx(0.0238 / math.sqrt(0.25 * 0.75 / 1600))
    assert found.p == pytest.approx(0.028, abs=5e-4)


def test_holm_asks_more_of_many_comparisons() -> None:
    one = difference(Fraction("0.55"), Fraction("0.51"), 1600)
    assert 0.01 < one.p < 0.05
    assert significant([one], 0.05) == [True]
    assert significant([one] * 10, 0.05) == [False] * 10


def test_equivalence_needs_the_interval_within_the_margin() -> None:
    alike = difference(Fraction("0.72"), Fraction("0.72"), 1000)
    assert alike.equivalence(0.05).equivalent and not alike.equivalence(0.02).equivalent
    assert difference(Fraction("0.851"), Fraction("0.723"), 1000).equivalence(0.05).p > 0.999
