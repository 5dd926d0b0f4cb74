"""Checks of a paper's TOML entries: what is missing, unknown or of the wrong kind is named with its place."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Set
from typing import Any

from caploc.papers.model import PaperError

PRINTED_NUMBER = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?(e-?\d+)?")
_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]*")


def by_id(entries: Any, place: str) -> dict[str, Any]:
    """Entries by their ``id``, each of which occurs once."""
    found: dict[str, Any] = {}
    for index, entry in enumerate(entries):
        name = entry.get("id")
        if not isinstance(name, str) or not _ID.fullmatch(name):
            raise PaperError(f"{place} number {index + 1}: its id {name!r} is not words and hyphens")
        if name in found:
            raise PaperError(f"{place}: the id {name!r} occurs twice")
        found[name] = entry
    return found


def check_keys(entry: Any, required: Set[str], optional: Set[str], place: str) -> None:
    """Refuses an entry that lacks a field or has one that nobody reads."""
    if not isinstance(entry, Mapping):
        raise PaperError(f"{place}: a table is expected")
    for name in sorted(required - entry.keys()):
        raise PaperError(f"{place}: the field {name!r} is missing")
    for name in sorted(entry.keys() - required - optional):
        raise PaperError(
            f"{place}: unknown field {name!r}; known are {', '.join(sorted(required | optional))}"
        )


def text(entry: Mapping[str, Any], name: str, place: str, may_be_empty: bool = False) -> str:
    """A field that is a string."""
    value = entry[name]
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        raise PaperError(f"{place}: the field {name!r} must be a non-empty string")
    return value


def texts(entry: Any, names: tuple[str, ...], place: str) -> dict[str, str]:
    """An entry that has these fields and no others, all of them non-empty strings."""
    check_keys(entry, set(names), set(), place)
    return {name: text(entry, name, place) for name in names}


def strings(value: Any, place: str) -> tuple[str, ...]:
    """A list of non-empty strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise PaperError(f"{place}: a list of non-empty strings is expected")
    return tuple(value)


def known(names: tuple[str, ...], entries: Mapping[str, Any], what: str, place: str) -> tuple[str, ...]:
    """``names``, each of which must be an entry of the paper."""
    for name in names:
        if name not in entries:
            raise PaperError(f"{place}: there is no {what} {name!r}")
    return names


def number(value: Any, place: str, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PaperError(f"{place}: a finite number is expected, not {value!r}")
    if not low <= value <= high:
        raise PaperError(f"{place}: {value!r} is outside [{low:g}, {high:g}]")
    return float(value)


def printed(value: Any, place: str) -> str:
    """A number as it is printed: a string, since a float would lose its trailing zeros."""
    if not isinstance(value, str) or not PRINTED_NUMBER.fullmatch(value):
        raise PaperError(f"{place} is {value!r}; write the digits as printed, as a string")
    return value
