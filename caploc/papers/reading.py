"""Reads and checks a paper: the TOML files of its folder, taken together as one."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as entry

from caploc.errors import UnknownNameError
from caploc.papers.model import (
    FORBID,
    Ambiguity,
    Amount,
    Claim,
    Control,
    Definition,
    Digits,
    Group,
    Paper,
    PaperError,
    PrintedCell,
    Standing,
    Text,
)
from caploc.rules import RULES, Rule
from caploc.rules.base import Level, NonNegative
from caploc.rules.levels import Consistent

_HEAD = "paper.toml"
_LISTS = ("group", "claim", "ambiguity", "definition", "control", "block")
_TABLES = ("paper", "documents", "margins")
_COORDINATES = {field.name for field in fields(PrintedCell)} - {"id", "printed", "unit", "change"}
_Entry = TypeVar("_Entry")


def paper_names() -> list[str]:
    """The names of the papers that come with caploc: the folders beside this file."""
    folder = resources.files("caploc.papers")
    return sorted(one.name for one in folder.iterdir() if one.joinpath(_HEAD).is_file())


@cache
def load_paper(name: str) -> Paper:
    """The paper of this name, such as ``capability_localization``, or of this folder's path, checked entry by entry.

    Raises:
        UnknownNameError: there is no such paper.
        PaperError: a file is wrong.
    """
    known = name in paper_names()
    folder = resources.files("caploc.papers").joinpath(name) if known else Path(name).absolute()
    if not folder.joinpath(_HEAD).is_file():
        raise UnknownNameError(
            f"unknown paper {name!r}; there is {', '.join(paper_names())}, or give the path of a folder with a {_HEAD}"
        )
    files = sorted((one for one in folder.iterdir() if one.name.endswith(".toml")), key=lambda one: one.name)
    paper = parse_paper({f"{folder.name}/{one.name}": _text(one, folder.name) for one in files})
    if paper.key != folder.name:
        raise PaperError(
            f"{folder.name}/{_HEAD} [paper]: the key {paper.key!r} is not the folder's name; give both one name"
        )
    return paper


def _text(file: Traversable, folder: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PaperError(f"{folder}/{file.name}: cannot be read as UTF-8 text: {error}") from error


@entry(frozen=True, config=FORBID)
class _Head:
    key: Text
    title: Text
    reference: Text
    level: Level


@entry(frozen=True, config=FORBID)
class _Block:
    """A printed table's rows for one model, or one model at one sigma.

    ``id`` begins the ids of its cells, which go on with the row's coordinates and the column. A row's name holds the
    coordinates that ``rows_are`` names, all but the first one word each: ``all but located 10`` is a method and an
    epoch.
    """

    id: Text
    table: Text
    model: Text
    unit: Text
    rows_are: Annotated[tuple[Literal["quantity", "method", "epoch"], ...], Field(min_length=1)]
    columns: tuple[Text, ...]
    rows: Mapping[str, tuple[Digits, ...]]
    changes: Mapping[str, tuple[Digits, ...]] = Field(default_factory=dict)
    quantity: Text | None = None
    sigma: NonNegative | None = None
    sigma_in: Mapping[str, NonNegative] = Field(default_factory=dict)
    second_in: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class _Listed:
    """An entry of a list such as ``[[claim]]``, and where it stands."""

    place: str
    content: Mapping[str, Any]


def parse_paper(files: Mapping[str, str]) -> Paper:
    """The paper that TOML texts, by file name, describe together. Raises `PaperError`."""
    content, entries = _merged(files)
    place = next(iter(files)).partition("/")[0]
    head = _read(_Head, content["paper"], f"{place} [paper]")
    documents = _read(dict[str, Text], content["documents"], f"{place} [documents]")
    margins = _read(dict[str, Amount], content.get("margins", {}), f"{place} [margins]")
    groups = {name: _read(Group, one.content, one.place) for name, one in entries["group"].items()}
    ambiguities = {
        name: _read(Ambiguity, one.content, one.place) for name, one in entries["ambiguity"].items()
    }
    controls = {name: _read(Control, one.content, one.place) for name, one in entries["control"].items()}
    cells = _cells(entries["block"].values(), documents)
    rules = _rules(entries["claim"])
    claims = {}
    for name, one in entries["claim"].items():
        claims[name] = claim = _claim(one, rules[name], cells, groups, margins, head.level)
        _known([source.document for source in claim.sources], documents, "document", f"{one.place} sources")
        _known([number.document for number in claim.numbers], documents, "document", f"{one.place} numbers")
        _known(claim.controls, controls, "control", one.place)
        _known(claim.ambiguities, ambiguities, "ambiguity", one.place)
        _known([claim.repeats] if claim.repeats else [], entries["claim"], "claim", f"{one.place} repeats")
    order = list(groups)
    for name, control in controls.items():
        _known(control.guards, claims, "claim", entries["control"][name].place)
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Paper(
        key=head.key,
        title=head.title,
        reference=head.reference,
        documents=documents,
        groups=groups,
        claims=dict(sorted(claims.items(), key=lambda item: order.index(item[1].group))),
        ambiguities=ambiguities,
        definitions={
            name: _read(Definition, one.content, one.place) for name, one in entries["definition"].items()
        },
        controls=controls,
        cells=cells,
        margins=margins,
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def _merged(files: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, dict[str, _Listed]]]:
    """All files as one content, and the entries of its lists by id, which each occur once."""
    content: dict[str, Any] = {name: [] for name in _LISTS}
    entries: dict[str, dict[str, _Listed]] = {name: {} for name in _LISTS}
    for source, toml in files.items():
        try:
            part = tomllib.loads(toml)
        except tomllib.TOMLDecodeError as error:
            raise PaperError(f"{source}: not valid TOML: {error}") from error
        for name, value in part.items():
            if name not in (*_LISTS, *_TABLES):
                raise PaperError(
                    f"{source}: unknown field {name!r}; known are {', '.join([*_LISTS, *_TABLES])}"
                )
            if name in _TABLES:
                if name in content:
                    raise PaperError(f"{source}: [{name}] stands in another file already")
                content[name] = value
                continue
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                raise PaperError(f"{source}: write {name} as [[{name}]], one for each")
            content[name] += value
            for number, one in enumerate(value, start=1):
                if name == "block":  # its id begins those of cells, and several blocks may share it
                    here = f"{source} block number {number}"
                    entries[name][here] = _Listed(here, one)
                    continue
                key = str(one.get("id"))
                if key in entries[name]:
                    raise PaperError(f"{source} {name}: the id {key!r} occurs twice")
                entries[name][key] = _Listed(f"{source} {name} {key!r}", one)
    for name in ("paper", "documents"):
        if name not in content:
            raise PaperError(f"{', '.join(files)}: no file has the table [{name}]")
    return content, entries


def _rules(entries: Mapping[str, _Listed]) -> dict[str, Rule]:
    """The claims' rules by claim, each with what it takes from other claims."""
    rules = {}
    for name, one in entries.items():
        content = dict(_read(dict[str, Any], one.content.get("rule", {}), f"{one.place} rule"))
        kind = str(content.pop("kind", None))
        if kind not in RULES:
            raise PaperError(f"{one.place} rule: unknown kind {kind!r}; there is {', '.join(RULES)}")
        rules[name] = _read(RULES[kind], content, f"{one.place} rule")
    for name, rule in rules.items():
        try:
            rules[name] = rule.resolved(rules)
        except ValueError as error:
            raise PaperError(f"{entries[name].place} rule {error}") from error
    return rules


