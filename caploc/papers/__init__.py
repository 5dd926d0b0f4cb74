"""What each paper says: its claims, its printed numbers and the rules, fixed before any run, that judge them.

One folder of TOML files a paper; a further paper is a further folder.
"""

from __future__ import annotations

from caploc.papers.agreement import number_agreement
from caploc.papers.evidence import IncompleteFindingError
from caploc.papers.model import (
    Ambiguity,
    Claim,
    Control,
    Definition,
    Group,
    Margin,
    Paper,
    PaperError,
    Rule,
    RuleText,
    Source,
)
from caploc.papers.printed import PrintedCell, PrintedNumber
from caploc.papers.reading import load_paper, parse_paper
from caploc.papers.rules import decisive_p, derive, judge

__all__ = [
    "Ambiguity",
    "Claim",
    "Control",
    "Definition",
    "Group",
    "IncompleteFindingError",
    "Margin",
    "Paper",
    "PaperError",
    "PrintedCell",
    "PrintedNumber",
    "Rule",
    "RuleText",
    "Source",
    "decisive_p",
    "derive",
    "judge",
    "load_paper",
    "number_agreement",
    "parse_paper",
]
