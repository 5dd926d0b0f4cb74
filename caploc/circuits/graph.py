"""The graph that circuits are subsets of: who may read whom inside a decoder.

*Senders* write into the residual stream: the embedding, every attention head, every MLP. *Receivers* read it: each
head's query input, one key and one value input per key/value group (per head where there are no groups), each MLP's
input, and the output. An edge leads from every sender to every later receiver. Whatever adds to the residual stream
without reading it, the biases of output projections, is a constant sender that no edge stands for and nothing prunes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Graph:
    """One decoder's graph; two models with equal numbers have the same graph.

    Senders count upward from the embedding through every layer's heads, then its MLP; receivers through every layer's
    query, key and value inputs, then its MLP's, and last the output. Edges are sorted by receiver, then by sender.

    Attributes:
        layers, heads: of the decoder; heads per layer.
        groups: key/value groups per layer.
        parallel: attention and MLP read the same input (GPT-J); else the MLP also reads its own layer's heads.
    """

    layers: int
    heads: int
    groups: int
    parallel: bool

    @property
    def senders(self) -> int:
        return 1 + self.layers * (self.heads + 1)

    @property
    def receivers(self) -> int:
        return self.layers * self._inputs + 1

    @property
    def edges(self) -> int:
        return int(self.seen.sum())

    @property
    def output(self) -> int:
        """The output's number among the receivers."""
        return self.receivers - 1

    @property
    def _inputs(self) -> int:
        """Receivers per layer."""
        return self.heads + 2 * self.groups + 1

    def heads_of(self, layer: int) -> slice:
        """The layer's heads among the senders."""
        begin = 1 + layer * (self.heads + 1)
        return slice(begin, begin + self.heads)

    def mlp_of(self, layer: int) -> int:
        """The layer's MLP among the senders."""
        return self.heads_of(layer).stop

    def attention_of(self, layer: int) -> slice:
        """The layer's query, key and value inputs among the receivers."""
        return slice(layer * self._inputs, self.mlp_input_of(layer))

    def queries_of(self, layer: int) -> slice:
        """The layer's query inputs, one a head, among the receivers."""
        return slice(layer * self._inputs, layer * self._inputs + self.heads)

    def keys_of(self, layer: int) -> slice:
        """The layer's key inputs, one a group, among the receivers."""
        begin = self.queries_of(layer).stop
        return slice(begin, begin + self.groups)

    def values_of(self, layer: int) -> slice:
        """The layer's value inputs, one a group, among the receivers."""
        begin = self.keys_of(layer).stop
        return slice(begin, begin + self.groups)

    def mlp_input_of(self, layer: int) -> int:
        """The layer's MLP input among the receivers."""
        return self.values_of(layer).stop

    def layer_of(self, receiver: int) -> int:
        """The receiver's layer; the number of layers for the output."""
        return receiver // self._inputs

    @cached_property
    def group_of(self) -> Int[np.ndarray, " heads"]:
        """Which key/value group each head of a layer reads."""
        return np.arange(self.heads) // (self.heads // self.groups)

    @cached_property
    def seen(self) -> Int[np.ndarray, " receivers"]:
        """How many senders each receiver may read: the first ones."""
        before = 1 + np.arange(self.layers) * (self.heads + 1)
        by_layer = np.repeat(before[:, None], self._inputs, axis=1)
        if not self.parallel:
            by_layer[:, -1] += self.heads
        return np.append(by_layer.ravel(), self.senders)

    @cached_property
    def possible(self) -> Bool[np.ndarray, "receivers senders"]:
        """Where an edge can be."""
        return np.arange(self.senders) < self.seen[:, None]

    @cached_property
    def feeds(self) -> Bool[np.ndarray, "receivers senders"]:
        """Which senders compute with what a receiver gets: a key input feeds all heads of its group."""
        feeds = np.zeros((self.receivers, self.senders), dtype=bool)
        for layer in range(self.layers):
            heads = np.arange(self.heads)
            first = self.heads_of(layer).start
            feeds[self.queries_of(layer).start + heads, first + heads] = True
            feeds[self.keys_of(layer).start + self.group_of, first + heads] = True
            feeds[self.values_of(layer).start + self.group_of, first + heads] = True
            feeds[self.mlp_input_of(layer), self.mlp_of(layer)] = True
        return feeds

    @cached_property
    def sender_names(self) -> tuple[str, ...]:
        """``embedding``, ``a0.h3`` (a head), ``m0`` (an MLP)."""
        layers = ([*(f"a{n}.h{head}" for head in range(self.heads)), f"m{n}"] for n in range(self.layers))
        return ("embedding", *(name for layer in layers for name in layer))

    @cached_property
    def receiver_names(self) -> tuple[str, ...]:
        """``a0.q3``, ``a0.k1``, ``a0.v1`` (of head 3, of group 1), ``m0``, ``output``."""
        parts: Sequence[tuple[str, int]] = (("q", self.heads), ("k", self.groups), ("v", self.groups))
        layers = (
            [*(f"a{n}.{part}{number}" for part, count in parts for number in range(count)), f"m{n}"]
            for n in range(self.layers)
        )
        return (*(name for layer in layers for name in layer), "output")


def mlps_of(graph: Graph) -> Bool[np.ndarray, "edges layers"]:
    """Whether each edge begins or ends at each layer's MLP."""
    receivers, senders = graph.possible.nonzero()
    mlps = range(graph.layers)
    return np.stack(
        [(senders == graph.mlp_of(layer)) | (receivers == graph.mlp_input_of(layer)) for layer in mlps],
        axis=1,
    )
