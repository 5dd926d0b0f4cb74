"""Masks and agreements recombined from shards, against plain loops over the examples."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.experiments import locating
from caploc.experiments.commonality_halves import empty_masks, mean
from caploc.experiments.locating import masks, mean_scores, to_split
from caploc.metrics import chance_overlap, iou, overlap
from caploc.neurons import NeuronScores, Threshold
from caploc.statistics import (
    Agreement,
    Resplit,
    across,
    agreement,
    defined_interval,
    draw_halves,
    half_split,
    resampled,
)
from caploc.tests.experiments.planted import sums_of

arrays = st.builds(
    lambda seed, examples, layers, neurons: np.random.default_rng(seed).normal(
        size=(examples, layers, neurons)
    ),
    st.integers(0, 2**32),
    st.integers(2, 17),
    st.integers(1, 3),
    st.integers(2, 9),
)
sizes = st.sampled_from([1, 2, 3])
sigmas = st.sampled_from([0.55, 1.05, 1.7, 2.9])  # none at which few neurons tie
thresholds = st.builds(
    Threshold,
    sigmas,
    st.sampled_from(["std", "variance"]),
    st.sampled_from(["model", "layer"]),
    st.sampled_from(["absolute", "positive"]),
)


def mask_of(scores: np.ndarray, chosen: list[int], threshold: Threshold) -> torch.Tensor:
    """Eq. (8) on the mean over these examples, through the public class."""
    values = torch.from_numpy(np.mean([scores[index] for index in chosen], axis=0))
    layers = torch.zeros(len(values))
    return NeuronScores(values, layers, layers, layers, len(chosen)).mask(*astuple(threshold)).values


def examples_of(members: tuple[tuple[int, ...], ...], shards: np.ndarray) -> list[int]:
    return [index for shard in shards for index in members[shard]]


@settings(deadline=None)
@given(arrays, sizes, thresholds, st.integers(0, 99))
def test_masks_are_those_of_the_examples_themselves(
    scores: np.ndarray, size: int, threshold: Threshold, seed: int
) -> None:
    """A bootstrap sample counts an example as often as it is drawn."""
    shards, generator = sums_of(scores, size), np.random.default_rng(seed)
    everything = np.arange(len(shards.counts))
    chosen = [everything, everything[:1], resampled(generator, everything)]
    found = masks(shards, chosen, threshold)
    assert found.shape == (3, *scores.shape[1:])
    for subset, mask in zip(chosen, found, strict=True):
        expected = mask_of(scores, examples_of(shards.members, subset), threshold)
        assert mask.tolist() == expected.tolist()


def test_shards_weigh_by_their_examples() -> None:
    scores = np.zeros((5, 1, 2))
    scores[4, 0, 0] = 5
    shards = sums_of(scores, 2)
    assert shards.counts.tolist() == [2, 2, 1]
    assert mean_scores(shards, [np.array([0, 1, 2]), np.array([2]), np.array([2, 2, 0])])[:, 0].tolist() == [
        1,
        5,
        2.5,
    ]


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 8), st.floats(0, 0.7))
def test_agreement_is_equation_9_of_each_pair(seed: int, layers: int, neurons: int, density: float) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.random((2, 6, layers, neurons)) < density
    result = agreement(a, b)
    for index, (first, second) in enumerate(zip(a, b, strict=True)):
        empty = not first.any() or not second.any()
        assert same(result.overlap[index], overlap(first, second))
        assert same(result.iou[index], math.nan if empty else iou(first, second))
        assert same(result.chance[index], chance_overlap(first, second, by_layer=True))
    assert result.defined == sum(bool(x.any() and y.any()) for x, y in zip(a, b, strict=True))


def test_chance_is_what_random_placement_gives() -> None:
    generator, counts = np.random.default_rng(0), [(3, 1), (0, 4), (5, 5)]
    a, b = np.zeros((2, 4000, 3, 10), dtype=bool)
    for masks_, which in ((a, 0), (b, 1)):
        for layer, pair in enumerate(counts):
            order = generator.random((4000, 10)).argsort(1)
            masks_[:, layer] = order < pair[which]
    result = agreement(a, b)
    assert result.chance == pytest.approx(np.full(4000, (1 / 8 + 1 / 10) / 2 * (3 * 1 + 5 * 5) / 10))
    assert result.overlap.mean() == pytest.approx(
        result.chance[0], abs=4 * result.overlap.std() / math.sqrt(4000)
    )


@settings(deadline=None)
@given(arrays, sizes, st.integers(2, 12), st.integers(0, 99))
def test_halves_are_disjoint_complete_and_seeded(
    scores: np.ndarray, size: int, draws: int, seed: int
) -> None:
    shards = sums_of(scores, size)
    first, second = draw_halves(len(shards.counts), draws, seed)
    assert len(first) == len(second) == draws
    for a, b in zip(first, second, strict=True):
        assert sorted([*a, *b]) == list(range(len(shards.counts)))
        assert len(a) == len(shards.counts) // 2
    again = draw_halves(len(shards.counts), draws, seed)
    assert all(np.array_equal(x, y) for x, y in zip(first, again[0], strict=True))


def test_halves_are_all_different_and_equally_likely() -> None:
    first, _ = draw_halves(6, 2000, 0)
    counts = np.unique([sum(1 << int(shard) for shard in half) for half in first], return_counts=True)[1]
    assert len(counts) == 20 and ((counts - 100) ** 2 / 100).sum() < 53  # chi-square, 19 degrees of freedom
    assert not np.array_equal(first, draw_halves(6, 2000, 1)[0])


def assert_agrees(result: Agreement, pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    assert len(result.overlap) == len(pairs)
    for index, (a, b) in enumerate(pairs):
        empty = not a.any() or not b.any()
        assert same(result.overlap[index], overlap(a, b))
        assert same(result.iou[index], math.nan if empty else iou(a, b))
        assert same(result.chance[index], chance_overlap(a, b, by_layer=True))


@settings(max_examples=40, deadline=None)
@given(arrays, sizes, st.integers(2, 9), thresholds, st.integers(0, 99))
def test_half_split_against_the_examples_themselves(
    scores: np.ndarray, size: int, draws: int, threshold: Threshold, seed: int
) -> None:
    shards = sums_of(np.concatenate([scores, scores[::-1]]), size)
    scores = np.concatenate([scores, scores[::-1]])
    pairs = [
        tuple(mask_of(scores, examples_of(shards.members, half), threshold) for half in split)
        for split in zip(*draw_halves(len(shards.counts), draws, seed), strict=True)
    ]
    assert_agrees(half_split(to_split(shards, threshold), draws, seed).all, pairs)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), sizes, st.integers(4, 12), st.integers(4, 12), thresholds)
def test_across_against_the_examples_themselves(
    seed: int, size: int, count_a: int, count_b: int, threshold: Threshold
) -> None:
    """The first half of one dataset, as in its own split, against the second of the other."""
    generator = np.random.default_rng(seed)
    data = [generator.normal(size=(count, 2, 5)) for count in (count_a, count_b)]
    a, b = (sums_of(scores, size) for scores in data)
    pairs = [
        (
            mask_of(data[0], examples_of(a.members, first), threshold),
            mask_of(data[1], examples_of(b.members, second), threshold),
        )
        for first, second in zip(
            draw_halves(len(a.counts), 5, seed)[0], draw_halves(len(b.counts), 5, seed)[1], strict=True
        )
    ]
    assert_agrees(across(to_split(a, threshold), to_split(b, threshold), 5, seed).all, pairs)


@pytest.mark.parametrize("defined", [0, 1, 4, 5, 10])
def test_interval_and_mean_need_half_of_the_draws(defined: int) -> None:
    values = np.full(10, np.nan)
    values[:defined] = np.linspace(0, 1, defined) if defined else 0
    spread, middle = defined_interval(values), mean(values)
    assert math.isnan(spread.low) == math.isnan(spread.high) == math.isnan(middle) == (defined < 5)
    if defined >= 5:
        assert middle == pytest.approx(0.5)
        assert (spread.low, spread.high) == pytest.approx((0.025, 0.975))
        assert defined_interval(values, 0.9).low == pytest.approx(0.05)


def test_a_mean_of_one_draw_is_that_draw_and_has_no_interval() -> None:
    assert mean(np.array([0.3])) == 0.3
    assert math.isnan(defined_interval(np.array([0.3])).low)


@pytest.mark.parametrize(("defined", "named"), [(10, False), (5, False), (4, True), (0, True)])
def test_masks_that_are_empty_are_a_floor_effect(defined: int, named: bool) -> None:
    values = np.where(np.arange(10) < defined, 0.5, np.nan)
    reason = empty_masks(Resplit(Agreement(values, values, values), []), 6.0)
    expected = f"floor effect: no neuron passes sigma 6 in {10 - defined} of 10 splits"
    assert reason == (expected if named else None)


def test_many_subsets_of_a_large_model_are_taken_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    shards = sums_of(np.random.default_rng(0).normal(size=(8, 2, 5)))
    first, _ = draw_halves(len(shards.counts), 7, 0)
    together = masks(shards, first, Threshold(1.05))
    for at_once in (1, 10, 30, 69):
        monkeypatch.setattr(locating, "SCORES_AT_ONCE", at_once)
        assert np.array_equal(masks(shards, first, Threshold(1.05)), together)
