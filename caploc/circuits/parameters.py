"""How many parameters a circuit holds."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool

from caploc.circuits.block import Block
from caploc.circuits.families import family_of
from caploc.circuits.graph import Graph
from caploc.circuits.weights import blocks_of, graph_of
from caploc.errors import OptionError
from caploc.model.loading import LanguageModel

Counting = Literal["nodes", "entered"]


def parameters(
    graph: Graph, kept: Bool[np.ndarray, "receivers senders"], lm: LanguageModel, counting: Counting
) -> int:
    """The number that ``Circuit.parameter_share`` divides.

    Raises:
        OptionError: an unknown ``counting``, or a model with another graph.
    """
    if counting not in get_args(Counting):
        raise OptionError(f"counting must be 'nodes' or 'entered', got {counting!r}")
    family = family_of(str(lm.model.config.model_type))
    if graph_of(lm, family) != graph:
        raise OptionError(
            f"the circuit is not one of model {lm.name!r}; take the model that it was located in"
        )
    sending, entered = np.any(kept, axis=0), np.any(kept, axis=1)
    total = 0
    for layer, block in enumerate(blocks_of(lm, family, graph)):
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
