"""Tables of measurements: read by people as text, by programs as JSON."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from caploc.errors import CaplocError

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return brief(self.median)
        return f"{brief(self.median)} [{brief(self.low)}..{brief(self.high)}]"


_WRAP = textwrap.TextWrapper(
    width=118, initial_indent="  * ", subsequent_indent="    ", break_on_hyphens=False
)

Value = str | int | float | Spread | None


@dataclass
class Table:
    """One question and its measured answer.

    Attributes:
        key: the question's short name, in JSON and in ``--only``.
        title: the question.
        rows: values by the heading of their column; a missing one, or None, shows as ``-``.
        notes: what a reader must know to trust the numbers, a sentence each.
    """

    key: str
    title: str
    rows: list[dict[str, Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The headings, in the order in which rows have them."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def made(self, name: str, make: Callable[[], T]) -> T | None:
        """What ``make()`` returns or, where that is refused, None and a note that ``name`` is not measured and why."""
        try:
            return make()
        except CaplocError as error:
            self.notes.append(f"{name} not measured: {error}")
            return None

    def text(self) -> str:
        """For a terminal: title, aligned columns (numbers to the right), notes."""
        columns = self.columns
        lines = [columns, *([_shown(row.get(name)) for name in columns] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        left = [all(isinstance(row.get(name), str | None) for row in self.rows) for name in columns]

        def joined(line: list[str]) -> str:
            padded = zip(line, widths, left, strict=True)
            return "  ".join(
                cell.ljust(width) if to_left else cell.rjust(width) for cell, width, to_left in padded
            ).rstrip()

        rule = "  ".join("-" * width for width in widths)
        body = [joined(lines[0]), rule, *map(joined, lines[1:])]
        indented = [f"  {line}" for line in body] if self.rows else []
        return "\n".join([self.title, "", *indented, *map(_WRAP.fill, self.notes)])

    def as_json(self) -> dict[str, Any]:
        """Plain containers and numbers; what is not a number is null."""
        rows = [{name: _plain(row.get(name)) for name in self.columns} for row in self.rows]
        return {"key": self.key, "title": self.title, "rows": rows, "notes": self.notes}


def at_least(measured: Spread | None, asked: float | None) -> dict[str, Value]:
    """The columns ``asked`` and ``met`` of a promise that ``measured``'s median be no less than ``asked``."""
    if measured is None or asked is None:
        return {"asked": None, "met": None}
    return {"asked": f">= {asked:g}", "met": "yes" if measured.median >= asked else "NO"}


def at_most(measured: Spread | None, asked: float | None) -> dict[str, Value]:
    """The same, no more than ``asked``."""
    if measured is None or asked is None:
        return {"asked": None, "met": None}
    return {"asked": f"<= {asked:g}", "met": "yes" if measured.median <= asked else "NO"}


def brief(value: float) -> str:
    """Three significant digits, or all that stand before the point: ``1.2e-07``, ``0.00123``, ``1.53``, ``1,280``."""
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def _shown(value: Value) -> str:
    if value is None:
        return "-"
    return brief(value) if isinstance(value, int | float) else str(value)


def _plain(value: Value) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
