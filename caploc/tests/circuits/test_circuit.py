"""Circuits as sets of edges: comparing, connecting, counting their parameters, drawing random ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import caploc
from caploc.circuits import Circuit, DecomposedModel, Graph
from caploc.errors import OptionError
from caploc.metrics import chance_overlap
from caploc.tests.circuits.models import SUPPORTED, random_example, small_model

GRAPH = Graph(2, 4, 2, parallel=False)


def _drawn(graph: Graph, share: float, seed: int) -> Circuit:
    return Circuit(graph, torch.from_numpy(np.random.default_rng(seed).random(graph.edges) < share))


CIRCUITS = st.builds(
    _drawn,
    st.sampled_from([GRAPH, Graph(2, 2, 2, parallel=True), Graph(3, 2, 1, parallel=False)]),
    st.sampled_from([0.05, 0.2, 0.6]),
    st.integers(0, 9999),
)


def _by_name(graph: Graph, edges: set[tuple[str, str]]) -> Circuit:
    kept = np.zeros_like(graph.possible)
    for sender, receiver in edges:
        kept[graph.receiver_names.index(receiver), graph.sender_names.index(sender)] = True
    return Circuit.of(graph, kept)


def test_matrix_edges_and_nodes_name_the_same_edges() -> None:
    edges = {("embedding", "a0.k1"), ("a0.h3", "m1"), ("m1", "output")}
    circuit = _by_name(GRAPH, edges)
    assert set(circuit.edges) == edges and circuit.count == 3 and circuit.ratio == 3 / GRAPH.edges
    assert circuit.nodes == {"embedding", "a0.h3", "m1"}
    assert torch.equal(Circuit.of(GRAPH, circuit.matrix).values, circuit.values)
    assert Circuit.whole(GRAPH).count == GRAPH.edges


def test_the_metrics_take_circuits_and_their_nodes() -> None:
    one = _by_name(GRAPH, {("embedding", "m0"), ("m0", "output")})
    two = _by_name(GRAPH, {("embedding", "m0"), ("m0", "m1"), ("m1", "output"), ("embedding", "output")})
    assert caploc.overlap(one, two) == (1 / 2 + 1 / 4) / 2 and caploc.iou(one, two) == 1 / 5
    assert caploc.overlap(one.nodes, two.nodes) == (2 / 2 + 2 / 3) / 2
    assert chance_overlap(one, two) == pytest.approx((2 + 4) / (2 * GRAPH.edges))
    assert np.isnan(caploc.overlap(one, _by_name(GRAPH, set())))
    with pytest.raises(OptionError, match="locate both in one model"):
        caploc.overlap(one, Circuit.whole(Graph(1, 4, 2, parallel=False)))


@settings(deadline=None)
@given(CIRCUITS)
def test_connected_keeps_exactly_the_edges_on_a_path(circuit: Circuit) -> None:
    """Paths are walked one by one, over names; a head's output follows each of its three inputs."""
    graph = circuit.graph
    reads: dict[str, list[tuple[str, str]]] = {}
    for sender, receiver in circuit.edges:
        fed = graph.feeds[graph.receiver_names.index(receiver)]
        for node in [graph.sender_names[n] for n in np.flatnonzero(fed)] or ["output"]:
            reads.setdefault(sender, []).append((node, receiver))
    found: set[tuple[str, str]] = set()
    reaching: dict[str, bool] = {"output": True}

    def walk(node: str) -> bool:
        if node not in reaching:
            ways = [(receiver, walk(after)) for after, receiver in reads.get(node, [])]
            found.update((node, receiver) for receiver, arrives in ways if arrives)
            reaching[node] = any(arrives for _, arrives in ways)
        return reaching[node]

    walk("embedding")
    assert set(circuit.connected().edges) == found


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["llama", "mistral"]), st.integers(0, 999))
def test_a_connected_circuit_without_biases_computes_the_same(family: str, seed: int) -> None:
    """A node that reads nothing writes nothing there."""
    model = DecomposedModel(small_model(family))
    prompt = model.prompt(random_example(4, seed=seed))
    circuit = _drawn(model.graph, 0.3, seed)
    pair = torch.from_numpy(np.stack([circuit.matrix, circuit.connected().matrix]))
    one, other = model.run(prompt, pair)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_parameters_are_counted_by_hand() -> None:
    """Llama: width 32, 4 heads of 8, 2 groups, an MLP of 20, no biases."""
    lm = small_model("llama")
    circuit = _by_name(
        GRAPH,
        {
            ("embedding", "a0.q0"),
            ("embedding", "a0.v0"),
            ("embedding", "a0.q1"),
            ("a0.h0", "m0"),
            ("a0.h1", "output"),
            ("m0", "output"),
        },
    )
    head, mlp = 32 * 8, 3 * 32 * 20
    nodes = 2 * (head + head) + 2 * head + mlp  # queries and outputs of two heads, one group's key and value
    entered = 2 * head + head + 2 * head + mlp  # no key
    assert circuit.parameter_share(lm) == nodes / lm.num_parameters
    assert circuit.parameter_share(lm, "entered") == entered / lm.num_parameters
    assert _by_name(GRAPH, set()).parameter_share(lm) == 0


