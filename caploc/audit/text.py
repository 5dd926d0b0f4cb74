"""Strings from data, models and exceptions, made safe to print, to send between processes and to show."""

from __future__ import annotations

import html
import re

LONGEST_SHOWN = 600

# control characters, lone surrogates, and the marks that reorder or hide the text around them
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff\ufff9-\uffff]"
)


def visible(value: object, limit: int = LONGEST_SHOWN) -> str:
    """``value`` on one line, unsafe characters as escapes, cut to ``limit`` characters with its length told."""
    text = str(value)
    cut = text if len(text) <= limit else text[:limit]
    shown = _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), cut)
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def escaped(value: object, limit: int = LONGEST_SHOWN) -> str:
    """``value`` as HTML text or attribute value, on one line."""
    return html.escape(visible(value, limit), quote=True)


FRACTIONS = ("fraction", "share")
"""Units shown in per cent; a share is a fraction that is small by nature."""


def number(value: float | None, unit: str = "fraction") -> str:
    """A measured number as the report prints it: fractions in per cent with two decimals, as papers do."""
    if value is None:
        return "-"
    if unit in FRACTIONS:
        return f"{100 * value:.2f}"
    if unit == "count" and float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def unit_sign(unit: str) -> str:
    """What stands behind a number of this unit: `` %`` for fractions."""
    return " %" if unit in FRACTIONS else ""


def plural(count: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