def _claim(
    one: _Listed,
    rule: Rule,
    cells: tuple[PrintedCell, ...],
    groups: Mapping[str, Group],
    margins: Mapping[str, Amount],
    level: float,
) -> Claim:
    """A claim with what its entry leaves to the paper and to its group."""
    content = one.content
    _known([str(content.get("group"))], groups, "group", one.place)
    taken: dict[str, Any] = {"rule": rule, "margins": {**margins, **content.get("margins", {})}}
    if "cells" in content:
        taken["cells"] = _chosen(content["cells"], cells, f"{one.place} cells")
    group = groups[content["group"]]
    given = {"printed_for": group.printed_for, "sigmas": group.sigmas, "standing": _standing(content, rule)}
    return _read(Claim, {"level": level, **given, **content, **taken}, one.place)


def _standing(content: Mapping[str, Any], rule: Rule) -> Standing:
    """What a claim's cells count as, where its entry does not say."""
    documents = {source.get("document") for source in content.get("sources", ()) if isinstance(source, dict)}
    if content.get("repeats"):
        return "repeats"
    if rule.claims:
        return "derived"
    if isinstance(rule, Consistent):
        return "print"
    return "control" if documents == {"caploc"} else "summary" if documents == {"summary"} else "empirical"


def _chosen(wanted: Any, cells: Iterable[PrintedCell], place: str) -> tuple[PrintedCell, ...]:
    """``wanted`` names coordinates, such as ``{ table = "table1", quantity = "iou" }``."""
    wanted = _read(dict[str, Any], wanted, place)
    for name in wanted:
        if name not in _COORDINATES:
            raise PaperError(
                f"{place}: unknown coordinate {name!r}; there is {', '.join(sorted(_COORDINATES))}"
            )
    found = tuple(cell for cell in cells if cell.matches(wanted))
    if "table" not in wanted or not found:
        raise PaperError(f"{place}: no printed cell has {dict(wanted)}; name a table and its coordinates")
    return found


