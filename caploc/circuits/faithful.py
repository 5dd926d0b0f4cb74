"""Circuits by faithfulness: edges are pruned in blocks while what is left, running alone, restores the answer.

The one way in which the audit locates circuits, whatever the size of the model. Exact pruning (`caploc.circuits.prune`)
runs about one circuit an edge, this a few times log2(edges); ``python -m caploc.benchmarks circuits`` shows how far
they agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.errors import OptionError

FAITHFULNESS = 0.8
"""The share of the answer's log probability that a circuit restores (ambiguity ``kc-faithfulness``)."""
RUNS_PER_HALVING = 32
"""At most so many circuits run for each halving of the edges to one: 600 for the 330,000 edges of GPT-J."""

# Circuits in one batch: what they write is held for every sender and token.
_AT_ONCE = 16


@dataclass(frozen=True)
class Faithful:
    """The circuit that is left, and what it restores: ``faithfulness`` is 0 for the empty circuit, 1 for the model.

    ``bar``: the log probability that it had to keep. ``runs``: how many circuits ran; ``settled``: no further edge
    can go alone without falling below the bar.
    """

    circuit: Circuit
    faithfulness: float
    bar: float
    runs: int
    settled: bool


def faithful(
    model: DecomposedModel,
    prompts: Sequence[Prompt],
    share: float = FAITHFULNESS,
    bar: float | None = None,
    start: Circuit | None = None,
) -> Faithful:
    """Prune blocks of edges, from half of them down to single ones, while the answer keeps ``share`` of what it has.

    Edges stand in the order in which exact pruning visits them, from the output down (appendix D); those that end up on
    no path go with their block. Faithfulness is (log p of the circuit - log p of the empty one) / (log p of the model -
    log p of the empty one), the mean over the answer's tokens and ``prompts`` (Hanna et al. 2024, on log p(o | s, r) as
    in eq. (12)); pruned edges carry zero, or the means that the model was made with.

    Args:
        bar: the log probability to keep, instead of ``share``. An answer that the model itself gives less is first
            brought up to it: a block goes where that does not lower the answer.
        start: from whose edges to prune; None for all.

    Raises:
        OptionError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise OptionError(f"faithfulness must be in (0, 1], got {share}")
    edges = model.graph.edges
    left = Circuit.whole(model.graph) if start is None else start
    empty = Circuit(model.graph, torch.zeros(edges, dtype=torch.bool))
    floor = float(_log_probs(model, prompts, [empty])[0])
    whole = float(np.mean([prompt.log_prob for prompt in prompts]))
    held = whole if start is None else float(_log_probs(model, prompts, [start])[0])
    if bar is None:
        bar = floor + share * max(whole - floor, 0.0)
    block, runs, most = max(left.count // 2, 1), 0, RUNS_PER_HALVING * math.ceil(math.log2(max(edges, 2)))
    while left.count and runs < most:
        before = left.count
        ahead = np.flatnonzero(left.values.numpy(force=True))[::-1]
        parts = [ahead[begin : begin + block] for begin in range(0, len(ahead), block)][: most - runs]
        # together first: a block that cannot go from what is left hardly can once others have gone
        alone = [_without(left, part) for part in parts]
        log_probs, runs = _log_probs(model, prompts, alone), runs + len(alone)
        for number in np.flatnonzero(log_probs >= min(bar, held)):
            tried, log_prob = alone[number], float(log_probs[number])
            if left.count < before:
                tried = _without(left, parts[number])
                if tried.count == left.count or runs == most:
                    continue
                log_prob, runs = float(_log_probs(model, prompts, [tried])[0]), runs + 1
            if log_prob >= min(bar, held):
                left, held = tried, log_prob
        if block == 1 and left.count == before:
            break
        block = max(min(block, left.count) // 2, 1)
    restored = (held - floor) / (whole - floor) if whole > floor else math.nan
    return Faithful(left, restored, bar, runs, runs < most)


def _without(circuit: Circuit, edges: Int[np.ndarray, " some"]) -> Circuit:
    values = circuit.values.clone()
    values[torch.from_numpy(edges.copy())] = False
    return Circuit(circuit.graph, values).connected()


def _log_probs(
    model: DecomposedModel, prompts: Sequence[Prompt], circuits: Sequence[Circuit]
) -> Float[np.ndarray, " circuits"]:
    """Of the answer when each circuit runs alone, mean over its tokens and the prompts."""
    kept = torch.from_numpy(np.stack([circuit.matrix for circuit in circuits]))
    of_prompts = [
        model.run_each(prompt, kept, _AT_ONCE, partial(model.log_probs, prompt)) for prompt in prompts
    ]
    found: np.ndarray = torch.stack(of_prompts).double().mean(0).numpy(force=True)
    return found
