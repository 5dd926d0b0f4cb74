"""Honest rounding is never accused, and what no rounding can give always is; GRIM against counting."""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.consistency.arithmetic import (
    Explanation,
    Span,
    explanations,
    is_share_of,
    is_truncated_share_of,
    last_place,
    mean_of,
    rounding,
    smallest_count,
    truncated,
)

CENT = Decimal("0.01")
scores = st.decimals(0, 100, places=6)
roundings = st.sampled_from([ROUND_HALF_UP, ROUND_HALF_EVEN])


def printed(value: Decimal, how: str) -> str:
    return str(value.quantize(CENT, rounding=how))


def mean(values: list[Decimal]) -> Decimal:
    return sum(values, Decimal(0)) / len(values)


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=5), roundings, st.booleans())
def test_an_honest_average_is_explained(values: list[Decimal], how: str, cut_off: bool) -> None:
    average = printed(mean(values), ROUND_DOWN if cut_off else how)
    assert explanations(average, *mean_of(printed(value, how) for value in values))


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=5), roundings)
def test_the_mean_of_the_printed_terms_is_rounding(values: list[Decimal], how: str) -> None:
    terms = [printed(value, how) for value in values]
    average = printed(mean([Decimal(term) for term in terms]), how)
    assert Explanation.ROUNDING in explanations(average, *mean_of(terms))


@settings(deadline=None)
@given(st.lists(scores, min_size=1, max_size=5), st.integers(2, 5000), st.sampled_from([-1, 1]))
def test_an_average_two_units_off_is_impossible(values: list[Decimal], units: int, sign: int) -> None:
    terms = [printed(value, ROUND_HALF_UP) for value in values]
    average = Decimal(printed(mean([Decimal(term) for term in terms]), ROUND_HALF_UP))
    assert explanations(str(average + sign * units * CENT), *mean_of(terms)) == []


@settings(deadline=None)
@given(scores, scores, roundings)
def test_an_honest_difference_is_explained(score: Decimal, base: Decimal, how: str) -> None:
    first, second = printed(score, how), printed(base, how)
    reach = rounding(first) - rounding(second)
    assert explanations(printed(score - base, how), Fraction(first) - Fraction(second), reach)


def test_each_explanation_has_its_name() -> None:
    value, reach = mean_of(["32.00", "38.71", "48.50"])
    assert explanations("39.74", value, reach)[0] is Explanation.ROUNDING
    assert explanations("39.73", value, reach) == [Explanation.TRUNCATION, Explanation.HIDDEN_DIGITS]
    assert explanations("39.75", value, reach) == []
    value, reach = mean_of(["0.05", "0.00"])  # 0.025 to the nearest, and 0.0275 at most
    assert explanations("0.03", value, reach) == [Explanation.ROUNDING, Explanation.HIDDEN_DIGITS]
    assert explanations("0.04", value, reach) == []
    value, reach = mean_of(["0.01", "0.01", "0.00"])
    assert explanations("0.01", value, reach) == [Explanation.ROUNDING, Explanation.HIDDEN_DIGITS]


@pytest.mark.parametrize(
    ("text", "unit"), [("28.95", "1/100"), ("7", "1"), ("-0", "1"), ("0.0", "1/10"), ("-3.310", "1/1000")]
)
def test_last_place(text: str, unit: str) -> None:
    assert last_place(text) == Fraction(unit)
    assert rounding(text) == Span(Fraction(text) - Fraction(unit) / 2, Fraction(text) + Fraction(unit) / 2)


def test_truncation_is_towards_zero() -> None:
    assert truncated(Fraction("-0.019"), Fraction("0.01")) == Fraction("-0.01")
    assert truncated(Fraction("0.019"), Fraction("0.01")) == Fraction("0.01")


@settings(deadline=None)
@given(st.decimals(0, 100, places=2), st.integers(1, 400))
def test_grim_agrees_with_counting(percent: Decimal, count: int) -> None:
    shares = [Fraction(100 * k, count) for k in range(count + 1)]
    value, half = Fraction(percent), Fraction(1, 200)
    assert is_share_of(str(percent), count) == any(abs(share - value) <= half for share in shares)
    cut = any(0 <= share - value < 2 * half for share in shares)
    assert is_truncated_share_of(str(percent), count) == cut


@settings(deadline=None)
@given(st.data(), st.integers(1, 5000))
def test_an_honest_percentage_passes(data: st.DataObject, count: int) -> None:
    k = data.draw(st.integers(0, count))
    exact = Decimal(100 * k) / count
    assert is_share_of(printed(exact, ROUND_HALF_UP), count)
    assert is_share_of(printed(exact, ROUND_HALF_EVEN), count)
    assert is_truncated_share_of(str((Decimal(10_000 * k) // count) / 100), count)


@settings(deadline=None)
@given(st.lists(st.decimals(0, 100, places=1).map(str), min_size=1, max_size=4))
def test_smallest_count_is_the_first_that_fits(percents: list[str]) -> None:
    fitting = [n for n in range(1, 61) if all(is_share_of(percent, n) for percent in percents)]
    assert smallest_count(percents, 60) == (fitting[0] if fitting else None)
    assert smallest_count(percents, 1000) is not None  # one decimal: every number is a share of a thousand


@settings(deadline=None)
@given(scores, scores, scores, scores)
def test_spans_add_and_subtract_as_their_numbers_do(a: Decimal, b: Decimal, c: Decimal, d: Decimal) -> None:
    one, other = (Span(*sorted(map(Fraction, pair))) for pair in ((a, b), (c, d)))
    assert (one + other).contains(Fraction(a) + Fraction(d))
    assert (one - other).contains(Fraction(b) - Fraction(c))
    assert (one / 4).contains(Fraction(a) / 4)
    assert one.meets(other) == other.meets(one)
    assert one.meets(one)