@pytest.mark.parametrize("counting", ["nodes", "entered"])
@pytest.mark.parametrize("family", SUPPORTED)
def test_the_whole_graph_holds_all_layers_but_norms_and_output_biases(family: str, counting: str) -> None:
    lm = small_model(family)
    outputs = (lm.architecture.attention_out, lm.architecture.mlp_out)
    expected = sum(
        parameter.numel()
        for layer in lm.layers
        for name, parameter in layer.named_parameters()
        if "norm" not in name and "ln_" not in name and name not in [f"{path}.bias" for path in outputs]
    )
    whole = Circuit.whole(DecomposedModel(lm).graph)
    assert whole.parameter_share(lm, counting) * lm.num_parameters == pytest.approx(expected)


def test_what_parameter_share_refuses() -> None:
    with pytest.raises(OptionError, match="counting must be 'nodes' or 'entered', got 'edges'"):
        Circuit.whole(GRAPH).parameter_share(small_model("llama"), "edges")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="the circuit is not one of model 'small-gptj'"):
        Circuit.whole(GRAPH).parameter_share(small_model("gptj"))


@settings(deadline=None)
@given(CIRCUITS, st.integers(0, 2**31))
def test_random_circuits_keep_what_they_say(circuit: Circuit, seed: int) -> None:
    uniform, degrees = circuit.random_like(seed), circuit.random_like(seed, "degree")
    assert uniform.count == degrees.count == circuit.count
    for axis in (0, 1):
        assert np.array_equal(degrees.matrix.sum(axis), circuit.matrix.sum(axis))
    for drawn, match in ((uniform, "count"), (degrees, "degree")):
        assert not (drawn.matrix & ~circuit.graph.possible).any()
        assert torch.equal(circuit.random_like(seed, match).values, drawn.values)


def test_random_circuits_are_uniform() -> None:
    """Every edge as often as any other; the two ways to wire two edges equally often."""
    circuit = _drawn(GRAPH, 0.2, 0)
    times = sum(circuit.random_like(seed).values.int() for seed in range(2000))
    expected = 2000 * circuit.ratio
    assert abs(times - expected).max() < 5 * (expected * (1 - circuit.ratio)) ** 0.5
    pair = _by_name(GRAPH, {("embedding", "m1"), ("m0", "output")})
    wirings = Counter(tuple(pair.random_like(seed, "degree").edges) for seed in range(2000))
    assert len(wirings) == 2 and abs(wirings[tuple(pair.edges)] - 1000) < 5 * 500**0.5


def test_what_circuits_refuse() -> None:
    with pytest.raises(OptionError, match="match must be 'count' or 'degree', got 'layer'"):
        Circuit.whole(GRAPH).random_like(0, "layer")  # type: ignore[arg-type]
    for values in (torch.zeros(GRAPH.edges), torch.zeros(3, dtype=torch.bool)):
        with pytest.raises(OptionError, match=rf"a circuit of this graph is a bool tensor \[{GRAPH.edges}\]"):
            Circuit(GRAPH, values)
    assert _by_name(GRAPH, set()).random_like(0, "degree").count == 0
