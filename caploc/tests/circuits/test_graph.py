"""The graph's numbers, against the definition read out loud."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.circuits import Graph

GRAPHS = st.builds(
    lambda layers, groups, times, parallel: Graph(layers, groups * times, groups, parallel),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
)


def _reads(graph: Graph, receiver: str, sender: str) -> bool:
    """May ``receiver`` read ``sender``, by their names alone?"""
    if sender == "embedding" or receiver == "output":
        return True
    part, layer = sender[0], int(sender[1:].partition(".")[0])
    reader, own = receiver[0], int(receiver[1:].partition(".")[0])
    return layer < own or (layer == own and part == "a" and reader == "m" and not graph.parallel)


@settings(deadline=None)
@given(GRAPHS)
def test_edges_lead_from_every_earlier_sender_to_every_later_receiver(graph: Graph) -> None:
    assert len(graph.sender_names) == graph.senders == len(set(graph.sender_names))
    assert len(graph.receiver_names) == graph.receivers == len(set(graph.receiver_names))
    expected = [
        [_reads(graph, receiver, sender) for sender in graph.sender_names]
        for receiver in graph.receiver_names
    ]
    assert np.array_equal(graph.possible, expected)
    assert graph.edges == np.sum(expected)


@settings(deadline=None)
@given(GRAPHS)
def test_heads_read_through_their_own_query_and_their_groups_key_and_value(graph: Graph) -> None:
    for receiver, name in enumerate(graph.receiver_names[:-1]):
        fed = {graph.sender_names[sender] for sender in np.flatnonzero(graph.feeds[receiver])}
        if name.startswith("m"):
            assert fed == {name}
            continue
        layer, _, part = name.partition(".")
        number, size = int(part[1:]), graph.heads // graph.groups
        heads = [number] if part[0] == "q" else range(number * size, (number + 1) * size)
        assert fed == {f"{layer}.h{head}" for head in heads}
    assert not graph.feeds[graph.output].any()


@settings(deadline=None)
@given(GRAPHS)
def test_places_and_names_agree(graph: Graph) -> None:
    for layer in range(graph.layers):
        assert graph.sender_names[graph.heads_of(layer)] == tuple(
            f"a{layer}.h{n}" for n in range(graph.heads)
        )
        assert graph.sender_names[graph.mlp_of(layer)] == f"m{layer}"
        parts = {"q": graph.queries_of, "k": graph.keys_of, "v": graph.values_of}
        names = [name for part in parts.values() for name in graph.receiver_names[part(layer)]]
        assert tuple(names) == graph.receiver_names[graph.attention_of(layer)]
        assert all(
            name.startswith(f"a{layer}.{part}")
            for part in parts
            for name in graph.receiver_names[parts[part](layer)]
        )
        assert graph.receiver_names[graph.mlp_input_of(layer)] == f"m{layer}"
        assert (
            graph.layer_of(graph.mlp_input_of(layer))
            == layer
            == graph.layer_of(graph.queries_of(layer).start)
        )
    assert graph.layer_of(graph.output) == graph.layers


@pytest.mark.parametrize(("graph", "edges"), [(Graph(6, 6, 2, False), 1300), (Graph(6, 6, 6, True), 2152)])
def test_the_embedded_models_graphs(graph: Graph, edges: int) -> None:
    """Counted by hand: 10 (18) attention inputs a layer see 1 + 7 l senders, MLPs 6 more (none more), the output 43."""
    assert graph.edges == edges
