"""Eq. (8) against a slow loop, its bounds, random sets that match a mask, and what a mask says of itself."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from caploc.errors import OptionError
from caploc.neurons import NeuronMask, NeuronScores, Threshold, located

shapes = st.tuples(st.integers(1, 4), st.integers(1, 12))
score_arrays = shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=st.integers(-60, 60)))
sigmas = st.sampled_from([0.3, 0.5, 1, 1.5, 2, 3, 6])


def scores_of(values) -> NeuronScores:
    values = torch.as_tensor(np.asarray(values, dtype=np.float64))
    layers = torch.zeros(len(values), dtype=torch.float64)
    return NeuronScores(values, layers, layers, layers, count=1)


def slow_mask(values, sigma, dispersion, scope="model", deviation="absolute"):
    """Eq. (8), term by term; None where a neuron lies on the threshold, to rounding."""
    if scope == "layer":
        layers = [slow_mask([row], sigma, dispersion, "model", deviation) for row in values]
        return None if None in layers else [layer[0] for layer in layers]
    flat = [float(value) for row in values for value in row]
    mean = math.fsum(flat) / len(flat)
    variance = math.fsum((value - mean) ** 2 for value in flat) / len(flat)
    threshold = sigma * (math.sqrt(variance) if dispersion == "std" else variance)
    if any(math.isclose(abs(value - mean), threshold, rel_tol=1e-9) for value in flat):
        return None
    size = abs if deviation == "absolute" else float
    return [[size(float(value) - mean) > threshold for value in row] for row in values]


readings = st.tuples(
    st.sampled_from(["std", "variance"]),
    st.sampled_from(["model", "layer"]),
    st.sampled_from(["absolute", "positive"]),
)


@settings(deadline=None)
@given(score_arrays, sigmas, readings)
def test_equation_8_against_a_slow_loop(values, sigma, reading):
    expected = slow_mask(values, sigma, *reading)
    assume(expected is not None)
    mask = scores_of(values).mask(sigma, *reading)
    assert mask.values.tolist() == expected
    assert torch.equal(mask.values, located(torch.from_numpy(values), sigma, *reading))


@settings(deadline=None)
@given(
    st.lists(hnp.arrays(np.float64, (2, 9), elements=st.integers(-60, 60)), min_size=1, max_size=4),
    sigmas,
    readings,
)
def test_many_sets_at_once_are_each_set_alone(sets, sigma, reading):
    threshold = Threshold(sigma, *reading)
    together = threshold.locate(np.stack(sets))
    for scores, alone in zip(sets, together, strict=True):
        assert np.array_equal(threshold.locate(scores[None])[0], alone)


def test_layer_scope_measures_each_layer_by_itself():
    """Layer 1 varies a hundred times as much as layer 0: over both, layer 0's neuron 3 does not stand out."""
    values = np.zeros((2, 100))
    values[0, 3], values[1, :50] = 1, 100
    assert scores_of(values).mask(6).count == 0
    assert scores_of(values).mask(6, scope="layer").values.nonzero().tolist() == [[0, 3]]


def test_a_positive_deviation_leaves_out_what_lowers_the_answer():
    values = np.zeros((1, 100))
    values[0, 3], values[0, 4] = 5, -5
    assert scores_of(values).mask(6, deviation="positive").values.nonzero().tolist() == [[0, 3]]


def test_the_defaults_are_the_papers_sigma_and_the_standard_deviation():
    values = np.zeros((2, 50))
    values[1, 7] = 1e-3
    assert scores_of(values).mask().values.nonzero().tolist() == [[1, 7]]


@pytest.mark.parametrize("dispersion", ["std", "variance"])
def test_the_inequality_is_strict(dispersion):
    """Mean 0 and variance 1, exactly: the two neurons lie on the threshold of sigma 2."""
    values = [[-2, 0, 0, 0], [0, 0, 0, 2]]
    assert scores_of(values).mask(2, dispersion).count == 0
    assert scores_of(values).mask(np.nextafter(2, 0), dispersion).count == 2


def test_both_tails_are_located():
    values = np.zeros((1, 100))
    values[0, 3], values[0, 4] = 5, -5
    assert scores_of(values).mask(6).values.nonzero().tolist() == [[0, 3], [0, 4]]


