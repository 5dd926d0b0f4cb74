"""The rules of verdict: what each kind of claim asks of a finding, fixed before any run.

A kind of rule is one class (see `Rule`); a paper's entries name it with its thresholds, and `judge` applies it.
"""

from __future__ import annotations

from caploc.rules.base import (
    RULES,
    Comparison,
    IncompleteFindingError,
    NotANumberError,
    Rule,
    decisive_p,
    judge,
)
from caploc.rules.derived import Derived, derive
from caploc.rules.differences import (
    BestOf,
    Difference,
    Equivalence,
    EveryEffect,
    NonInferiority,
    Partition,
    PlainDifference,
    Specificity,
)
from caploc.rules.levels import (
    Both,
    Consistent,
    IntervalBelow,
    LowerBound,
    LowerBounds,
    OneReading,
    OverlapBelow,
    Untestable,
    UpperBound,
    VanishingError,
    Within,
)
from caploc.rules.printed import AgreesWithPrinted, EveryReading, number_agreement
from caploc.rules.trends import AboveChance, Monotone, Trend

__all__ = [
    "RULES",
    "AboveChance",
    "AgreesWithPrinted",
    "BestOf",
    "Both",
    "Comparison",
    "Consistent",
    "Derived",
    "Difference",
    "Equivalence",
    "EveryEffect",
    "EveryReading",
    "IncompleteFindingError",
    "IntervalBelow",
    "LowerBound",
    "LowerBounds",
    "Monotone",
    "NonInferiority",
    "NotANumberError",
    "OneReading",
    "OverlapBelow",
    "Partition",
    "PlainDifference",
    "Rule",
    "Specificity",
    "Trend",
    "Untestable",
    "UpperBound",
    "VanishingError",
    "Within",
    "decisive_p",
    "derive",
    "judge",
    "number_agreement",
]
