"""What unfolds under a cell: its reason in full, what was expected, and every number and setting of its finding."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caploc.audit.results import Result, Status
from caploc.audit.text import duration, p_value, plural, visible, visible_lines
from caploc.audit.views import Log

_LONGEST_REASON = 2000
_LONGEST_VALUE = 300
_MOST_ENTRIES = 60
_MOST_ITEMS = 60


def details(result: Result, log: Log) -> str:
    """The HTML of what unfolds. A number cut for its place in the table stands here with more digits."""
    finding: Mapping[str, Any] = result.finding or {}
    facts = [
        ("verdict", f"{result.status.value}: {visible(result.reason, _LONGEST_REASON)}"),
        ("moved", visible(result.moved) if result.moved else ""),
        ("expected because", visible(result.why) if result.why else ""),
        ("printed number", visible(result.agreement) if result.agreement else ""),
        ("quantity", _quantity(finding)),
        ("interval", visible(finding.get("interval_kind") or "")),
        ("effect size", _value(finding["effect_size"]) if finding.get("effect_size") is not None else ""),
        ("p value", _decisive(result)),
        ("test", visible(result.planned.nodeid, _LONGEST_VALUE)),
        ("time", duration(log.seconds) if log.seconds else ""),
    ]
    shown = "".join(f"<dt>{name}</dt><dd><bdi>{html.escape(text)}</bdi></dd>" for name, text in facts if text)
    notes = "".join(
        f"<li><bdi>{html.escape(visible(note))}</bdi></li>" for note in finding.get("notes") or ()
    )
    numbers = html.escape(_numbers(finding))
    parts = [
        f"<dl>{shown}</dl>",
        f"<ul>{notes}</ul>" if notes else "",
        f"<pre>{numbers}</pre>" if numbers else "",
    ]
    if result.status is Status.ERROR and log.trace:
        parts.append(f"<pre>{html.escape(visible_lines(log.trace))}</pre>")
    return f'<div class="more">{"".join(parts)}</div>'


def _quantity(finding: Mapping[str, Any]) -> str:
    if not finding.get("quantity"):
        return ""
    return f"{visible(finding['quantity'])} ({visible(finding.get('unit', ''))})"


def _decisive(result: Result) -> str:
    if result.p is None:
        return ""
    return (
        f"{p_value(result.p)}; over the {plural(result.tests, 'test')} of its family {p_value(result.p_holm)} (Holm), "
        f"{p_value(result.p_by)} (Benjamini-Yekutieli)"
    )


def _numbers(finding: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for title in ("p_values", "quantities", "controls", "settings"):
        entries = list((finding.get(title) or {}).items())
        if entries:
            lines.append(title.replace("_", " "))
        lines += [f"  {visible(key, 120)}: {_value(value)}" for key, value in entries[:_MOST_ENTRIES]]
        if len(entries) > _MOST_ENTRIES:
            lines.append(f"  and {len(entries) - _MOST_ENTRIES} more, in the ledger")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        return visible(", ".join(f"{item:.3g}" for item in value[:_MOST_ITEMS]), _LONGEST_VALUE)
    return visible(value, _LONGEST_VALUE)
