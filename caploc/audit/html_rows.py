"""The table of cells: one body a cell, its numbers in one row and its reason, which unfolds, in the next.

The rows are plain HTML in the order of collection; ``report.js`` sorts and filters them. A cell that sorts otherwise
than by its text carries ``data-sort``, empty where there is no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caploc.audit.html_details import details
from caploc.audit.html_parts import MOVED_BADGE, UNKNOWN, badge, holm_note, scroll, status_word
from caploc.audit.results import Result, Status, Tally
from caploc.audit.text import duration, escaped, number, p_value, unit_sign
from caploc.audit.views import Log
from caploc.papers import Paper

COLUMNS = {
    "Claim": "text",
    "Cell": "text",
    "Verdict": "number",
    "Estimate [interval]": "number",
    "Chance": "number",
    "p": "number",
    "p, Holm": "number",
    "Published": "number",
    "n": "number",
    "Draws": "number",
    "Time": "number",
}
"""The headings and how their columns are sorted; a verdict's number is its place among the verdicts."""

LEGEND = (
    "One cell is one claim with one model, dataset and sigma. p is the p value that decides it; the next column is p "
    "after Holm's correction over all tests of its family with that model. The sentence below a cell unfolds to all "
    "that was measured."
)
RANK = {status: str(place) for place, status in enumerate(Status)}
_LONGEST_REASON = 260


def table_of_cells(paper: Paper, results: Sequence[Result], logs: Mapping[str, Log]) -> str:
    """The table with its filter, which stays hidden until the script is there to run it."""
    head = "".join(f'<th scope="col" data-type="{kind}">{name}</th>' for name, kind in COLUMNS.items())
    bodies = "\n".join(
        _body(result, paper, logs.get(result.planned.nodeid, Log()), place)
        for place, result in enumerate(results)
    )
    table = f'<table class="audit" id="audit-cells"><thead><tr>{head}</tr></thead>\n{bodies}</table>'
    return f'<h2 id="cells">Cells</h2><p>{LEGEND}</p>{_filter(results)}{scroll(table)}'


def _filter(results: Sequence[Result]) -> str:
    counts = Tally.of(results).by_status
    present = [status for status in Status if counts[status] or any(r.status is status for r in results)]
    boxes = "".join(
        f'<label><input type="checkbox" checked value="{_kind(status)}"> {status_word(status).lower()}</label>'
        for status in present
    )
    return (
        '<form id="audit-filter" hidden><label>Show cells with <input type="search" '
        'placeholder="words, such as gsm8k moved"></label>'
        f'<fieldset><legend>and verdict</legend>{boxes}</fieldset><output aria-live="polite"></output></form>'
    )


def _kind(status: Status) -> str:
    return status.value.lower().replace(" ", "-")


def _body(result: Result, paper: Paper, log: Log, place: int) -> str:
    finding: Mapping[str, Any] = result.finding or {}
    claim = paper.claims.get(result.planned.claim)
    unit = finding.get("unit", "fraction")
    name = escaped(result.planned.claim)
    variant = result.planned.cell.variant
    mark = f'<div class="audit-note">other reading: {escaped(variant, 120)}</div>' if variant else ""
    estimate, chance, published = finding.get("estimate"), finding.get("chance"), finding.get("published")
    printed_unit = next((cell.unit for cell in claim.cells), "") if claim else ""
    cells = (
        f"<bdi>{escaped(result.planned.cell.label, 120)}</bdi>{mark}",
        (RANK[result.status], _verdict(result)),
        (_key(estimate), _measured(finding, unit)),
        (_key(chance), "-" if chance is None else number(chance, unit) + unit_sign(unit)),
        (_key(result.p), p_value(result.p)),
        (_key(result.p_holm), p_value(result.p_holm)),
        (_printed_key(published), f"{escaped(published, 40)} {escaped(printed_unit)}" if published else "-"),
        (_key(finding.get("n") or None), f"{finding['n']:,}" if finding.get("n") else "-"),
        (_key(finding.get("draws") or None), f"{finding['draws']:,}" if finding.get("draws") else "-"),
        (_key(log.seconds or None), duration(log.seconds or None)),
    )
    shown = "".join(
        f'<td data-sort="{cell[0]}">{cell[1]}</td>' if isinstance(cell, tuple) else f"<td>{cell}</td>"
        for cell in cells
    )
    # a claim without a card, one that the paper's files lack, is not linked
    heading = f'<a href="#claim-{name}">{name}</a>' if claim else name
    group = escaped(claim.group if claim else UNKNOWN.id)
    reason = escaped(result.moved or result.reason or "-", _LONGEST_REASON)
    return (
        f'<tbody data-place="{place}" data-verdict="{_kind(result.status)}" data-family="{group}">'
        f'<tr><th scope="row">{heading}</th>{shown}</tr>'
        f'<tr><td colspan="{len(COLUMNS)}"><details><summary><bdi>{reason}</bdi></summary>'
        f"{details(result, log)}</details></td></tr></tbody>"
    )


def _verdict(result: Result) -> str:
    shown = badge(result.status)
    if result.moved is not None:
        shown += f" {MOVED_BADGE}"
    elif result.status is Status.REFUTED and result.expected:
        shown += ' <span class="audit-note">as expected here</span>'
    flag = holm_note(result)
    return f'{shown} <span class="audit-note flag">{flag}</span>' if flag else shown


def _measured(finding: Mapping[str, Any], unit: str) -> str:
    if finding.get("estimate") is None:
        return "-"
    shown = number(finding["estimate"], unit)
    if finding.get("interval"):
        low, high = finding["interval"]
        shown += f" [{number(low, unit)}, {number(high, unit)}]"
    return shown + unit_sign(unit)


def _key(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"


def _printed_key(published: str | None) -> str:
    try:
        return _key(float(published)) if published else ""
    except ValueError:  # a range, or words
        return ""
