"""Two runs side by side: verdicts that moved, estimates outside the other's interval, settings that differ.

`Comparison` finds what changed, `report` puts it into words, aligned for a terminal.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from caploc.audit.results import Status
from caploc.audit.summary import KIND, SCHEMA
from caploc.audit.text import number, plural, unit_sign, visible
from caploc.errors import CaplocError

Key = tuple[str, str, str]
"""Paper, claim, and the test of a cell or the model of a derived verdict."""
READABLE = (1, SCHEMA)
"""Schemas of summaries: verdicts, estimates, intervals and p values stand at the same place in both."""
_LONGEST = 100
_NUMBERS = ("estimate", "interval", "p")

# what differs between any two runs, or cannot change a number
_OF_THE_PLACE = tuple(f"settings.{name}" for name in ("store", "engine", "ray_address", "gpus", "shard"))
_LEFT_OUT = ("schema", "started", "command", "settings.departures", *_OF_THE_PLACE)
# what a run says of each model and dataset that it audits, and what older ones do not say
_OF_SOME_RUNS = ("fingerprints.", "data.", "settings.device", "settings.dtype", "status", "left_out")


class CompareError(CaplocError):
    """A file that is not an audit's summary; the message names the file and the problem."""


@dataclass(frozen=True)
class Run:
    """A run's JSON summary: ``cells`` and ``derived`` verdicts by `Key`, ``facts`` by name."""

    path: str
    name: str
    cells: Mapping[Key, Mapping[str, Any]]
    derived: Mapping[Key, Mapping[str, Any]]
    facts: Mapping[str, str]


def load_run(path: Path) -> Run:
    """Reads what an audit wrote beside its ledger. Raises `CompareError`."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise CompareError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CompareError(f"{path}: is not JSON: {visible(error, 200)}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise CompareError(f"{path}: is no summary of an audit; give the .json beside a run's ledger")
    if content.get("schema") not in READABLE:
        raise CompareError(
            f"{path}: has schema {visible(content.get('schema'), 40)}, this version reads "
            f"{' and '.join(map(str, READABLE))}; run the audit again"
        )
    provenance = content.get("provenance")
    if not isinstance(provenance, dict):
        raise CompareError(f"{path}: lacks provenance; it is damaged")
    only = ""  # a run of schema 1 had one paper
    if isinstance(paper := provenance.pop("paper", None), dict):
        only = str(paper.get("key"))
        provenance["papers"] = {only: paper.get("digest")}
    return Run(
        str(path),
        str(content.get("run")),
        _by_key(content.get("cells"), "test", only, f"{path}: cells"),
        _by_key(content.get("derived"), "model", only, f"{path}: derived"),
        dict(_facts(provenance)),
    )


@dataclass(frozen=True)
class Comparison:
    """What changed from run ``a`` to run ``b``."""

    a: Run
    b: Run

    @cached_property
    def common(self) -> list[Key]:
        """The cells of both runs, in the order of the second."""
        return [key for key in self.b.cells if key in self.a.cells]

    @cached_property
    def moved(self) -> list[Key]:
        """Cells with another verdict, or whose verdict an error took away; not those that one run could not run."""
        return [key for key in self.common if _moved(self.a.cells[key], self.b.cells[key])]

    @cached_property
    def moved_derived(self) -> list[Key]:
        """Derived verdicts that moved with those that they follow from."""
        both = (key for key in self.b.derived if key in self.a.derived)
        return [key for key in both if _moved(self.a.derived[key], self.b.derived[key])]

    @cached_property
    def left(self) -> list[Key]:
        """Cells with an estimate outside the other run's interval; without an interval, with another estimate."""
        return [key for key in self.common if _left(self.a.cells[key], self.b.cells[key])]

    @cached_property
    def equal(self) -> list[Key]:
        """Cells with the same verdict and, to the last digit, the same estimate, interval and p value."""
        names = ("status", *_NUMBERS)
        return [
            key
            for key in self.common
            if all(self.a.cells[key].get(n) == self.b.cells[key].get(n) for n in names)
        ]

    @cached_property
    def largest_change(self) -> float:
        """The largest relative difference between the runs in any estimate, end of an interval or p value."""
        pairs = (
            pair
            for key in self.common
            for name in _NUMBERS
            for pair in zip(
                _flat(self.a.cells[key].get(name)), _flat(self.b.cells[key].get(name)), strict=False
            )
        )
        return max((abs(x - y) / max(abs(x), abs(y)) for x, y in pairs if x != y), default=0.0)

    @cached_property
    def not_run(self) -> Counter[tuple[str, str]]:
        """How many cells one run measured and the other could not run, by the latter ("A" or "B") and its reason."""
        found: Counter[tuple[str, str]] = Counter()
        for key in self.common:
            ends = {"A": self.a.cells[key], "B": self.b.cells[key]}
            without = [name for name, cell in ends.items() if cell["status"] == Status.NOT_RUN]
            if len(without) == 1:
                found[without[0], str(ends[without[0]].get("reason"))] += 1
        return found

    @cached_property
    def only(self) -> Mapping[str, list[Key]]:
        """Cells that only one run has, under "A" and "B"."""
        return {
            "A": [key for key in self.a.cells if key not in self.b.cells],
            "B": [key for key in self.b.cells if key not in self.a.cells],
        }

    @cached_property
    def facts(self) -> list[tuple[str, str, str]]:
        """Settings, packages, fingerprints, the rules' digest and the commit, where they differ: name, A's, B's.

        What only one run says, such as the fingerprint of a model that the other did not audit, is left out.
        """
        names = [
            name
            for name in dict.fromkeys([*self.a.facts, *self.b.facts])
            if not name.startswith(_OF_SOME_RUNS) or (name in self.a.facts and name in self.b.facts)
        ]
        pairs = ((name, self.a.facts.get(name, "-"), self.b.facts.get(name, "-")) for name in names)
        return [(name, of_a, of_b) for name, of_a, of_b in pairs if of_a != of_b]


