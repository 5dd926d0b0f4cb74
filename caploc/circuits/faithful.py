"""Circuits by faithfulness: of the edges of largest |score|, as many as the answer needs when they run alone.

The one way in which the audit cuts circuits, whatever the size of the model: log2(edges) runs of one circuit, where
exact pruning takes about one an edge. `caploc.circuits.prune` is its oracle (``python -m caploc.benchmarks circuits``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from caploc.circuits.circuit import Circuit
from caploc.circuits.decomposed import DecomposedModel, Prompt
from caploc.errors import OptionError

if TYPE_CHECKING:
    from caploc.circuits.attribution import EdgeScores

FAITHFULNESS = 0.5
"""The share of the answer's log probability that a circuit restores (ambiguity ``kc-faithfulness``). A model that is
sure of its answer among V tokens leaves such a circuit a probability of V ** -0.5, far from rank 1 being given."""


@dataclass(frozen=True)
class Faithful:
    """The circuit of the ``count`` edges of largest |score|, those on no path left out, and what it restores:
    ``faithfulness`` is 0 for the empty circuit, 1 for the model. ``runs``: circuits that ran to find it."""

    circuit: Circuit
    count: int
    faithfulness: float
    runs: int


def faithful(
    model: DecomposedModel,
    prompts: Sequence[Prompt],
    scores: EdgeScores,
    shares: Sequence[float] = (FAITHFULNESS,),
) -> list[Faithful]:
    """For each of ``shares`` a number of edges, found by bisection, that restores so much while one fewer does not.

    Faithfulness is (log p of the circuit - log p of the empty one) / (log p of the model - log p of the empty one), the
    mean over the answer's tokens and ``prompts`` (Hanna et al. 2024, on log p(o | s, r) as in eq. (12)). It need not rise
    with every edge, so that fewer may do as well; a bisection finds one crossing. Where the model makes the answer no
    likelier than the empty circuit, there is nothing to restore: the circuit is empty and its faithfulness nan.

    Raises:
        OptionError: a share is not in (0, 1].
    """
    for share in shares:
        if not 0 < share <= 1:
            raise OptionError(f"the faithfulness must be in (0, 1], got {share}")
    edges = model.graph.edges
    empty = scores.top(0)
    known = {0: _log_prob(model, prompts, empty)}
    floor, whole = known[0], float(np.mean([prompt.log_prob for prompt in prompts]))
    if not whole > floor:
        return [Faithful(empty, 0, float("nan"), 1) for _ in shares]

    def restored(count: int) -> float:
        if count == edges:
            return 1.0
        if count not in known:
            known[count] = _log_prob(model, prompts, scores.top(count))
        return (known[count] - floor) / (whole - floor)

    found = []
    for share in shares:
        low, high = 0, edges
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if restored(middle) >= share else (middle, high)
        found.append((high, restored(high)))
    return [Faithful(scores.top(count), count, held, len(known)) for count, held in found]


def as_large(scores: EdgeScores, count: int) -> Circuit:
    """Of the circuits of the edges of largest |score|, the first with at least ``count`` edges on a path."""
    low, high = count - 1, scores.graph.edges
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if scores.top(middle).count >= count else (middle, high)
    return scores.top(high if count else 0)


@torch.no_grad()
def _log_prob(model: DecomposedModel, prompts: Sequence[Prompt], circuit: Circuit) -> float:
    kept = torch.from_numpy(circuit.matrix)[None]
    return float(np.mean([float(model.log_probs(prompt, model.run(prompt, kept))) for prompt in prompts]))