@settings(deadline=None)
@given(score_arrays, sigmas, st.integers(-100, 100), st.integers(-20, 20))
def test_the_std_mask_does_not_depend_on_the_unit_of_the_scores(values, sigma, shift, power):
    """Definition eq8-mask of the paper's inventory."""
    assume(slow_mask(values, sigma, "std") is not None)
    moved = (values + shift) * 10.0**power
    assert torch.equal(scores_of(moved).mask(sigma).values, scores_of(values).mask(sigma).values)


def test_the_variance_mask_depends_on_the_unit_of_the_scores():
    values = np.random.default_rng(0).normal(size=(3, 200))
    counts = [scores_of(values * unit).mask(6, "variance").count for unit in (1e-3, 0.1, 1, 10)]
    assert counts[0] > 590 and counts == sorted(counts, reverse=True) and counts[-1] == 0
    shifted = scores_of(values + 8).mask(0.5, "variance").values
    assert torch.equal(shifted, scores_of(values).mask(0.5, "variance").values)


@pytest.mark.parametrize("unit", [1e-300, 1e-170, 1, 1e170, 1e300])
def test_tiny_and_huge_scores_do_not_leave_the_range_of_floats(unit):
    values = np.zeros((2, 60))
    values[0, 5], values[0, 6] = 1, -0.1
    assert scores_of(values * unit).mask(6).values.nonzero().tolist() == [[0, 5]]


@settings(deadline=None)
@given(hnp.arrays(np.float64, (3, 8), elements=st.floats(-1, 1)), sigmas)
def test_the_literal_variance_selects_no_less_where_scores_are_small(values, sigma):
    std = scores_of(values).mask(sigma).values
    assume(slow_mask(values, sigma, "std") is not None)
    assert not (std & ~scores_of(values).mask(sigma, "variance").values).any()


@settings(deadline=None)
@given(score_arrays, st.floats(0.2, 20))
def test_chebyshev(values, sigma):
    """At most 1/sigma^2 of the neurons pass, and none above sqrt(N - 1)."""
    mask = scores_of(values).mask(sigma)
    assert mask.count <= values.size / sigma**2 * (1 + 1e-9)
    assert scores_of(values).mask(math.sqrt(values.size - 1) * (1 + 1e-9) + 1e-9).count == 0


def test_the_bound_is_reached_by_a_single_neuron():
    values = np.zeros((1, 10))
    values[0, 0] = 1
    assert scores_of(values).mask(math.sqrt(9) * (1 - 1e-9)).count == 1


@pytest.mark.parametrize("constant", [0.0, 0.1, -1 / 3, 1e-12, 1e12])
@pytest.mark.parametrize("dispersion", ["std", "variance"])
@pytest.mark.parametrize("sigma", [0.1, 6])
def test_equal_scores_locate_nothing(constant, dispersion, sigma):
    """Though the mean of equal numbers differs from them by rounding."""
    scores = scores_of(np.full((3, 7), constant))
    assert scores.mask(sigma, dispersion).count == 0
    assert not scores.z().any()


def test_z_by_layer_is_each_layers_own():
    values = np.random.default_rng(2).normal(3, 7, (3, 50)) * np.array([[1], [10], [0]])
    expected = [scores_of(row[None]).z()[0] for row in values]
    assert torch.allclose(scores_of(values).z("layer"), torch.stack(expected), rtol=1e-12)
    assert not scores_of(values).z("layer")[2].any()


def test_z_is_in_standard_deviations():
    scores = scores_of([[-2, 0, 0, 0], [0, 0, 0, 2]])
    assert scores.z().tolist() == [[-2, 0, 0, 0], [0, 0, 0, 2]]
    values = np.random.default_rng(1).normal(3, 7, (4, 50))
    assert torch.equal(scores_of(values).z().abs() > 1.5, scores_of(values).mask(1.5).values)


@pytest.mark.parametrize("sigma", [0, -1, -0.0, math.nan, math.inf, -math.inf, True, "6", None, 2 + 0j])
def test_a_sigma_that_is_no_positive_number(sigma):
    with pytest.raises(OptionError, match=r"^sigma must be a positive number, got .*paper uses 3, 6 and 12"):
        scores_of([[1, 2]]).mask(sigma)


@pytest.mark.parametrize("sigma", [1, 1.0, np.float32(1), np.float64(1), np.int64(1)])
def test_any_kind_of_number_is_a_sigma(sigma):
    assert scores_of([[0, 0, 0, 0, 9]]).mask(sigma).count == 1


