"""The rules of verdict: what each kind of claim asks of a finding, fixed before any run.

A kind of rule is one class (see `Rule`); a paper's entries name it with its thresholds, and `judge` applies it.
"""

from __future__ import annotations

from caploc.rules import differences, trends
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
from caploc.rules.levels import LowerBound
from caploc.rules.printed import number_agreement

__all__ = [
    "RULES",
    "Comparison",
    "Derived",
    "IncompleteFindingError",
    "LowerBound",
    "NotANumberError",
    "Rule",
    "decisive_p",
    "derive",
    "differences",
    "judge",
    "number_agreement",
    "trends",
]
