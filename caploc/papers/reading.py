"""Reads and checks a paper: the TOML files of its folder, taken together as one."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from caploc.errors import UnknownNameError
from caploc.papers.claims import read_claim
from caploc.papers.fields import by_id, check_keys, known, number, strings, text, texts
from caploc.papers.model import Ambiguity, Control, Definition, Group, Paper, PaperError
from caploc.papers.tables import printed_cells

_LISTS = ("group", "claim", "ambiguity", "definition", "control", "block")
_TABLES = ("paper", "documents")


@cache
def load_paper(key: str) -> Paper:
    """The paper of this key, such as ``capability_localization``, checked entry by entry.

    Raises `UnknownNameError` for an unknown key and `PaperError` for a file that is wrong.
    """
    folder = resources.files("caploc.papers")
    keys = sorted(entry.name for entry in folder.iterdir() if entry.joinpath("paper.toml").is_file())
    if key not in keys:
        raise UnknownNameError(f"unknown paper {key!r}; there is {', '.join(keys)}")
    files = sorted(
        (file for file in (folder / key).iterdir() if file.name.endswith(".toml")), key=lambda f: f.name
    )
    return parse_paper({f"{key}/{file.name}": file.read_text(encoding="utf-8") for file in files})


def parse_paper(files: Mapping[str, str]) -> Paper:
    """The paper that TOML texts, by file name, describe together. Raises `PaperError`."""
    content, origin = _merged(files)
    place = next(iter(files)).partition("/")[0]
    head = content["paper"]
    check_keys(head, {"key", "title", "reference", "level"}, set(), f"{place} [paper]")
    level = number(head["level"], f"{place} [paper] level", low=0, high=1)
    documents = {
        name: text(content["documents"], name, f"{place} [documents]") for name in content["documents"]
    }
    groups = {
        name: Group(**texts(entry, ("id", "title", "question"), f"{origin[id(entry)]} group {name!r}"))
        for name, entry in by_id(content["group"], f"{place} group").items()
    }
    ambiguities = {
        name: _ambiguity(entry, f"{origin[id(entry)]} ambiguity {name!r}")
        for name, entry in by_id(content["ambiguity"], f"{place} ambiguity").items()
    }
    cells = printed_cells(content["block"], f"{place} block")
    raw = by_id(content["claim"], f"{place} claim")
    order = list(groups)
    claims = {
        name: read_claim(entry, raw, cells, level, documents, groups, f"{origin[id(entry)]} claim {name!r}")
        for name, entry in raw.items()
    }
    claims = dict(sorted(claims.items(), key=lambda item: order.index(item[1].group)))
    controls = {
        name: _control(entry, f"{origin[id(entry)]} control {name!r}", claims)
        for name, entry in by_id(content["control"], f"{place} control").items()
    }
    for claim in claims.values():
        where = f"{origin[id(raw[claim.id])]} claim {claim.id!r}"
        known(claim.controls, controls, "control", where)
        known(claim.ambiguities, ambiguities, "ambiguity", where)
    names = ("id", "where", "problem", "choice", "check")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Paper(
        **{name: text(head, name, f"{place} [paper]") for name in ("key", "title", "reference")},
        documents=documents,
        groups=groups,
        claims=claims,
        ambiguities=ambiguities,
        definitions={
            name: Definition(**texts(entry, names, f"{origin[id(entry)]} definition {name!r}"))
            for name, entry in by_id(content["definition"], f"{place} definition").items()
        },
        controls=controls,
        cells=cells,
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def _merged(files: Mapping[str, str]) -> tuple[dict[str, Any], dict[int, str]]:
    """All files as one content, and the file that each listed entry stands in."""
    content: dict[str, Any] = {name: [] for name in _LISTS}
    origin: dict[int, str] = {}
    for source, toml in files.items():
        try:
            part = tomllib.loads(toml)
        except tomllib.TOMLDecodeError as error:
            raise PaperError(f"{source}: not valid TOML: {error}") from error
        check_keys(part, set(), {*_LISTS, *_TABLES}, source)
        for name, value in part.items():
            if name in _TABLES:
                if name in content:
                    raise PaperError(f"{source}: [{name}] stands in another file already")
                content[name] = value
            else:
                content[name] += value
                origin |= {id(entry): source for entry in value}
    for name in _TABLES:
        if name not in content:
            raise PaperError(f"{', '.join(files)}: no file has the table [{name}]")
    return content, origin


def _ambiguity(entry: Mapping[str, Any], place: str) -> Ambiguity:
    check_keys(entry, {"id", "question", "default", "alternatives"}, {"setting"}, place)
    return Ambiguity(
        id=entry["id"],
        question=text(entry, "question", place),
        default=text(entry, "default", place),
        alternatives=strings(entry["alternatives"], f"{place} alternatives"),
        setting=text(entry, "setting", place) if "setting" in entry else "",
    )


def _control(entry: Mapping[str, Any], place: str, claims: Mapping[str, Any]) -> Control:
    check_keys(entry, {"id", "why", "guards"}, set(), place)
    guards = known(strings(entry["guards"], f"{place} guards"), claims, "claim", place)
    return Control(id=entry["id"], why=text(entry, "why", place), guards=guards)
