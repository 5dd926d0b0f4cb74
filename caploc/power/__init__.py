"""What a rule can decide before anything runs: its power and both its error rates at the sizes that a cell will have.

    settings -> Sizes -> Design (how a cell's numbers arise) -> simulated data -> the experiment's own statistics
             -> Measurement -> the claim's own rule -> Rates

`designs` draws data of a given truth from a simple model and passes them through `caploc.statistics`; `simulated` says
which truths a rule is asked about and counts its verdicts; `experiments` names the design of each experiment, one line
each.
No weight is read, and no result of a run: margins and sizes can be judged before numbers are seen.
"""

from __future__ import annotations

from caploc.power.designs import Arms, Counted, Design, Doses, Halves, Level, Paired, Proportion, SetsDrawn
from caploc.power.experiments import DESIGNS, Sizes, design_of
from caploc.power.simulated import (
    ELSEWHERE,
    NO_SAMPLING,
    RUNS,
    TRUTHS,
    Rates,
    Truths,
    kept_rates,
    more_units,
    rates,
    truths_of,
)

__all__ = [
    "DESIGNS",
    "ELSEWHERE",
    "NO_SAMPLING",
    "RUNS",
    "TRUTHS",
    "Arms",
    "Counted",
    "Design",
    "Doses",
    "Halves",
    "Level",
    "Paired",
    "Proportion",
    "Rates",
    "SetsDrawn",
    "Sizes",
    "Truths",
    "design_of",
    "kept_rates",
    "more_units",
    "rates",
    "truths_of",
]
