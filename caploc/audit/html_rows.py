"""The report's table: one row a claim cell, and what unfolds under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caploc.audit.results import Result, Status
from caploc.audit.text import escaped, number, unit_sign, visible
from caploc.papers import Paper

SIGNS = {
    Status.SUPPORTED: "&#10003;",
    Status.REFUTED: "&#10007;",
    Status.INCONCLUSIVE: "?",
    Status.NOT_RUN: "&#8211;",
    Status.ERROR: "!",
    Status.MISSING: "&#8709;",
}
COLUMNS = (
    ("result", "pytest"),
    ("claim", "Claim"),
    ("cell", "Cell"),
    ("paper", "Paper"),
    ("measured", "Measured [interval]"),
    ("chance", "Chance"),
    ("p", "p"),
    ("n", "n"),
    ("verdict", "Verdict"),
    ("reason", "Why"),
    ("duration", "Time"),
)
_SORTABLE = ("result", "claim", "cell", "verdict", "measured", "duration")
_LONGEST_REASON = 220
_MOST_DETAILS = 60


def header_cells() -> list[str]:
    """The header row's cells, for pytest-html."""
    return [
        f'<th class="sortable" data-column-type="{name}">{title}</th>'
        if name in _SORTABLE
        else f"<th>{title}</th>"
        for name, title in COLUMNS
    ]


def badge(status: Status, text: str | None = None) -> str:
    """A verdict as a coloured word with its sign; ``text`` is HTML and stands in the word's place."""
    kind = status.value.lower().replace(" ", "-")
    return f'<span class="verdict v-{kind}">{SIGNS[status]} {text or status_word(status)}</span>'


def status_word(status: Status) -> str:
    """The word shown: an error is named as ours, so that no one takes it for evidence."""
    return "ERROR (ours)" if status is Status.ERROR else status.value


def row_cells(nodeid: str, result: Result | None, paper: Paper, outcome: str, duration: str) -> list[str]:
    """The cells of one row. ``outcome`` and ``duration`` are pytest-html's own cells."""
    if result is None:  # a test that decides no claim
        shown = dict.fromkeys((name for name, _ in COLUMNS), "") | {"claim": f"<bdi>{escaped(nodeid)}</bdi>"}
    else:
        shown = _shown(result, paper)
        if result.status is Status.ERROR:
            outcome = '<td class="col-result">Error</td>'
    cells = [f'<td class="col-{name}">{shown[name]}</td>' for name, _ in COLUMNS[1:-1]]
    return [outcome, *cells, duration]


def _shown(result: Result, paper: Paper) -> dict[str, str]:
    finding: Mapping[str, Any] = result.finding or {}
    unit = finding.get("unit", "fraction")
    claim = paper.claims.get(result.planned.claim)
    published = finding.get("published")
    mark = badge(result.status)
    if result.moved is not None:
        mark += ' <span class="verdict v-moved">&#8800; moved</span>'
    elif result.status is Status.REFUTED and result.expected:
        mark += '<div class="audit-note">as expected here</div>'
    return {
        "claim": f'<a href="#claim-{escaped(result.planned.claim)}">{escaped(result.planned.claim)}</a>',
        "cell": f"<bdi>{escaped(result.planned.cell.label, 120)}</bdi>",
        "paper": f"{escaped(published)} {escaped(claim.published_unit if claim else '')}"
        if published
        else "-",
        "measured": _measured(finding, unit),
        "chance": "-" if finding.get("chance") is None else number(finding["chance"], unit) + unit_sign(unit),
        "p": _p_values(finding.get("p_values") or {}),
        "n": f"{finding['n']:,}" if finding.get("n") else "-",
        "verdict": mark,
        "reason": f"<bdi>{escaped(result.moved or result.reason, _LONGEST_REASON)}</bdi>",
    }


def _measured(finding: Mapping[str, Any], unit: str) -> str:
    if finding.get("estimate") is None:
        return "-"
    shown = number(finding["estimate"], unit)
    if finding.get("interval"):
        low, high = finding["interval"]
        shown += f" [{number(low, unit)}, {number(high, unit)}]"
    return shown + unit_sign(unit)


def _p_values(values: Mapping[str, float | None]) -> str:
    known = sorted(value for value in values.values() if value is not None)
    if not known:
        return "-"
    least = f"{known[0]:.2g}"
    return least if len(known) == 1 else f"{least} to {known[-1]:.2g}"


def details(result: Result) -> str:
    """What unfolds under a row, as plain text: reason, expectation, every number and setting of the finding."""
    finding: Mapping[str, Any] = result.finding or {}
    lines = [f"{result.status.value}: {visible(result.reason, 2000)}"]
    lines += [f"moved: {visible(result.moved)}"] if result.moved else []
    lines += [f"expected because: {visible(result.why)}"] if result.why else []
    lines += [f"printed number: {visible(result.agreement)}"] if result.agreement else []
    if finding.get("quantity"):
        lines.append(f"quantity: {visible(finding['quantity'])} ({visible(finding.get('unit', ''))})")
    if finding.get("interval_kind"):
        lines.append(f"interval: {visible(finding['interval_kind'])}")
    for name in ("effect_size", "draws"):
        if finding.get(name):
            lines.append(f"{name.replace('_', ' ')}: {finding[name]}")
    for title in ("p_values", "quantities", "controls", "settings"):
        entries = list((finding.get(title) or {}).items())
        lines += [f"{title.replace('_', ' ')}:"] if entries else []
        lines += [f"    {visible(key, 120)}: {_value(value)}" for key, value in entries[:_MOST_DETAILS]]
        lines += (
            [f"    and {len(entries) - _MOST_DETAILS} more, in the ledger"]
            if len(entries) > _MOST_DETAILS
            else []
        )
    lines += [f"note: {visible(note)}" for note in finding.get("notes") or ()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        return visible(", ".join(f"{item:.3g}" for item in value), 300)
    return visible(value, 300)