def _cells(blocks: Iterable[_Listed], documents: Mapping[str, str]) -> tuple[PrintedCell, ...]:
    """The cells of all blocks, in order; no id occurs twice."""
    found: dict[str, PrintedCell] = {}
    for one in blocks:
        block = _read(_Block, one.content, one.place)
        _known([*block.sigma_in, *block.second_in], documents, "document", one.place)
        for cell in _of_block(block, one.place):
            if cell.id in found:
                raise PaperError(f"{one.place}: the cell {cell.id} occurs twice")
            found[cell.id] = cell
    return tuple(found.values())


def _of_block(block: _Block, place: str) -> Iterator[PrintedCell]:
    for row, values in [*block.rows.items(), *block.changes.items()]:
        if len(values) != len(block.columns):
            raise PaperError(f"{place} row {row!r}: {len(block.columns)} numbers are expected, one a column")
    _known(block.changes, block.rows, "row", f"{place} changes")
    for row, values in block.rows.items():
        words = row.rsplit(maxsplit=len(block.rows_are) - 1)
        if len(words) != len(block.rows_are):
            raise PaperError(f"{place} row {row!r}: must name {' and '.join(block.rows_are)}")
        coordinates: dict[str, str] = dict(zip(block.rows_are, words, strict=True))
        start = "/".join([block.id, *(word.replace(" ", "-") for word in words)])
        for column, value in enumerate(values):
            dataset = block.columns[column]
            cell: dict[str, Any] = {
                "id": f"{start}/{dataset}",
                "table": block.table,
                "printed": value,
                "unit": block.unit,
                "model": block.model,
                "dataset": dataset,
                "quantity": block.quantity,
                "sigma": block.sigma,
                "change": block.changes[row][column] if row in block.changes else None,
                "sigma_in": block.sigma_in,
                "second_in": [
                    name for name, marked in block.second_in.items() if f"{row}:{dataset}" in marked
                ],
                **coordinates,
            }
            yield _read(PrintedCell, cell, f"{place} row {row!r}")
    marks = {f"{row}:{column}" for row in block.rows for column in block.columns}
    for document, marked in block.second_in.items():
        _known(marked, marks, "cell", f"{place} second_in {document}")


def _known(names: Iterable[Any], entries: Iterable[str], what: str, place: str) -> None:
    """Every name must be an entry of the paper."""
    for name in names:
        if name not in entries:
            raise PaperError(f"{place}: there is no {what} {name!r}")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _read(kind: type[_Entry], content: Any, place: str) -> _Entry:
    """``content`` as an entry of this kind. Raises `PaperError`, which names the first field that is wrong."""
    try:
        return _adapter(cast(Hashable, kind)).validate_python(content)
    except ValidationError as error:
        raise PaperError(_first_fault(error, place)) from error


def _first_fault(error: ValidationError, place: str) -> str:
    fault = error.errors(include_url=False)[0]
    names = [str(name) for name in fault["loc"] if not isinstance(name, int)]
    where = " ".join([place, *names[:-1]])
    if not names:
        return f"{place}: {_said(fault)}"
    if fault["type"] == "missing":
        return f"{where}: the field {names[-1]!r} is missing"
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: unknown field {names[-1]!r}: leave it out, or correct its name"
    return f"{where}: the field {names[-1]!r} {_said(fault)}"


def _said(fault: Any) -> str:
    """Pydantic's message, or that of our own check, as the end of a sentence."""
    message = str(fault["ctx"]["error"]) if fault["type"] == "value_error" else fault["msg"]
    message = message.replace("Input should", "should")
    return f"{message}, not {fault['input']!r}" if len(repr(fault["input"])) < 80 else message
