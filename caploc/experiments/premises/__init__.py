"""What the paper takes over from the methods it builds on (section 2, appendices A, C and D), tested (group J).

One file a method; each claim is a function of a ``Study``, a ``Cell`` and the claim's id that returns a ``Finding``.
"""

from __future__ import annotations

from caploc.experiments.premises.completeness import ig_completeness
from caploc.experiments.premises.kc import kc_recall_premise
from caploc.experiments.premises.kn import attribution_measures_contribution, kn_verification
from caploc.experiments.premises.rome import rome_corruption, rome_layer_editing, rome_restoration_locates

__all__ = [
    "attribution_measures_contribution",
    "ig_completeness",
    "kc_recall_premise",
    "kn_verification",
    "rome_corruption",
    "rome_layer_editing",
    "rome_restoration_locates",
]
