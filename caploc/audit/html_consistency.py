"""The paper against itself: what its printed numbers and equations say of each other, check by check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caploc.audit.html_parts import MOVED_BADGE, badge, scroll
from caploc.audit.results import Result, Status
from caploc.audit.text import escaped, plural
from caploc.findings import PRINTED
from caploc.papers import Paper

GROUP = "L-consistency"
_ORDER = (Status.REFUTED, Status.ERROR, Status.MISSING, Status.INCONCLUSIVE, Status.SUPPORTED, Status.NOT_RUN)
_LONGEST_NOTE = 1200
_MOST_UNFOLDED = 6


def consistency(paper: Paper, results: Sequence[Result]) -> str:
    """A table of checks, contradictions first; empty where the run has none."""
    checks = [r for r in results if r.planned.cell.model == PRINTED and r.planned.claim in paper.claims]
    if not checks:
        return ""
    against = sum(check.status is Status.REFUTED for check in checks)
    rows = "".join(
        _row(check, paper) for check in sorted(checks, key=lambda check: _ORDER.index(check.status))
    )
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("Check", "Verdict", "Violations", "What was found")
    )
    table = f'<table class="audit sentences"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    group = paper.groups[GROUP]
    return (
        f'<h2 id="consistency">{escaped(group.title)}</h2><p>{escaped(group.question)} {plural(len(checks), "check")}, '
        f"for which no model is needed; {against} of them find the paper at odds with itself.</p>{scroll(table)}"
    )


def _row(check: Result, paper: Paper) -> str:
    finding: Mapping[str, Any] = check.finding or {}
    claim = paper.claims[check.planned.claim]
    name = escaped(claim.id)
    moved = f" {MOVED_BADGE}" if check.moved is not None else ""
    return (
        f'<tr><th scope="row"><a href="#claim-{name}">{name}</a>'
        f'<div class="audit-note">{escaped(claim.statement)}</div></th>'
        f"<td>{badge(check.status)}{moved}</td><td>{_violations(finding)}</td><td>{_notes(check, finding)}</td></tr>"
    )


def _notes(check: Result, finding: Mapping[str, Any]) -> str:
    """A sentence a violation, many of them folded, then remarks; a finding gives its notes in that order."""
    notes = [escaped(note, _LONGEST_NOTE) for note in finding.get("notes") or ()] or [escaped(check.reason)]
    if _counts(finding):
        count = int(finding.get("estimate") or 0)
    else:
        count = len(notes) if check.status is Status.REFUTED else 0
    sentences = [f"<p>{note}</p>" for note in notes[:count]]
    remarks = "".join(f'<p class="audit-note">{note}</p>' for note in notes[count:])
    rest = sentences[_MOST_UNFOLDED:]
    folded = f"<details><summary>and {len(rest)} more</summary>{''.join(rest)}</details>" if rest else ""
    return "".join(sentences[:_MOST_UNFOLDED]) + folded + remarks


def _violations(finding: Mapping[str, Any]) -> str:
    """``1 of 27``: how many of the comparisons made contradict each other."""
    if not _counts(finding):
        return "-"
    checked = f" of {finding['n']:,}" if finding.get("n") else ""
    return f"{finding['estimate']:,.0f}{checked}"


def _counts(finding: Mapping[str, Any]) -> bool:
    """Whether the estimate counts violations, as that of the rule ``consistent`` does."""
    return finding.get("unit") == "count" and finding.get("estimate") is not None
