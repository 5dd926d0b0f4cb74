"""A circuit: the edges of a graph that a fact is said to need (eq. 3, C_k = <N_k, E_k>)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from caploc.circuits.graph import Graph
from caploc.circuits.parameters import Counting, parameters
from caploc.circuits.random_edges import uniform, with_degrees
from caploc.errors import OptionError
from caploc.model.loading import LanguageModel

Matching = Literal["count", "degree"]


@dataclass(frozen=True, eq=False)
class Circuit:
    """A set of edges: ``values [edges]`` is True where an edge of ``graph`` belongs to it, in the graph's order.

    ``caploc.metrics`` takes circuits of one graph as they are (overlap and IoU of edges), and their ``nodes`` as sets.
    """

    graph: Graph
    values: Bool[Tensor, " edges"]

    def __post_init__(self) -> None:
        if self.values.dtype != torch.bool or self.values.shape != (self.graph.edges,):
            raise OptionError(
                f"a circuit of this graph is a bool tensor [{self.graph.edges}], got {self.values.dtype} "
                f"{list(self.values.shape)}"
            )

    @classmethod
    def of(cls, graph: Graph, kept: Bool[np.ndarray, "receivers senders"]) -> Circuit:
        """The circuit of the edges that ``kept`` marks; marks where no edge can be are ignored."""
        return cls(graph, torch.from_numpy(kept[graph.possible]))

    @classmethod
    def whole(cls, graph: Graph) -> Circuit:
        """The circuit of all edges: the model itself."""
        return cls.of(graph, graph.possible)

    @property
    def matrix(self) -> Bool[np.ndarray, "receivers senders"]:
        """Which receiver reads which sender."""
        kept = np.zeros_like(self.graph.possible)
        kept[self.graph.possible] = self.values.numpy(force=True)
        return kept

    @property
    def count(self) -> int:
        """How many edges there are."""
        return int(self.values.sum())

    @property
    def ratio(self) -> float:
        """The share of all edges, a fraction."""
        return self.count / self.graph.edges

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Sender and receiver of each edge by name, such as ``("a0.h3", "m1")``."""
        graph = self.graph
        return [
            (graph.sender_names[sender], graph.receiver_names[receiver])
            for receiver, sender in np.argwhere(self.matrix)
        ]

    @property
    def nodes(self) -> frozenset[str]:
        """N_k: the senders, by name, that an edge leaves. The output, part of every circuit, is left out."""
        return frozenset(self.graph.sender_names[sender] for sender in np.flatnonzero(self.matrix.any(0)))

    def connected(self) -> Circuit:
        """The edges that lie on a path from the embedding to the output.

        Without the edges that lead nowhere the circuit computes the same. Those that come from a node which reads
        nothing carry its constant output: zero without biases, else dropping them changes the circuit a little.
        """
        graph, kept = self.graph, self.matrix
        fed = np.zeros(graph.senders, dtype=bool)
        fed[0] = True
        for receiver in range(graph.output):  # earlier receivers feed earlier senders
            if (kept[receiver] & fed).any():
                fed |= graph.feeds[receiver]
        used = np.zeros(graph.receivers, dtype=bool)
        used[graph.output] = True
        for receiver in reversed(range(graph.output)):
            used[receiver] = kept[used][:, graph.feeds[receiver]].any()
        return Circuit.of(graph, kept & fed & used[:, None])

    def parameter_share(self, lm: LanguageModel, counting: Counting = "nodes") -> float:
        """The circuit's own weights as a fraction of all of the model's parameters.

        ``counting`` "nodes": of every head that an edge leaves, its slices of the query and output projections and its
        group's of the key and value projections, each once; of every such MLP, the whole. "entered": a slice of the
        query, key or value projection, or an MLP, if an edge enters just that; and the output slices of such heads.
        Input biases count with their weights. Embeddings, norms, the output head and the biases of the constant sender
        belong to no node.

        Raises:
            OptionError: an unknown ``counting``, or a model with another graph.
        """
        return parameters(self.graph, self.matrix, lm, counting) / lm.num_parameters

    def random_like(self, seed: int, match: Matching = "count") -> Circuit:
        """A random circuit with as many edges: uniformly drawn (``"count"``), or with each sender's and each receiver's
        number of edges kept as well (``"degree"``: random swaps of two edges' ends).

        Degrees all but settle a small circuit: on the embedded models' facts (threshold 0.01, some 33 edges) such a
        draw shares 73 to 81 % of the located edges, a uniform one 1 to 2 %.

        Raises:
            OptionError: an unknown ``match``.
        """
        if match == "count":
            return Circuit.of(self.graph, uniform(self.graph, self.count, seed))
        if match == "degree":
            return Circuit.of(self.graph, with_degrees(self.graph, self.matrix, seed))
        raise OptionError(f"match must be 'count' or 'degree', got {match!r}")
