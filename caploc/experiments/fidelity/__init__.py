"""Fidelity (section 3.1): do different wordings of one fact lead a method to the same place?

One file a method; each claim is a function of a ``Study``, a ``Cell`` and the claim's id that returns a ``Finding``.
`caploc.experiments.fidelity.overlap` turns what any method located into the finding of its overlap.
"""

from __future__ import annotations

from caploc.experiments.fidelity.circuit_sizes import kc_granularity, kc_param_share
from caploc.experiments.fidelity.circuits import kc_overlap
from caploc.experiments.fidelity.kn import kn_mean_located, kn_overlap
from caploc.experiments.fidelity.layers import rome_granularity, rome_overlap
from caploc.experiments.fidelity.ordering import ordering

__all__ = [
    "kc_granularity",
    "kc_overlap",
    "kc_param_share",
    "kn_mean_located",
    "kn_overlap",
    "ordering",
    "rome_granularity",
    "rome_overlap",
]
