"""Random circuits to compare a located one with."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

from caploc.circuits.graph import Graph
from caploc.streams import Stream, stream

# Swaps tried for each edge: far more than the few that mixing takes.
_SWAPS = 20


def uniform(graph: Graph, count: int, seed: int) -> Bool[np.ndarray, "receivers senders"]:
    """``count`` edges of ``graph``, every set of them equally likely."""
    drawn = np.zeros(graph.edges, dtype=bool)
    drawn[stream(Stream.EDGES, seed).choice(graph.edges, count, replace=False)] = True
    kept = np.zeros_like(graph.possible)
    kept[graph.possible] = drawn
    return kept


def with_degrees(
    graph: Graph, kept: Bool[np.ndarray, "receivers senders"], seed: int
) -> Bool[np.ndarray, "receivers senders"]:
    """Edges with the same row and column sums as ``kept``: two edges exchange their senders, many times, wherever both
    new edges can be and are not there yet."""
    mixed, edges = kept.copy(), np.argwhere(kept)
    generator = stream(Stream.EDGES_OF_DEGREE, seed)
    for one, other in generator.integers(len(edges), size=(_SWAPS * len(edges), 2)) if len(edges) else ():
        (receiver, sender), (receiver2, sender2) = edges[one], edges[other]
        if mixed[receiver, sender2] or mixed[receiver2, sender]:
            continue  # there already, or the two share an end
        if graph.possible[receiver, sender2] and graph.possible[receiver2, sender]:
            mixed[receiver, sender] = mixed[receiver2, sender2] = False
            mixed[receiver, sender2] = mixed[receiver2, sender] = True
            edges[one, 1], edges[other, 1] = sender2, sender
    return mixed
