"""The paper against itself: arithmetic on its printed numbers and equations, without any model.

Each check takes the paper and one of its claims and returns a measurement: its value counts what does not fit, and its
notes say, in a sentence each, what that is. Numbers are read as they are printed, digit by digit, from
``caploc/papers``; averages, differences and bounds are computed exactly. Importing this package does not import torch.

    caploc.consistency.check(paper, paper.claim("print-table2-averages"))
"""

from __future__ import annotations

from caploc.consistency import facts, neurons, statements, tables
from caploc.consistency.printed import CHECKS
from caploc.findings import Measurement
from caploc.papers import Claim, Paper

__all__ = ["CHECKS", "check", "facts", "neurons", "statements", "tables"]


def check(paper: Paper, claim: Claim) -> Measurement:
    """What the claim's own check finds."""
    return CHECKS[claim.id](paper, claim)
