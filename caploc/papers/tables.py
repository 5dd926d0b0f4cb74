"""Reads the printed tables of a paper: blocks of rows and columns become cells with coordinates and an id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from caploc.papers.fields import check_keys, number, printed, strings, text
from caploc.papers.model import PaperError
from caploc.papers.printed import PrintedCell

_REQUIRED = {"table", "model", "unit", "rows_are", "columns", "rows"}
_OPTIONAL = {"sigma", "poster_sigma", "quantity", "second_in_paper", "second_in_poster", "changes"}
_ROW_COORDINATES = ("quantity", "method", "epoch")


def printed_cells(blocks: list[Mapping[str, Any]], place: str) -> tuple[PrintedCell, ...]:
    """The cells of all blocks, in order. Raises `PaperError` for a wrong block and for an id that occurs twice."""
    cells = [
        cell for index, block in enumerate(blocks) for cell in _block(block, f"{place} number {index + 1}")
    ]
    seen: set[str] = set()
    for cell in cells:
        if cell.id in seen:
            raise PaperError(f"{place}: the cell {cell.id} occurs twice")
        seen.add(cell.id)
    return tuple(cells)


def _block(block: Mapping[str, Any], place: str) -> Iterator[PrintedCell]:
    check_keys(block, _REQUIRED, _OPTIONAL, place)
    names = strings(block["rows_are"], f"{place} rows_are")
    if not set(names) <= set(_ROW_COORDINATES):
        raise PaperError(f"{place} rows_are: choose among {', '.join(_ROW_COORDINATES)}")
    columns = strings(block["columns"], f"{place} columns")
    common = {name: text(block, name, place) for name in ("table", "model", "unit")}
    sigmas = {
        name: number(block[name], f"{place} {name}", low=0)
        for name in ("sigma", "poster_sigma")
        if name in block
    }
    rows = {row: _row(block["rows"], row, columns, place) for row in block["rows"]}
    changes = {row: _row(block["changes"], row, columns, place) for row in block.get("changes", {})}
    marked = {
        document: strings(block.get(f"second_in_{document}", []), f"{place} second_in_{document}")
        for document in ("paper", "poster")
    }
    cells = {f"{row}:{column}" for row in rows for column in columns}
    for document, marks in marked.items():
        for unknown in set(marks) - cells:
            raise PaperError(f"{place} second_in_{document}: there is no cell {unknown!r}")
    for row, values in rows.items():
        coordinates = _coordinates(row, names, block, place)
        where = [common["table"], common["model"]]
        where += [f"sigma{block['sigma']}"] if common["table"] != "table1" and "sigma" in block else []
        where += row.replace("all but located", "all-but-located").split()
        for column, value in enumerate(values):
            dataset = columns[column]
            yield PrintedCell(
                id="/".join([*where, dataset]),
                table=common["table"],
                printed=value,
                unit=common["unit"],
                model=common["model"],
                dataset=dataset,
                quantity=coordinates["quantity"],
                sigma=sigmas.get("sigma"),
                method=coordinates.get("method"),
                epoch=coordinates.get("epoch"),
                change=changes[row][column] if row in changes else None,
                poster_sigma=sigmas.get("poster_sigma"),
                second_in=tuple(name for name in marked if f"{row}:{dataset}" in marked[name]),
            )


def _row(rows: Mapping[str, Any], row: str, columns: tuple[str, ...], place: str) -> list[str]:
    values = rows[row]
    if not isinstance(values, list) or len(values) != len(columns):
        raise PaperError(f"{place} row {row!r}: {len(columns)} numbers are expected, one a column")
    return [printed(value, f"{place} row {row!r}") for value in values]


def _coordinates(row: str, names: tuple[str, ...], block: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A row's name taken apart, last word first: ``all but located 10`` is a method and an epoch."""
    words = row.split()
    found: dict[str, Any] = {"quantity": text(block, "quantity", place)} if "quantity" in block else {}
    if "epoch" in names:
        if not words[-1].isdigit():
            raise PaperError(f"{place} row {row!r}: must end in the number of epochs")
        found["epoch"] = int(words.pop())
    for name in names:
        if name != "epoch":
            found[name] = " ".join(words)
    return found
