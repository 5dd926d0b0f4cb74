"""What a rule can decide before anything runs: its power and both its error rates at the sizes that a cell will have.

    settings -> Sizes -> Design (how a cell's numbers arise) -> simulated data -> the experiment's own statistics
             -> Measurement -> the claim's own rule -> Rates

`designs`, `items` and `halves` draw data of a given truth from simple models, of facts, evaluation items and examples,
and pass them through `caploc.statistics`; `truths` says which truths a rule is asked about, `measured` puts
measurements together, `simulated` counts verdicts, `stopping` those of ``--samples auto``; `experiments` names the
design of each experiment, one line each.
No weight is read, and no result of a run: margins and sizes can be judged before numbers are seen.
"""

from __future__ import annotations

from caploc.power.designs import Counted, Design
from caploc.power.experiments import DESIGNS, Sizes, design_of
from caploc.power.simulated import (
    NO_SAMPLING,
    RUNS,
    TRUTHS,
    Rates,
    kept_rates,
    known_rates,
    more_units,
    rates,
    truths_of,
)

__all__ = [
    "DESIGNS",
    "NO_SAMPLING",
    "RUNS",
    "TRUTHS",
    "Counted",
    "Design",
    "Rates",
    "Sizes",
    "design_of",
    "kept_rates",
    "known_rates",
    "more_units",
    "rates",
    "truths_of",
]
