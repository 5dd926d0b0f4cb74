"""Sets of equal size: against sorting, one row at a time, and what each method is by hand; half-split overlaps of all
methods against one split at a time, and how often equal methods are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from caploc.circuits import Graph
from caploc.circuits.graph import mlps_of
from caploc.experiments import rival_sets
from caploc.experiments.rival_sets import CNL, Samples, Sets, half_splits, largest, overlap_effect, resampled
from caploc.metrics import overlap
from caploc.neurons import NeuronScores, Threshold
from caploc.statistics import random_halves

THRESHOLD = Threshold(2.0)
SCORES = ("cnl", "kn", "magnitude")


def samples(**evidence: np.ndarray) -> Samples:
    """Of methods whose means are their ranks."""
    return Samples(evidence, {key: lambda means: means for key in evidence})


def samples_of(seed: int, count: int, layers: int, neurons: int) -> Samples:
    """Methods that score neurons, and one that scores layers."""
    generator = np.random.default_rng(seed)
    scores = {key: generator.gamma(0.2, 1, size=(count, layers, neurons)) for key in SCORES}
    return samples(**scores, rome=generator.random((count, layers)))


def highest(values: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(-values.ravel())[:count].tolist())


def in_best(sizes: np.ndarray, layers: np.ndarray, count: int) -> set[int]:
    ranked = sorted(np.ndindex(sizes.shape), key=lambda at: (-layers[at[0]], at[0], -sizes[at]))
    return {layer * sizes.shape[1] + neuron for layer, neuron in ranked[:count]}


@given(st.integers(0, 999), st.integers(2, 6), st.integers(1, 4), st.integers(2, 30), st.floats(0.2, 3))
def test_sets_against_sorting(seed: int, count: int, layers: int, neurons: int, sigma: float) -> None:
    given_ = samples_of(seed, count, layers, neurons)
    weights = np.random.default_rng(seed).random((3, count)) + 0.01
    found = given_.located(weights, Threshold(sigma))
    assert list(found) == ["cnl", "kn", "magnitude", "rome"]
    for row, weight in enumerate(weights):
        mean = {key: np.average(values, axis=0, weights=weight) for key, values in given_.evidence.items()}
        zeros = torch.zeros(layers)
        scores = NeuronScores(torch.from_numpy(mean["cnl"]), zeros, zeros, zeros, 1)
        assume(bool(((scores.z().abs() - sigma).abs() > 1e-9).all()))  # of two neurons, both lie 1 sigma away
        cnl = scores.mask(sigma)
        assert np.array_equal(found[CNL][row], cnl.values.numpy())
        expected = {
            "kn": highest(mean["kn"], cnl.count),
            "rome": in_best(mean["magnitude"], mean["rome"], cnl.count),
            "magnitude": highest(mean["magnitude"], cnl.count),
        }
        for method, places in expected.items():
            assert set(found[method][row].ravel().nonzero()[0].tolist()) == places, method


@given(st.integers(0, 999), st.integers(1, 3), st.integers(2, 20), st.integers(2, 5))
def test_of_neurons_with_as_many_votes_the_larger_are_taken(
    seed: int, layers: int, neurons: int, votes: int
) -> None:
    generator = np.random.default_rng(seed)
    ranks = generator.integers(votes, size=(4, layers, neurons)).astype(float)
    sizes, counts = generator.random(ranks.shape), generator.integers(layers * neurons + 1, size=4)
    found = largest(sizes, ranks, counts)
    for row, count in enumerate(counts):
        order = np.lexsort((-sizes[row].ravel(), -ranks[row].ravel()))
        assert set(found[row].ravel().nonzero()[0]) == set(order[:count])


def test_a_set_larger_than_a_layer_goes_on_in_the_next() -> None:
    commonality = np.zeros((1, 3, 4))
    commonality[0, 0], commonality[0, 1, :2] = 1, 1  # six neurons above the mean
    sizes = np.arange(12.0).reshape(1, 3, 4)
    given_ = samples(cnl=commonality, magnitude=sizes, rome=np.array([[0.1, 0.9, 0.5]]))
    found = given_.located(np.ones((1, 1)), Threshold(0.1, deviation="positive"))
    assert np.argwhere(found["rome"][0]).tolist() == [[1, 0], [1, 1], [1, 2], [1, 3], [2, 2], [2, 3]]


def test_where_nothing_passes_every_set_is_empty() -> None:
    found = samples_of(0, 4, 2, 10).located(np.ones((2, 4)), Threshold(1000.0))
    assert not any(sets.any() for sets in found.values())


def test_edges_of_mlps_by_name() -> None:
    for parallel in (False, True):
        graph = Graph(layers=3, heads=4, groups=2, parallel=parallel)
        ends = zip(*graph.possible.nonzero(), strict=True)
        names = [(graph.receiver_names[receiver], graph.sender_names[sender]) for receiver, sender in ends]
        at = mlps_of(graph)
        assert at.shape == (graph.edges, 3)
        for edge, pair in enumerate(names):
            assert at[edge].tolist() == [f"m{layer}" in pair for layer in range(3)]


def test_every_method_is_split_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    given_, draws = samples_of(1, 16, 3, 40), 7
    generator, expected = np.random.default_rng([5, 51]), []
    for _ in range(draws):
        sides = [np.isin(np.arange(16), half).astype(float)[None] for half in random_halves(generator, 16)]
        sets = [given_.located(side, THRESHOLD) for side in sides]
        expected.append(
            {name: overlap(*(torch.from_numpy(one[name][0]) for one in sets)) for name in sets[0]}
        )
    found = half_splits(given_, THRESHOLD, draws, 5)
    for method, values in found.items():
        assert values == pytest.approx([one[method] for one in expected])
    monkeypatch.setattr(rival_sets, "SCORES_AT_ONCE", 3 * 120)
    again = half_splits(given_, THRESHOLD, draws, 5)
    assert all(np.array_equal(again[method], found[method]) for method in found)


def test_resamples_are_seeded_and_of_disjoint_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival_sets, "RESAMPLES", 50)
    seen, located = [], Samples.located
    given_ = samples_of(2, 16, 3, 40)

    def watched(self: Samples, weights: np.ndarray, threshold: Threshold) -> Sets:
        seen.append(weights)
        return located(self, weights, threshold)

    monkeypatch.setattr(Samples, "located", watched)
    found = resampled(given_, THRESHOLD, 3)
    first, second = seen
    assert not (first * second).any() and ((first > 0).sum(1) == 8).all() and ((second > 0).sum(1) == 8).all()
    again = resampled(given_, THRESHOLD, 3)
    assert all(np.array_equal(again[name], found[name], equal_nan=True) for name in found)
    assert not np.array_equal(resampled(given_, THRESHOLD, 4)["kn"], found["kn"])


def test_a_known_difference() -> None:
    splits = {CNL: np.array([0.9, 0.7, np.nan]), "kn": np.array([0.5, 0.5, np.nan])}
    resamples = {CNL: np.linspace(0.5, 1.5, 101), "kn": np.full(101, 0.25)}
    effect = overlap_effect(splits, resamples, "kn", 32)
    assert effect.estimate == pytest.approx(0.3)
    # deviations of -0.5 to 0.5, whatever their mean
    assert (effect.interval.low, effect.interval.high) == (
        pytest.approx(0.3 - 0.475),
        pytest.approx(0.3 + 0.475),
    )
    assert (effect.interval90.low, effect.interval90.high) == (pytest.approx(-0.15), pytest.approx(0.75))
    assert effect.p == pytest.approx((1 + 21) / 102, abs=0.011)
    assert (effect.items, effect.draws, effect.p_sets) == (32, 2, None)


def test_equal_methods_are_seldom_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods that see the same neurons through equal noise; which of them agrees better is sampling error."""
    monkeypatch.setattr(rival_sets, "RESAMPLES", 199)
    count, levels = 32, np.random.default_rng(5).gamma(0.3, 0.5, size=(3, 100))
    fixed = np.zeros((count, 3, 100))
    fixed[:, 0, :10] = 1
    apart, significant, runs = 0, 0, 100
    for seed in range(runs):
        noise = np.random.default_rng(seed).normal(size=(2, count, 3, 100))
        given_ = samples(cnl=fixed, kn=levels + noise[0], magnitude=levels + noise[1])
        found = [half_splits(given_, THRESHOLD, 60, seed), resampled(given_, THRESHOLD, seed)]
        splits, resamples = ({CNL: one["magnitude"], "kn": one["kn"]} for one in found)
        effect = overlap_effect(splits, resamples, "kn", count)
        apart += not effect.interval.low <= 0 <= effect.interval.high
        significant += effect.p < 0.05
    assert apart <= 5 and significant <= 8, (apart, significant)
