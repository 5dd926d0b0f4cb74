"""What each paper says: its claims, its printed numbers and the rules, fixed before any run, that judge them.

One TOML file a paper; a further paper is a further file.
"""

from __future__ import annotations

from caploc.papers.agreement import number_agreement
from caploc.papers.evidence import IncompleteFindingError
from caploc.papers.model import Claim, Control, Definition, Margin, Paper, PaperError, Rule, RuleText
from caploc.papers.reading import load_paper, parse_paper
from caploc.papers.rules import judge

__all__ = [
    "Claim",
    "Control",
    "Definition",
    "IncompleteFindingError",
    "Margin",
    "Paper",
    "PaperError",
    "Rule",
    "RuleText",
    "judge",
    "load_paper",
    "number_agreement",
    "parse_paper",
]
