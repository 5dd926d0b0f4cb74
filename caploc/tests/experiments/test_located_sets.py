"""Sparse sets and their agreement against the plain functions of ``caploc.metrics`` and slow loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.experiments.locating_facts import LocatedSets
from caploc.metrics import chance_overlap, iou, overlap
from caploc.statistics import (
    across_facts,
    cluster_weights,
    defined_interval,
    facts_permuted_p,
    weighted_mean,
    weighted_pair_mean,
    within_facts,
)

LAYERS, NEURONS = 2, 6


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    count = draw(st.integers(1, 6))
    bits = draw(st.lists(st.booleans(), min_size=count * 12, max_size=count * 12))
    return torch.tensor(bits).reshape(count, LAYERS, NEURONS)


def sets_of(found: torch.Tensor) -> LocatedSets:
    places = (one.ravel().numpy().nonzero()[0] for one in found)
    return LocatedSets.of_places(places, LAYERS * NEURONS, np.repeat(np.arange(LAYERS), NEURONS))


def table(found: torch.Tensor, metric, empty: str) -> np.ndarray:
    """``metric`` of every two masks; where it is undefined: 0 if one set is empty, nan if both are."""
    result = np.empty((len(found), len(found)))
    for i, j in itertools.product(range(len(found)), repeat=2):
        both = not found[i].any() and not found[j].any()
        value = metric(found[i], found[j])
        result[i, j] = math.nan if both else 0.0 if math.isnan(value) and empty == "zero" else value
    return result


@given(masks())
@settings(max_examples=60, deadline=None)
def test_sets_agree_as_masks_do(found: torch.Tensor) -> None:
    sets = sets_of(found)
    assert np.array_equal(sets.counts, found.sum((1, 2)).numpy()) and sets.places == 12
    assert np.array_equal(sets.per_stratum, found.sum(2).numpy())
    np.testing.assert_allclose(sets.overlap(), table(found, overlap, "zero"), atol=1e-12)
    np.testing.assert_allclose(sets.iou(), table(found, iou, "zero"), atol=1e-12)
    by_layer = table(found, lambda a, b: chance_overlap(a, b, by_layer=True), "zero")
    np.testing.assert_allclose(sets.chance(), by_layer, atol=1e-12)
    np.testing.assert_allclose(sets.uniform_chance(), table(found, chance_overlap, "zero"), atol=1e-12)
    smaller = table(found, lambda a, b: int((a & b).sum()) / max(1, min(int(a.sum()), int(b.sum()))), "zero")
    np.testing.assert_allclose(sets.smaller(), smaller, atol=1e-12)
    half = sets[np.arange(len(sets)) % 2 == 0]
    np.testing.assert_allclose(half.overlap(sets), sets.overlap()[::2], atol=1e-12)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_means_within_and_across_facts(seed: int, sizes: list[int]) -> None:
    fact = np.repeat(np.arange(len(sizes)), sizes)
    matrix = np.random.default_rng(seed).random((len(fact), len(fact)))
    matrix = (matrix + matrix.T) / 2
    matrix[np.random.default_rng([seed, 1]).random(matrix.shape) < 0.2] = np.nan
    matrix = np.where(np.isnan(matrix) | np.isnan(matrix.T), np.nan, matrix)
    within, across = within_facts(matrix, fact, len(sizes)), across_facts(matrix, fact, len(sizes))
    for f in range(len(sizes)):
        rows = np.flatnonzero(fact == f)
        pairs = [matrix[i, j] for i, j in itertools.combinations(rows, 2)]
        assert within.values[f] == pytest.approx(_mean(pairs), nan_ok=True)
        for g in range(len(sizes)):
            expected = math.nan if f == g else _mean(matrix[np.ix_(rows, np.flatnonzero(fact == g))].ravel())
            assert across[f, g] == pytest.approx(expected, nan_ok=True)
    assert within.pairs == sum(math.comb(size, 2) for size in sizes)


def _mean(values) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def test_weighted_means_resample_facts() -> None:
    """Against a loop over the facts drawn, copies of one fact making no pair."""
    generator = np.random.default_rng(0)
    values, matrix = generator.random(5), generator.random((5, 5))
    values[2] = np.nan
    weights = cluster_weights(np.array([0, 0, 1, 2, 3]), 3, draws=50)
    assert (weights[:, 0] == weights[:, 1]).all() and weights.sum() > 0
    for row, mean, pair_mean in zip(
        weights, weighted_mean(values, weights), weighted_pair_mean(matrix, weights), strict=True
    ):
        drawn = np.repeat(np.arange(5), row.astype(int))
        assert mean == pytest.approx(_mean(values[drawn]), nan_ok=True)
        pairs = [matrix[i, j] for i, j in itertools.permutations(drawn, 2) if i != j]
        assert pair_mean == pytest.approx(_mean(pairs), nan_ok=True)


def test_a_mean_over_pairs_is_covered() -> None:
    """The interval of a mean over pairs of facts holds the truth about as often as it says (a naive one of the facts'
    own means, whose spread is half, would in 7 of 10)."""
    generator, held = np.random.default_rng(1), 0
    for trial in range(100):
        effects = generator.normal(size=30)
        matrix = effects[:, None] + effects
        spread = defined_interval(
            weighted_pair_mean(matrix, cluster_weights(np.arange(30), trial, draws=400))
        )
        held += spread.contains(0.0)
    assert 86 <= held <= 99


def test_permuted_facts() -> None:
    fact = np.repeat(np.arange(12), 3)
    same = (fact[:, None] == fact).astype(float)
    assert facts_permuted_p(same, fact, 0) == 0.001
    noise = np.random.default_rng(2).random((36, 36))
    assert facts_permuted_p(noise + noise.T, fact, 0) > 0.01
    assert math.isnan(facts_permuted_p(np.ones((3, 3)), np.arange(3), 0)), "no fact has two wordings"
