"""A comparison of two runs in words, aligned for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from caploc.audit.compare import Comparison, Key, Run
from caploc.audit.text import number, plural, unit_sign, visible

_LONGEST = 100


def report(comparison: Comparison) -> Iterator[str]:
    """The comparison line by line; a section without entries is left out."""
    a, b = comparison.a, comparison.b
    yield from _table([_run("A", a), _run("B", b)])
    cells = {key: _change(a.cells[key], b.cells[key]) for key in comparison.common}
    follow = {
        key: f"{a.derived[key]['status']} -> {b.derived[key]['status']}" for key in comparison.moved_derived
    }
    yield from _section("verdicts that moved", ((key[1], cells[key]) for key in comparison.moved))
    yield from _section(
        "verdicts that follow from others and moved",
        ((f"{key[0]} {key[1]}", text) for key, text in follow.items()),
    )
    # a cell whose verdict moved stands above with both its estimates
    left = [key for key in comparison.left if key not in set(comparison.moved)]
    yield from _section("estimates outside the other run's interval", ((key[1], cells[key]) for key in left))
    yield from _section(
        "cells that one run could not run",
        (
            (plural(count, "cell"), f"in {name}: {reason}")
            for (name, reason), count in comparison.not_run.items()
        ),
    )
    for name, keys in comparison.only.items():
        yield from _section(
            f"cells in {name} alone", ((key[1], _cell(_of(comparison, name), key)) for key in keys)
        )
    yield from _section(
        "settings and sources that differ", ((n, f"{x} -> {y}") for n, x, y in comparison.facts)
    )
    yield ""
    yield sentence(comparison)


def sentence(comparison: Comparison) -> str:
    """The comparison in one line: ``110 cells in both runs, 108 of them equal; no verdict moved``."""
    moved = len(comparison.moved) + len(comparison.moved_derived)
    end = f"{plural(moved, 'verdict')} moved" if moved else "no verdict moved"
    return (
        f"{plural(len(comparison.common), 'cell')} in both runs, {len(comparison.equal)} of them equal in verdict and "
        f"estimate; {end}"
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
