"""Exact pruning to a circuit of a given size: circuits of facts can then be compared at one number of edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caploc.circuits.decomposed import DecomposedModel
from caploc.circuits.prompt import Prompt
from caploc.circuits.pruning import Pruning, prune
from caploc.errors import OptionError

# Nats; below lies rounding in float32, above no edge of a model that knows the answer.
LOWEST, HIGHEST = 1e-5, 10.0


def prune_to(
    model: DecomposedModel, prompts: Sequence[Prompt], count: int, close: float = 0.05, tries: int = 12
) -> Pruning:
    """The pruning, of those tried, that leaves a number of edges closest to ``count``.

    The threshold is bisected in its logarithm between ``LOWEST`` and ``HIGHEST``, until the number is within the
    fraction ``close`` of ``count``, ``tries`` times at most. A greedy search need not pass through every size, and
    edges that make the answer less probable are pruned at each: a larger ``count`` is not reached.

    Raises:
        OptionError: ``count`` or ``tries`` is below 1.
        ExampleError: no prompt.
    """
    if count < 1 or tries < 1:
        raise OptionError(f"the number of edges and of tries must be at least 1, got {count} and {tries}")
    low, high = math.log(LOWEST), math.log(HIGHEST)
    tried: list[Pruning] = []
    for _ in range(tries):
        middle = (low + high) / 2
        tried.append(prune(model, prompts, math.exp(middle)))
        left = tried[-1].circuit.count
        if abs(left - count) <= close * count:
            break
        low, high = (middle, high) if left > count else (low, middle)
    return min(tried, key=lambda pruning: abs(pruning.circuit.count - count))
