"""What is done to a location: each a context manager that gives the model back exactly as it was.

The names below are imported on first use, so that one intervention does not load the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caploc.interventions.attention import AttentionScaling
    from caploc.interventions.enhancement import (
        Enhancement,
        Recipe,
        RowDifference,
        enhance,
        enhanced,
        merge,
    )
    from caploc.interventions.rank_one import (
        Editing,
        RankOneEdit,
        edit_all_layers,
        key_covariance,
        rank_one_edit,
        score_edit,
        summarize_edits,
    )
    from caploc.interventions.weights import erased, replaced_weights

_HOMES = {
    "AttentionScaling": "caploc.interventions.attention",
    "Editing": "caploc.interventions.rank_one",
    "Enhancement": "caploc.interventions.enhancement",
    "RankOneEdit": "caploc.interventions.rank_one",
    "Recipe": "caploc.interventions.enhancement",
    "RowDifference": "caploc.interventions.enhancement",
    "edit_all_layers": "caploc.interventions.rank_one",
    "enhance": "caploc.interventions.enhancement",
    "enhanced": "caploc.interventions.enhancement",
    "erased": "caploc.interventions.weights",
    "key_covariance": "caploc.interventions.rank_one",
    "merge": "caploc.interventions.enhancement",
    "rank_one_edit": "caploc.interventions.rank_one",
    "replaced_weights": "caploc.interventions.weights",
    "score_edit": "caploc.interventions.rank_one",
    "summarize_edits": "caploc.interventions.rank_one",
}

__all__ = [
    "AttentionScaling",
    "Editing",
    "Enhancement",
    "RankOneEdit",
    "Recipe",
    "RowDifference",
    "edit_all_layers",
    "enhance",
    "enhanced",
    "erased",
    "key_covariance",
    "merge",
    "rank_one_edit",
    "replaced_weights",
    "score_edit",
    "summarize_edits",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'caploc.interventions' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
