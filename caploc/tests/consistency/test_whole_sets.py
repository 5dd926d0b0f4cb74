"""Overlap and IoU of sets of whole neurons, counted, against the bounds that the check uses."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.consistency import neurons
from caploc.consistency.neurons import iou_range


def overlap_and_iou(a: int, b: int, common: int) -> tuple[Fraction, Fraction]:
    """Eq. (9) for two sets of these sizes."""
    return (Fraction(common, a) + Fraction(common, b)) / 2, Fraction(common, a + b - common)


def test_every_pair_of_small_sets_lies_within_the_bounds() -> None:
    sizes = range(1, 16)
    reached: dict[Fraction, list[Fraction]] = {}
    for a, b in product(sizes, sizes):
        for common in range(min(a, b) + 1):
            overlap, iou = overlap_and_iou(a, b, common)
            assert iou_range(overlap).contains(iou)
            reached.setdefault(overlap, []).append(iou)
            if a == b:
                assert iou == iou_range(overlap).high
            if common == min(a, b) and a != b:
                assert iou == iou_range(overlap).low
    assert any(len(set(values)) > 1 for values in reached.values())  # one overlap allows several IoU


def percent(value: Fraction) -> str:
    exact = Decimal(100 * value.numerator) / value.denominator
    return str(exact.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))


set_pairs = st.integers(400, 600).flatmap(
    lambda a: st.tuples(st.just(a), st.integers(400, 600)).flatmap(
        lambda sizes: st.tuples(st.just(sizes[0]), st.just(sizes[1]), st.integers(1, min(sizes)))
    )
)


@settings(deadline=None)
@given(set_pairs)
def test_honest_digits_of_two_sets_are_possible(sets: tuple[int, int, int]) -> None:
    a, b, _ = sets
    overlap, iou = overlap_and_iou(*sets)
    printed = percent(overlap), percent(iou)
    assert neurons._possible_iou(printed[0]).meets(neurons._as_fractions(printed[1]))
    ratio = min(a, b) / max(a, b)
    # the ratio is a square root of a small difference near equal sizes, and so is its error
    assert neurons._size_ratio(overlap, iou) == pytest.approx(ratio, abs=1e-6)


@settings(deadline=None)
@given(st.integers(475, 510), st.integers(475, 510), st.data())
def test_sets_of_the_printed_size_are_found(a: int, b: int, data: st.DataObject) -> None:
    common = data.draw(st.integers(1, min(a, b)))
    overlap, iou = overlap_and_iou(a, b, common)
    in_all = 352256  # 0.14 % are 475.5 to 510.8 of them
    found = neurons._has_whole_sets(percent(overlap), percent(iou), "0.14", in_all)
    if min(a, b) > 475:
        assert found


def test_digits_that_no_sets_of_that_size_have_are_not_found() -> None:
    sizes = range(math.ceil(0.00135 * 20_000), math.floor(0.00145 * 20_000) + 1)  # 27, 28, 29
    possible = {
        tuple(map(percent, overlap_and_iou(a, b, common)))
        for a, b in product(sizes, sizes)
        for common in range(1, min(a, b) + 1)
    }
    overlaps, ious = ({pair[side] for pair in possible} for side in (0, 1))
    for pair in product(sorted(overlaps)[-12:], sorted(ious)[-12:]):
        assert neurons._has_whole_sets(*pair, "0.14", 20_000) == (pair in possible)
