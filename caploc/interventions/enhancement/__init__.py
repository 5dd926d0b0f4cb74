"""Fine-tuning of chosen neurons alone: the paper's enhancement experiment (section 5.4, Tables 2 and 4, Figure 9).

::

    found = enhance(lm, mask, examples, Recipe(lr=1e-4))
    with enhanced(lm, found.at[10]):
        ...                                        # the trained model; behind it, lm is as it was, bit for bit
    merge(lm, found.at[10]).save_pretrained(folder)

Only the chosen neurons' rows and columns have gradients and optimizer state, and nothing below the lowest of them takes
part in the backward pass. Equal to fine-tuning with masked gradients: ``reference``, and the tests that compare.
"""

from __future__ import annotations

from caploc.interventions.enhancement.difference import (
    DifferenceError,
    LayerRows,
    RowDifference,
    enhanced,
    merge,
)
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.enhancement.training import Enhancement, enhance

__all__ = [
    "DifferenceError",
    "Enhancement",
    "LayerRows",
    "Recipe",
    "RowDifference",
    "enhance",
    "enhanced",
    "merge",
]
