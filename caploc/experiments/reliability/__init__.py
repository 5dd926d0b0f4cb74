"""Reliability (section 3.2): does changing what was located matter more than changing something else?

One file a family of claims; each claim is a function of a ``Study``, a ``Cell`` and the claim's id that returns a
``Finding``.
"""

from __future__ import annotations

from caploc.experiments.reliability.kc import kc_ipp, kc_recall, kc_recalled_param_share
from caploc.experiments.reliability.kn import (
    kn_double,
    kn_no_strong_correlation,
    kn_not_necessarily,
    kn_similar_to_random,
    kn_zero,
)
from caploc.experiments.reliability.kn_ipp import kn_ipp
from caploc.experiments.reliability.rome import rome_ipp, rome_layers_equal

__all__ = [
    "kc_ipp",
    "kc_recall",
    "kc_recalled_param_share",
    "kn_double",
    "kn_ipp",
    "kn_no_strong_correlation",
    "kn_not_necessarily",
    "kn_similar_to_random",
    "kn_zero",
    "rome_ipp",
    "rome_layers_equal",
]
