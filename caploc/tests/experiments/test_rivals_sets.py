"""Sets of equal size: against sorting, one row at a time, and what each method is by hand."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from caploc.circuits import Graph
from caploc.circuits.graph import mlps_of
from caploc.experiments.rivals.samples import Samples
from caploc.experiments.rivals.sets import CIRCUITS, CNL, KN, LAYERS, MAGNITUDE, located
from caploc.neurons import NeuronScores, Threshold


def samples_of(seed: int, count: int, layers: int, neurons: int, edges: int = 9) -> Samples:
    generator = np.random.default_rng(seed)
    scores = [generator.gamma(0.2, 1, size=(count, layers, neurons)) for _ in range(4)]
    return Samples(
        *scores,
        generator.random((count, layers)),
        generator.normal(size=(count, edges)),
        generator.random((edges, layers)) < 0.5,
    )


def largest(values: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(-values.ravel())[:count].tolist())


def in_best(sizes: np.ndarray, layers: np.ndarray, count: int) -> set[int]:
    ranked = sorted(np.ndindex(sizes.shape), key=lambda at: (-layers[at[0]], at[0], -sizes[at]))
    return {layer * sizes.shape[1] + neuron for layer, neuron in ranked[:count]}


@given(st.integers(0, 999), st.integers(2, 6), st.integers(1, 4), st.integers(2, 30), st.floats(0.2, 3))
def test_sets_against_sorting(seed: int, count: int, layers: int, neurons: int, sigma: float) -> None:
    samples = samples_of(seed, count, layers, neurons)
    assert samples.edges is not None and samples.at is not None
    weights = np.random.default_rng(seed).random((3, count)) + 0.01
    found = located(samples, weights, Threshold(sigma))
    assert list(found) == [CNL, KN, LAYERS, CIRCUITS, MAGNITUDE]
    for row, weight in enumerate(weights):
        mean = {
            name: np.average(getattr(samples, name), axis=0, weights=weight)
            for name in vars(samples)
            if name[0] in "ckmre"
        }
        zeros = torch.zeros(layers)
        scores = NeuronScores(torch.from_numpy(mean["commonality"]), zeros, zeros, zeros, 1)
        assume(bool(((scores.z().abs() - sigma).abs() > 1e-9).all()))  # of two neurons, both lie 1 sigma away
        cnl = scores.mask(sigma)
        assert np.array_equal(found[CNL][row], cnl.values.numpy())
        strength = [sum(abs(mean["edges"][samples.at[:, layer]])) for layer in range(layers)]
        expected = {
            KN: largest(mean["knowledge"], cnl.count),
            LAYERS: in_best(mean["magnitude"], mean["restored"], cnl.count),
            CIRCUITS: in_best(mean["magnitude"], np.array(strength), cnl.count),
            MAGNITUDE: largest(mean["magnitude"], cnl.count),
        }
        for method, places in expected.items():
            assert set(found[method][row].ravel().nonzero()[0].tolist()) == places, method


def test_a_set_larger_than_a_layer_goes_on_in_the_next() -> None:
    commonality = np.zeros((1, 3, 4))
    commonality[0, 0], commonality[0, 1, :2] = 1, 1  # six neurons above the mean
    sizes = np.arange(12.0).reshape(1, 3, 4)
    samples = Samples(commonality, commonality, commonality, sizes, np.array([[0.1, 0.9, 0.5]]), None)
    found = located(samples, np.ones((1, 1)), Threshold(0.1, deviation="positive"))
    assert np.argwhere(found[LAYERS][0]).tolist() == [[1, 0], [1, 1], [1, 2], [1, 3], [2, 2], [2, 3]]
    assert CIRCUITS not in found


def test_where_nothing_passes_every_set_is_empty() -> None:
    samples = samples_of(0, 4, 2, 10)
    assert not any(sets.any() for sets in located(samples, np.ones((2, 4)), Threshold(1000.0)).values())


def test_edges_of_mlps_by_name() -> None:
    for parallel in (False, True):
        graph = Graph(layers=3, heads=4, groups=2, parallel=parallel)
        ends = zip(*graph.possible.nonzero(), strict=True)
        names = [(graph.receiver_names[receiver], graph.sender_names[sender]) for receiver, sender in ends]
        at = mlps_of(graph)
        assert at.shape == (graph.edges, 3)
        for edge, pair in enumerate(names):
            assert at[edge].tolist() == [f"m{layer}" in pair for layer in range(3)]