def _by_key(entries: Any, last: str, paper: str, place: str) -> dict[Key, Mapping[str, Any]]:
    if not isinstance(entries, list):
        raise CompareError(f"{place}: a list is expected; the file is damaged")
    found: dict[Key, Mapping[str, Any]] = {}
    for count, entry in enumerate(entries, 1):
        names = ("claim", last, "status")
        if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in names):
            raise CompareError(f"{place}: entry {count} lacks {', '.join(names)}; the file is damaged")
        found[str(entry.get("paper", paper)), entry["claim"], entry[last]] = entry
    return found


def _facts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested tables as lines of ``name.name: value``."""
    if name in _LEFT_OUT:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _facts(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        yield name, ", ".join(str(item.get("label") if isinstance(item, dict) else item) for item in value)
    else:
        yield name, "-" if value is None else str(value)


def _moved(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a["status"] != b["status"] and Status.NOT_RUN not in (a["status"], b["status"])


def _left(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    first, second = _number(a.get("estimate")), _number(b.get("estimate"))
    if first is None or second is None:
        return False
    if first == second:
        return False
    ends = [_interval(a), _interval(b)]
    if ends == [None, None]:
        return True
    outside = (
        interval is not None and not interval[0] <= estimate <= interval[1]
        for estimate, interval in zip((second, first), ends, strict=True)
    )
    return any(outside)


def _interval(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    ends = cell.get("interval")
    if not isinstance(ends, list) or len(ends) != 2:
        return None
    low, high = map(_number, ends)
    return None if low is None or high is None else (low, high)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _flat(value: Any) -> list[float]:
    """The numbers of an estimate or an interval; none where there is none."""
    found = map(_number, value if isinstance(value, list) else [value])
    return [item for item in found if item is not None]


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")


def report(comparison: Comparison) -> Iterator[str]:
    """The comparison line by line; a section without entries is left out."""
    a, b = comparison.a, comparison.b
    yield from _table([_run("A", a), _run("B", b)])
    cells = {key: _change(a.cells[key], b.cells[key]) for key in comparison.common}
    follow = {
        key: f"{a.derived[key]['status']} -> {b.derived[key]['status']}" for key in comparison.moved_derived
    }
    yield from _section("verdicts that moved", ((key[-1], cells[key]) for key in comparison.moved))
    yield from _section(
        "derived verdicts that moved",
        ((f"{claim} {model}", text) for (_, claim, model), text in follow.items()),
    )
    # a cell whose verdict moved stands above with both its estimates
    left = [key for key in comparison.left if key not in set(comparison.moved)]
    yield from _section("estimates outside the other run's interval", ((key[-1], cells[key]) for key in left))
    yield from _section(
        "cells that one run could not run",
        (
            (plural(count, "cell"), f"in {name}: {reason}")
            for (name, reason), count in comparison.not_run.items()
        ),
    )
    for name, keys in comparison.only.items():
        yield from _section(
            f"cells only in {name}", ((key[-1], _cell(_of(comparison, name), key)) for key in keys)
        )
    yield from _section(
        "settings and sources that differ", ((n, f"{x} -> {y}") for n, x, y in comparison.facts)
    )
    yield ""
    yield sentence(comparison)


def sentence(comparison: Comparison) -> str:
    """The comparison in one line: how many cells are identical, how many verdicts moved, how far any number did."""
    moved = len(comparison.moved) + len(comparison.moved_derived)
    change = comparison.largest_change
    return (
        f"{plural(len(comparison.common), 'cell')} in both runs, {len(comparison.equal)} of them identical in verdict, "
        f"estimate, interval and p; {plural(moved, 'verdict') if moved else 'no verdict'} moved"
        + (f"; the largest relative change of a number is {change:.2g}" if change else "")
    )


def _run(name: str, run: Run) -> tuple[str, ...]:
    commit = run.facts.get("commit", "-")
    dirty = " (with changes)" if run.facts.get("dirty") == "True" else ""
    return (
        name,
        visible(run.path, 2 * _LONGEST),
        plural(len(run.cells), "cell"),
        f"commit {visible(commit[:12])}{dirty}",
    )


def _of(comparison: Comparison, name: str) -> Run:
    return comparison.a if name == "A" else comparison.b


def _cell(run: Run, key: Key) -> str:
    return f"{run.cells[key]['status']} {_measured(run.cells[key])}"


def _change(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    verdict = a["status"] if a["status"] == b["status"] else f"{a['status']} -> {b['status']}"
    return f"{visible(verdict, _LONGEST)}  {_measured(a)} -> {_measured(b)}"


def _measured(cell: Mapping[str, Any]) -> str:
    unit = str(cell.get("unit"))
    try:
        shown = number(cell.get("estimate"), unit)
        if cell.get("interval"):
            low, high = cell["interval"]
            shown += f" [{number(low, unit)}, {number(high, unit)}]"
    except (TypeError, ValueError):  # a hand-made file may hold anything
        return "?"
    return shown if cell.get("estimate") is None else shown + unit_sign(unit)


def _section(title: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    listed = [[visible(part, 2 * _LONGEST) for part in row] for row in rows]
    if listed:
        yield ""
        yield f"{title} ({len(listed)})"
        yield from (f"  {line}" for line in _table(listed))


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [min(90, max(map(len, column))) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(f"{part:<{width}}" for part, width in zip(row, widths, strict=True)).rstrip()
