"""Training the located neurons (section 5.4, Tables 2 and 4, Figure 9), one function a claim.

``enhancements(study, trained_on, sigma)`` holds every run's outcomes on every dataset; the claims are read off it. What
is trained stands in `arms`, how fast in `rates`, and how arms are compared in `effects` and `best`.
"""

from __future__ import annotations

from caploc.experiments.enhancement.loss import enhancement_loss
from caploc.experiments.enhancement.runs import Enhancements, all_enhancements, enhancements
from caploc.experiments.enhancement.shares import param_share
from caploc.experiments.enhancement.table2 import (
    located_beats_others,
    located_beats_random,
    located_best_average,
    small_portion_suffices,
)
from caploc.experiments.enhancement.table2 import numbers as table2_numbers
from caploc.experiments.enhancement.table4 import harmless_updating
from caploc.experiments.enhancement.table4 import located_best as table4_located_best
from caploc.experiments.enhancement.table4 import numbers as table4_numbers

__all__ = [
    "Enhancements",
    "all_enhancements",
    "enhancement_loss",
    "enhancements",
    "harmless_updating",
    "located_beats_others",
    "located_beats_random",
    "located_best_average",
    "param_share",
    "small_portion_suffices",
    "table2_numbers",
    "table4_located_best",
    "table4_numbers",
]
