"""A circuit: the edges of a graph that a fact is said to need (eq. 3, C_k = <N_k, E_k>). The parameters that it
holds, random circuits to compare it with, and running it alone: does it recall the fact by itself (sections 2.3 and
3.2)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.circuits.graph import Graph, mlps_of
from caploc.circuits.weights import Block, blocks_of, family_of, graph_of
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.metrics import Places
from caploc.model.loading import LanguageModel
from caploc.streams import Stream, stream

Matching = Literal["count", "degree"]
Counting = Literal["nodes", "entered"]

# Tokens x circuits in one pass: enough to keep the matrix products busy, little memory.
_CHUNK_TOKENS = 2048
# Swaps tried for each edge: far more than the few that mixing takes.
_SWAPS = 20


@dataclass(frozen=True, eq=False)
class Circuit(Places):
    """A set of edges: ``values [edges]`` is True where an edge of ``graph`` belongs to it, in the graph's order.

    ``caploc.metrics`` takes circuits of one graph as they are (overlap and IoU of edges), and their ``nodes`` as sets.
    """

    unit: ClassVar[str] = "edges"

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
        return _parameters(self.graph, self.matrix, lm, counting) / lm.num_parameters

    def random_like(self, seed: int, match: Matching = "count") -> Circuit:
        """A random circuit with as many edges: uniformly drawn (``"count"``), or with each sender's and each receiver's
        number of edges kept as well (``"degree"``: random swaps of two edges' ends).

        Degrees all but settle a small circuit: on the embedded models' facts (threshold 0.01, some 33 edges) such a
        draw shares 73 to 81 % of the located edges, a uniform one 1 to 2 %.

        Raises:
            OptionError: an unknown ``match``.
        """
        if match == "count":
            return Circuit.of(self.graph, _uniform(self.graph, self.count, seed))
        if match == "degree":
            return Circuit.of(self.graph, _with_degrees(self.graph, self.matrix, seed))
        raise OptionError(f"match must be 'count' or 'degree', got {match!r}")

    @property
    def strata(self) -> Int[np.ndarray, " places"]:
        """The layer that reads each edge."""
        return np.array([self.graph.layer_of(int(receiver)) for receiver in self.graph.possible.nonzero()[0]])

    @property
    def votes(self) -> Float[np.ndarray, " layers"]:
        """How many of the edges begin or end at each layer's MLP."""
        return self.values.numpy(force=True).astype(np.float64) @ mlps_of(self.graph)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The edges, and the numbers that make the graph."""
        graph = self.graph
        shape = np.array([graph.layers, graph.heads, graph.groups, graph.parallel], dtype=np.int64)
        return {"values": self.values.numpy(force=True), "graph": shape}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Circuit:
        """Back from ``to_arrays``."""
        layers, heads, groups, parallel = arrays["graph"].tolist()
        values = torch.from_numpy(np.array(arrays["values"]))
        return cls(Graph(layers, heads, groups, bool(parallel)), values)


def _uniform(graph: Graph, count: int, seed: int) -> Bool[np.ndarray, "receivers senders"]:
    """``count`` edges of ``graph``, every set of them equally likely."""
    drawn = np.zeros(graph.edges, dtype=bool)
    drawn[stream(Stream.EDGES, seed).choice(graph.edges, count, replace=False)] = True
    kept = np.zeros_like(graph.possible)
    kept[graph.possible] = drawn
    return kept


def _with_degrees(
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


def _parameters(
    graph: Graph, kept: Bool[np.ndarray, "receivers senders"], lm: LanguageModel, counting: Counting
) -> int:
    """The number that ``Circuit.parameter_share`` divides.

    Raises:
        OptionError: an unknown ``counting``, or a model with another graph.
    """
    if counting not in get_args(Counting):
        raise OptionError(f"counting must be 'nodes' or 'entered', got {counting!r}")
    family = family_of(str(lm.config.model_type))
    if graph_of(lm, family) != graph:
        raise OptionError(
            f"the circuit is not one of model {lm.name!r}; take the model that it was located in"
        )
    sending, entered = np.any(kept, axis=0), np.any(kept, axis=1)
    total = 0
    for layer, block in enumerate(blocks_of(lm, family, graph, lm.layer_shapes)):
        heads, mlp = sending[graph.heads_of(layer)], bool(sending[graph.mlp_of(layer)])
        queries = heads
        keys = values = np.isin(np.arange(graph.groups), graph.group_of[heads])
        if counting == "entered":
            queries, keys, values = (
                entered[part(layer)] for part in (graph.queries_of, graph.keys_of, graph.values_of)
            )
            mlp = bool(entered[graph.mlp_input_of(layer)])
        total += int(heads.sum()) * block.output[0].numel() + mlp * _mlp(block)
        for projection, parts in ((block.query, queries), (block.key, keys), (block.value, values)):
            total += int(parts.sum()) * projection.parameters_per_part
    return total


def _mlp(block: Block) -> int:
    inputs = (parameter.numel() for module in block.mlp_in for parameter in module.parameters())
    return sum(inputs) + block.mlp_out.numel()


@dataclass(frozen=True, eq=False)
class Recall:
    """What circuits that run alone make of answers, teacher forced.

    Attributes:
        probabilities: ``[examples, circuits]`` of the whole answer, the product over its tokens.
        log_probs: ``[examples, circuits]`` in nats, mean over the answer's tokens.
        ranks: ``[examples, circuits]`` the worst rank of an answer token, from 1; ties count against it.
        whole_probabilities, whole_log_probs, whole_ranks: ``[examples]`` the same of the model itself.
    """

    probabilities: Float[np.ndarray, "examples circuits"]
    log_probs: Float[np.ndarray, "examples circuits"]
    ranks: Int[np.ndarray, "examples circuits"]
    whole_probabilities: Float[np.ndarray, " examples"]
    whole_log_probs: Float[np.ndarray, " examples"]
    whole_ranks: Int[np.ndarray, " examples"]


def run_alone(
    lm: LanguageModel,
    examples: Sequence[Example],
    circuits: Circuit | Sequence[Circuit],
    means: Tensor | None = None,
) -> Recall:
    """Run every circuit alone on every example; edges outside of it carry zero, or ``means`` if given.

    An empty circuit leaves the constant sender: the output norm and head read nothing but biases. The model itself is
    not changed.

    Raises:
        ModelError: a family that cannot be taken apart, or a model not in float32 or float64.
        OptionError: a circuit of another model's graph, or ``means`` of another shape.
        ExampleError: no example, or one that cannot be tokenized.
    """
    listed = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    if not examples:
        raise ExampleError("there is no example to run a circuit on; give at least one")
    model = DecomposedModel(lm, means)
    if any(circuit.graph != model.graph for circuit in listed):
        raise OptionError(f"a circuit is not one of model {lm.name!r}; take the model that it was located in")
    whole = Circuit.whole(model.graph)
    kept = torch.from_numpy(np.stack([circuit.matrix for circuit in [*listed, whole]]))
    tokenized = [tokenize(lm, example) for example in examples]
    rows = [_row(model, model.prompt(example), kept) for example in tokenized]
    probabilities, log_probs, ranks = (np.stack(part) for part in zip(*rows, strict=True))
    return Recall(
        probabilities[:, :-1],
        log_probs[:, :-1],
        ranks[:, :-1],
        probabilities[:, -1],
        log_probs[:, -1],
        ranks[:, -1],
    )


def _row(model: DecomposedModel, prompt: Prompt, kept: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One example's probabilities, log probabilities and ranks, by circuit."""
    logits = model.run_each(prompt, kept, max(1, _CHUNK_TOKENS // prompt.tokens))
    log_probs = model.log_probs(prompt, logits).double()
    probabilities = (log_probs * prompt.rows).exp()
    parts = (probabilities, log_probs, model.ranks(prompt, logits))
    first, second, third = (part.numpy(force=True) for part in parts)
    return first, second, third
