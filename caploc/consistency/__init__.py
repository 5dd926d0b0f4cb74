"""The paper against itself: arithmetic on its printed numbers and equations, without any model.

Each check takes the paper and returns the finding of one claim: its estimate counts what does not fit, and its notes
say, in a sentence each, what that is. Numbers are read as they are printed, digit by digit, from ``caploc/papers``;
averages, differences and bounds are computed exactly. Importing this package does not import torch.

    finding = caploc.consistency.CHECKS["print-table2-averages"](load_paper("capability_localization"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from caploc.consistency import facts as decoupling
from caploc.consistency import facts as fidelity
from caploc.consistency import facts as reliability
from caploc.consistency import neurons as feasibility
from caploc.consistency import neurons as thresholds
from caploc.consistency import scores
from caploc.consistency import statements as documents
from caploc.consistency import statements as equations
from caploc.consistency import statements as protocol
from caploc.consistency import tables as averages
from caploc.consistency import tables as granularity
from caploc.consistency import tables as marks
from caploc.findings import Finding
from caploc.papers import Claim, Paper

__all__ = ["CHECKS"]

_TOPICS = (
    averages,
    granularity,
    feasibility,
    fidelity,
    reliability,
    decoupling,
    equations,
    thresholds,
    scores,
    marks,
    documents,
    protocol,
)


def _check(claim: str, check: Callable[[Paper, Claim], Finding]) -> Callable[[Paper], Finding]:
    return lambda paper: check(paper, paper.claim(claim))


CHECKS: Mapping[str, Callable[[Paper], Finding]] = MappingProxyType(
    {claim: _check(claim, check) for topic in _TOPICS for claim, check in topic.CHECKS.items()}
)
"""Claim id -> the check that decides it."""
