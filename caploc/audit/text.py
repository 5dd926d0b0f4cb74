"""Strings from data, models and exceptions made safe to print and to send between processes; numbers as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

LONGEST_SHOWN = 600

# control characters, lone surrogates, noncharacters, and the marks that reorder or hide the text around them
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef\ufeff"
    "\ufff9-\uffff\U000e0000-\U000e007f"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
    + "]"
)


def visible(value: object, limit: int = LONGEST_SHOWN) -> str:
    """``value`` on one line, unsafe characters as escapes, cut to ``limit`` characters, its full length noted."""
    text = str(value)
    cut = text if len(text) <= limit else text[:limit]
    shown = _UNSAFE.sub(lambda match: match.group().encode("unicode_escape").decode(), cut)
    return shown if len(text) <= limit else f"{shown}... ({len(text):,} characters)"


def in_ascii(value: object, limit: int = LONGEST_SHOWN) -> str:
    """``value`` for a terminal of any encoding: on one line, all but ASCII as escapes."""
    return visible(value, limit).encode("ascii", "backslashreplace").decode("ascii")


def visible_lines(text: str, limit: int = LONGEST_SHOWN, most: int = 400) -> str:
    """A traceback or a log with each line made `visible`; of more than ``most`` lines the middle is left out."""
    lines = text.splitlines()
    if len(lines) > most:
        left_out = len(lines) - most
        lines[most // 2 : most // 2 + left_out] = [f"... {plural(left_out, 'line')} left out ..."]
    return "\n".join(visible(line, limit) for line in lines)


FRACTIONS = ("fraction", "share")
"""Units shown in per cent; a share is a fraction that is always small."""


def number(value: float | None, unit: str = "fraction") -> str:
    """A measured number as the report prints it: fractions in per cent with two decimals, as papers do."""
    if value is None or math.isnan(value):
        return "-"
    if unit in FRACTIONS:
        return f"{100 * value:.2f}"
    if unit == "count" and float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def unit_sign(unit: str) -> str:
    """The suffix of a number in this unit: `` %`` for fractions."""
    return " %" if unit in FRACTIONS else ""


def measured(estimate: float, interval: Sequence[float] | None, unit: str = "fraction") -> str:
    """A number with its interval, if it has one: ``47.00 [43.00, 51.00] %``."""
    ends = f" [{', '.join(number(end, unit) for end in interval)}]" if interval else ""
    return number(estimate, unit) + ends + unit_sign(unit)


def p_value(value: float | None) -> str:
    """A p value with two significant digits, ``-`` where there is none."""
    return "-" if value is None else f"{value:.2g}"


def duration(seconds: float | None) -> str:
    """How long something took: ``31 ms``, ``2.4 s``, ``3 min 10 s``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {seconds % 60:.0f} s"


def plural(count: int, noun: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table_row(values: Iterable[str], widths: Iterable[int]) -> str:
    """A line of a table: the first column to the left, all others to the right."""
    first, *others = zip(values, widths, strict=True)
    return f"{first[0]:<{first[1]}}" + " ".join(f"{value:>{width}}" for value, width in others)
