"""The slow, obvious way to prune: one whole forward pass for each edge, nothing kept from one to the next.

Too slow to use; it validates ``caploc.circuits.pruning`` and is what the benchmark compares its time with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.circuits.pruning import RESOLUTION


def prune_directly(model: DecomposedModel, prompts: Sequence[Prompt], threshold: float) -> Circuit:
    """The circuit of ``caploc.circuits.pruning.prune``."""
    graph, resolution = model.graph, RESOLUTION[model.lm.dtype]
    kept = graph.possible.copy()

    def log_prob() -> float:
        edges = torch.from_numpy(kept)[None]
        return float(
            np.mean([model.log_probs(prompt, model.run(prompt, edges)).item() for prompt in prompts])
        )

    current = log_prob()
    for receiver in reversed(range(graph.receivers)):
        for sender in reversed(range(graph.seen[receiver])):
            kept[receiver, sender] = False
            ablated = log_prob()
            if np.round((current - ablated) / resolution) * resolution < threshold:
                current = ablated
            else:
                kept[receiver, sender] = True
    return Circuit.of(graph, kept)
