"""What each paper says: its claims, its printed numbers and the rules, fixed before any run, that judge them.

A paper is a folder of TOML files, which `load_paper` finds by its name, if it stands beside this file, or by its path.
"""

from __future__ import annotations

from caploc.papers.model import (
    Ambiguity,
    Claim,
    Control,
    Definition,
    Group,
    Margin,
    Paper,
    PaperError,
    PrintedCell,
    PrintedFor,
    PrintedNumber,
    RuleText,
    Source,
)
from caploc.papers.reading import load_paper, paper_names, parse_paper

__all__ = [
    "Ambiguity",
    "Claim",
    "Control",
    "Definition",
    "Group",
    "Margin",
    "Paper",
    "PaperError",
    "PrintedCell",
    "PrintedFor",
    "PrintedNumber",
    "RuleText",
    "Source",
    "load_paper",
    "paper_names",
    "parse_paper",
]
