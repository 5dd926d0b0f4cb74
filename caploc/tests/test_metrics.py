from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caploc.consistency.neurons import iou_range
from caploc.errors import OptionError
from caploc.metrics import chance_overlap, iou, neuron_ratio, overlap
from caploc.neurons import NeuronMask

shapes = st.tuples(st.integers(1, 4), st.integers(1, 12))
pairs = shapes.flatmap(lambda shape: st.tuples(hnp.arrays(bool, shape), hnp.arrays(bool, shape)))


def as_set(mask):
    return frozenset(zip(*np.nonzero(mask), strict=True))


def kinds(mask):
    """One mask as everything the metrics take."""
    tensor = torch.from_numpy(mask)
    return mask, tensor, NeuronMask(tensor), as_set(mask), set(as_set(mask))


def test_by_hand():
    a = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    b = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert overlap(a, b) == (1 / 4 + 1 / 2) / 2
    assert iou(a, b) == 1 / 5
    assert neuron_ratio(a) == 4 / 8
    assert chance_overlap(a, b) == pytest.approx((4 + 2) / (2 * 8))
    # layer 0: 3 and 2 of 4 places share 1.5 by chance; layer 1: 1 and 0 share none
    assert chance_overlap(a, b, by_layer=True) == pytest.approx((1 / 4 + 1 / 2) / 2 * 1.5)


@given(pairs)
def test_every_kind_of_set_gives_the_same(pair):
    a, b = pair
    for metric in (overlap, iou):
        values = [metric(x, y) for x, y in zip(kinds(a), kinds(b), strict=True)]
        np.testing.assert_array_equal(values, values[0])  # nan equals nan here
    values = [chance_overlap(x, y) for x, y in zip(kinds(a)[:3], kinds(b)[:3], strict=True)]
    values += [chance_overlap(x, y, universe=a.size) for x, y in zip(kinds(a)[3:], kinds(b)[3:], strict=True)]
    np.testing.assert_allclose(values, values[0])


@given(pairs)
def test_symmetric_and_within_the_feasible_range(pair):
    a, b = pair
    for metric in (overlap, iou, chance_overlap):
        np.testing.assert_array_equal(metric(a, b), metric(b, a))
    assume(a.any() and b.any())
    feasible = iou_range(Fraction(overlap(a, b)))
    assert feasible.low - 1e-12 <= iou(a, b) <= feasible.high + 1e-12
    assert 0 <= overlap(a, b) <= 1


@given(pairs)
def test_identical_sets_give_one_and_disjoint_sets_zero(pair):
    a, b = pair
    assume(a.any())
    assert overlap(a, a) == iou(a, a) == 1
    rest = b & ~a
    assume(rest.any())
    assert overlap(a, rest) == iou(a, rest) == 0


@given(pairs)
def test_undefined_is_nan(pair):
    a, _ = pair
    empty = np.zeros_like(a)
    assert math.isnan(overlap(a, empty)) and math.isnan(overlap(empty, a))
    assert math.isnan(chance_overlap(a, empty)) and math.isnan(chance_overlap(empty, a, by_layer=True))
    assert math.isnan(iou(empty, empty))
    assert math.isnan(iou(set(), frozenset()))
    if a.any():
        assert iou(a, empty) == 0


@pytest.mark.parametrize("by_layer", [False, True])
def test_chance_is_what_random_placement_gives(by_layer):
    rng = np.random.default_rng(0)
    a = np.zeros((3, 20), dtype=bool)
    b = np.zeros((3, 20), dtype=bool)
    a[0, :9] = a[1, :2] = b[0, :6] = b[2, :5] = True
    match = "layer" if by_layer else "count"
    draws = [
        overlap(NeuronMask(torch.from_numpy(a)).random_like(int(s), match), permuted(b, rng, by_layer))
        for s in rng.integers(2**31, size=3000)
    ]
    expected = chance_overlap(a, b, by_layer=by_layer)
    assert np.mean(draws) == pytest.approx(expected, abs=4 * np.std(draws) / math.sqrt(len(draws)))
    assert chance_overlap(a, b) != pytest.approx(chance_overlap(a, b, by_layer=True), rel=0.05)


def permuted(mask, rng, by_layer):
    drawn = rng.permuted(mask, axis=1) if by_layer else rng.permuted(mask.ravel()).reshape(mask.shape)
    return torch.from_numpy(drawn)


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_the_feasible_range_is_tight(size_a, size_b, data):
    common = data.draw(st.integers(0, min(size_a, size_b)))
    a = set(range(size_a))
    b = set(range(size_a - common, size_a - common + size_b))
    feasible = iou_range(Fraction(overlap(a, b)))
    assert feasible.low - 1e-12 <= iou(a, b) <= feasible.high + 1e-12
    if size_a == size_b:
        assert iou(a, b) == pytest.approx(float(feasible.high))
    if common == min(size_a, size_b):  # one inside the other
        assert iou(a, b) == pytest.approx(float(feasible.low))


MASK = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize("metric", [overlap, iou, chance_overlap])
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (torch.ones(3, 2, dtype=torch.bool), r"masks of shapes \(2, 3\) and \(3, 2\)"),
        (torch.ones(2, 3), "must be of type bool, got torch.float32"),
        (np.ones((2, 3)), "must be of type bool, got"),
        (SimpleNamespace(values=torch.ones(2, 3)), "must be of type bool"),
        ({1, 2}, "cannot compare Tensor with set"),
        ([1, 2], "cannot compare Tensor with list"),
        ({"values": 1}, "cannot compare Tensor with dict"),
    ],
)
def test_what_cannot_be_compared(metric, other, reason):
    with pytest.raises(OptionError, match=reason):
        metric(MASK, other)


def test_neuron_ratio():
    assert neuron_ratio(NeuronMask(MASK)) == 1
    assert neuron_ratio(~MASK) == 0
    assert math.isnan(neuron_ratio(torch.zeros(0, 5, dtype=torch.bool)))
    with pytest.raises(OptionError, match="neuron_ratio needs a bool mask, got set"):
        neuron_ratio({1})


def test_options_of_chance_overlap():
    assert chance_overlap({1, 2}, {2}, universe=10) == pytest.approx(3 / 20)
    assert math.isnan(chance_overlap(MASK[:, :0], MASK[:, :0], by_layer=True))
    assert math.isnan(chance_overlap(MASK[:0], MASK[:0]))
    for universe in (None, 1):
        with pytest.raises(OptionError, match=r"needs universe, .* of at least 2"):
            chance_overlap({1, 2}, {2}, universe=universe)
    with pytest.raises(OptionError, match="by_layer needs masks"):
        chance_overlap({1, 2}, {2}, by_layer=True, universe=10)
    with pytest.raises(OptionError, match="universe is for Python sets"):
        chance_overlap(MASK, MASK, universe=10)
    with pytest.raises(OptionError, match=r"by_layer needs masks \[layers, neurons\]"):
        chance_overlap(MASK.flatten(), MASK.flatten(), by_layer=True)