@pytest.mark.parametrize("dispersion", ["var", "", None, "STD"])
def test_an_unknown_dispersion(dispersion):
    with pytest.raises(OptionError, match=r"^dispersion must be 'std' or 'variance', got "):
        scores_of([[1, 2]]).mask(6, dispersion)


def test_an_unknown_scope_or_deviation():
    with pytest.raises(OptionError, match=r"^scope must be 'model' or 'layer', got 'neuron'$"):
        scores_of([[1, 2]]).mask(scope="neuron")
    with pytest.raises(OptionError, match=r"^deviation must be 'absolute' or 'positive', got 'negative'$"):
        scores_of([[1, 2]]).mask(deviation="negative")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite(bad):
    with pytest.raises(OptionError, match=r"^scores are not finite.*check the model's weights and dtype$"):
        scores_of([[1, 2], [bad, 3]]).mask()


def test_scores_in_half_precision_are_located_in_double():
    values = torch.zeros(2, 60, dtype=torch.bfloat16)
    values[1, 4] = 0.5
    assert located(values, 6).nonzero().tolist() == [[1, 4]]


@pytest.mark.parametrize(
    "values",
    [torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool), torch.zeros(1, 2, 3, dtype=torch.bool)],
)
def test_a_mask_is_a_bool_tensor_of_layers_and_neurons(values):
    # NeuronMask(values) would be stopped before by the shape checks that tests run under
    with pytest.raises(OptionError, match=r"^a neuron mask is a bool tensor \[layers, neurons\], got "):
        NeuronMask.__post_init__(SimpleNamespace(values=values))


MASK = NeuronMask(torch.tensor([[1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool())


def test_counts_and_ratio():
    assert (MASK.count, MASK.per_layer, MASK.ratio) == (8, [2, 0, 6], 8 / 18)
    empty = NeuronMask(torch.zeros(2, 3, dtype=torch.bool))
    assert (empty.count, empty.per_layer, empty.ratio) == (0, [0, 0], 0.0)


def test_parameter_share_counts_a_neurons_own_weights():
    lm = SimpleNamespace(parameters_per_neuron=12, num_parameters=1000)
    assert MASK.parameter_share(lm) == 8 * 12 / 1000


@settings(deadline=None)
@given(shapes.flatmap(lambda shape: hnp.arrays(np.bool_, shape)), st.integers(0, 2**32))
def test_random_sets_have_the_same_counts(values, seed):
    mask = NeuronMask(torch.from_numpy(values))
    by_layer, in_total = mask.random_like(seed), mask.random_like(seed, match="count")
    assert by_layer.per_layer == mask.per_layer
    assert in_total.count == mask.count
    assert by_layer.values.shape == in_total.values.shape == mask.values.shape


@pytest.mark.parametrize("match", ["layer", "count"])
def test_random_sets_depend_on_their_seed_alone(match):
    mask = NeuronMask(torch.rand(4, 200, generator=torch.Generator().manual_seed(0)) < 0.2)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = mask.random_like(3, match)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert torch.equal(mask.random_like(3, match).values, first.values)
    others = [mask.random_like(seed, match).values for seed in range(5)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(others, 2))


def test_a_random_set_of_total_count_does_not_keep_the_layers():
    assert any(MASK.random_like(seed, "count").per_layer != MASK.per_layer for seed in range(10))


def test_random_sets_are_uniform():
    """All 10 sets of two among five neurons, and all 15 of two among six places, come equally often: chi-square
    with 9 and 14 degrees of freedom, far in whose tails a fair draw practically never falls."""
    draws = 3000
    one_layer = NeuronMask(torch.tensor([[True, True, False, False, False]]))
    two_layers = NeuronMask(torch.tensor([[True, True, False], [False, False, False]]))
    for mask, match, sets, bound in ((one_layer, "layer", 10, 34), (two_layers, "count", 15, 43)):
        drawn = Counter(tuple(mask.random_like(seed, match).values.ravel().tolist()) for seed in range(draws))
        assert len(drawn) == sets
        chi_square = sum((count - draws / sets) ** 2 for count in drawn.values()) / (draws / sets)
        assert chi_square < bound


def test_an_unknown_match():
    with pytest.raises(OptionError, match=r"^match must be 'layer' or 'count', got 'norm'$"):
        MASK.random_like(0, "norm")
