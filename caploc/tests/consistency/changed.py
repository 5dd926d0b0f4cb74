"""The paper as printed, with some of its digits changed: what a check makes of other numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources

from caploc.consistency import CHECKS
from caploc.findings import PRINTED, Cell, Finding
from caploc.papers import Paper, parse_paper

KEY = "capability_localization"
FILES = {
    f"{KEY}/{file.name}": file.read_text(encoding="utf-8")
    for file in (resources.files("caploc.papers") / KEY).iterdir()
    if file.name.endswith(".toml")
}
TABLES = f"{KEY}/tables.toml"

Change = tuple[str, str]


def finding_of(claim: str, paper: Paper) -> Finding:
    """What the check of a claim finds in a paper."""
    return Finding(claim, Cell(model=PRINTED), CHECKS[claim](paper, paper.claim(claim)))


def violations(claim: str, paper: Paper) -> float | None:
    """How many things do not fit."""
    value = finding_of(claim, paper).measurement.value
    return value.estimate if value else None


def with_tables(*changes: Change) -> Paper:
    """The paper with changes, each ``(old, new)``, in the text of its tables."""
    return parse_paper({**FILES, TABLES: _replaced(FILES[TABLES], changes)})


def with_claim(claim: str, *changes: Change) -> Paper:
    """The paper with changes in the text of one claim's entry."""
    for name, text in FILES.items():
        entries = re.split(r"(?m)^(?=\[\[)", text)
        for index, entry in enumerate(entries):
            if entry.startswith("[[claim]]") and f'\nid = "{claim}"\n' in entry:
                entries[index] = _replaced(entry, changes)
                return parse_paper({**FILES, name: "".join(entries)})
    raise AssertionError(f"there is no claim {claim}")


def _replaced(text: str, changes: Iterable[Change]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
        text = text.replace(old, new)
    return text
