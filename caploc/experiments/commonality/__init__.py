"""Commonality neurons (section 5.3, Table 1, Fig. 4, 5, 7, 8): every claim of group D as an experiment, and the
choice of sigma in eq. (8).

Each function takes a ``Study``, a ``Cell`` and the claim's id, and returns a ``Finding``; where something it needs
cannot be had here, the Finding says so.
"""

from __future__ import annotations

from caploc.experiments.commonality.across import commonality, dataset_overlap, trained_minus_untrained
from caploc.experiments.commonality.convergence import convergence, subset_suffices
from caploc.experiments.commonality.partition import independence
from caploc.experiments.commonality.table1 import both_high, default_sigma, iou, neuron_ratio, overlap

__all__ = [
    "both_high",
    "commonality",
    "convergence",
    "dataset_overlap",
    "default_sigma",
    "independence",
    "iou",
    "neuron_ratio",
    "overlap",
    "subset_suffices",
    "trained_minus_untrained",
]
