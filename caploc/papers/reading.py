"""Reads and checks a paper's TOML file."""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Set
from functools import cache
from importlib import resources
from typing import Any

from caploc.errors import UnknownNameError
from caploc.papers.model import Claim, Control, Definition, Margin, Paper, PaperError, Rule, RuleText
from caploc.papers.rules import PARAMETERS, REFERENCES

LONGEST_QUOTE_WORDS = 25

_CLAIM_TEXTS = ("id", "group", "statement", "locus", "quote", "quantity", "formula", "direction")
_CLAIM_REQUIRED = {*_CLAIM_TEXTS, "rule", "rule_text", "ambiguities", "controls"}
_CLAIM_OPTIONAL = {"published", "published_unit", "margin", "level"}
_PRINTED_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@cache
def load_paper(key: str) -> Paper:
    """The paper of this key, such as ``capability_localization``, checked entry by entry.

    Raises `UnknownNameError` for an unknown key and `PaperError` for a file that is wrong.
    """
    folder = resources.files("caploc.papers")
    keys = sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))
    if key not in keys:
        raise UnknownNameError(f"unknown paper {key!r}; there is {', '.join(keys)}")
    return parse_paper((folder / f"{key}.toml").read_text(encoding="utf-8"), f"{key}.toml")


def parse_paper(text: str, source: str) -> Paper:
    """The paper that a TOML text describes; ``source`` names the text in errors. Raises `PaperError`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PaperError(f"{source}: not valid TOML: {error}") from error
    _check_keys(content, {"paper", "claim"}, {"definition", "control"}, source)
    head = content["paper"]
    _check_keys(head, {"key", "title", "reference", "level"}, set(), f"{source} [paper]")
    level = _number(head["level"], f"{source} [paper] level", low=0, high=1)
    raw = _by_id(content["claim"], f"{source} claim")
    claims = {name: _claim(entry, level, raw, f"{source} claim {name!r}") for name, entry in raw.items()}
    controls = {
        name: _control(entry, claims, f"{source} control {name!r}")
        for name, entry in _by_id(content.get("control", []), f"{source} control").items()
    }
    definitions = {
        name: Definition(**_texts(entry, ("id", "where", "problem", "choice", "check"), f"{source} {name!r}"))
        for name, entry in _by_id(content.get("definition", []), f"{source} definition").items()
    }
    for claim in claims.values():
        for control in claim.controls:
            if control not in controls:
                raise PaperError(f"{source} claim {claim.id!r}: there is no control {control!r}")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Paper(
        **_texts({name: head[name] for name in ("key", "title", "reference")}, None, f"{source} [paper]"),
        claims=claims,
        definitions=definitions,
        controls=controls,
        digest=hashlib.sha256(canonical.encode()).hexdigest(),
    )


def _claim(entry: Mapping[str, Any], level: float, raw: Mapping[str, Any], place: str) -> Claim:
    _check_keys(entry, _CLAIM_REQUIRED, _CLAIM_OPTIONAL, place)
    texts = _texts({name: entry[name] for name in _CLAIM_TEXTS}, None, place, may_be_empty={"quote"})
    if len(texts["quote"].split()) > LONGEST_QUOTE_WORDS:
        raise PaperError(f"{place}: the quote has more than {LONGEST_QUOTE_WORDS} words; shorten it")
    published = _published(entry.get("published", {}), place)
    unit = entry.get("published_unit", "")
    if published and unit not in ("%", "count"):
        raise PaperError(f"{place}: published_unit must be '%' or 'count', not {unit!r}")
    return Claim(
        **texts,
        published=published,
        published_unit=unit,
        margin=_margin(entry["margin"], f"{place} margin") if "margin" in entry else None,
        level=_number(entry.get("level", level), f"{place} level", low=0, high=1),
        rule=_rule(entry["rule"], raw, f"{place} rule"),
        rule_text=RuleText(
            **_texts(entry["rule_text"], ("supported", "refuted", "inconclusive"), f"{place} rule_text")
        ),
        ambiguities=_strings(entry["ambiguities"], f"{place} ambiguities"),
        controls=_strings(entry["controls"], f"{place} controls"),
    )


def _rule(entry: Mapping[str, Any], raw: Mapping[str, Any], place: str) -> Rule:
    kind = str(entry.get("kind"))
    if kind not in PARAMETERS:
        raise PaperError(f"{place}: unknown kind {kind!r}; there is {', '.join(PARAMETERS)}")
    _check_keys(entry, {"kind", *PARAMETERS[kind], *REFERENCES.get(kind, {})}, set(), place)
    parameters = {name: _number(entry[name], f"{place} {name}") for name in PARAMETERS[kind]}
    # thresholds of another claim are copied, never written twice, so that the two cannot drift apart
    for reference, prefix in REFERENCES.get(kind, {}).items():
        other = raw.get(entry[reference])
        if other is None or other.get("rule", {}).get("kind") != "lower_bound":
            raise PaperError(f"{place} {reference}: {entry[reference]!r} is no claim with a lower_bound rule")
        for name in PARAMETERS["lower_bound"]:
            parameters[prefix + name] = _number(other["rule"].get(name), f"{place} {reference} {name}")
    return Rule(kind, parameters)


def _margin(entry: Mapping[str, Any], place: str) -> Margin:
    _check_keys(entry, {"kind", "value"}, set(), place)
    if entry["kind"] not in ("absolute", "factor"):
        raise PaperError(f"{place}: kind must be 'absolute' or 'factor', not {entry['kind']!r}")
    return Margin(entry["kind"], _number(entry["value"], f"{place} value", low=0))


def _control(entry: Mapping[str, Any], claims: Mapping[str, Claim], place: str) -> Control:
    _check_keys(entry, {"id", "why", "guards"}, set(), place)
    control = Control(
        **_texts({"id": entry["id"], "why": entry["why"]}, None, place),
        guards=_strings(entry["guards"], f"{place} guards"),
    )
    for guarded in control.guards:
        if guarded not in claims:
            raise PaperError(f"{place}: guards {guarded!r}, which is no claim of this file")
    return control


def _published(entry: Mapping[str, Any], place: str) -> dict[tuple[str, str], str]:
    cells = {}
    for model, row in entry.items():
        for dataset, printed in row.items():
            if not isinstance(printed, str) or not _PRINTED_NUMBER.fullmatch(printed):
                raise PaperError(
                    f"{place}: published {model}/{dataset} is {printed!r}; "
                    "write the digits as printed, as a string"
                )
            cells[model, dataset] = printed
    return cells


def _by_id(entries: Any, place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for index, entry in enumerate(entries):
        name = entry.get("id")
        if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            raise PaperError(
                f"{place} number {index + 1}: its id {name!r} is not lower-case words and hyphens"
            )
        if name in found:
            raise PaperError(f"{place}: the id {name!r} occurs twice")
        found[name] = entry
    return found


def _check_keys(entry: Any, required: set[str], optional: set[str], place: str) -> None:
    if not isinstance(entry, Mapping):
        raise PaperError(f"{place}: a table is expected")
    for name in sorted(required - entry.keys()):
        raise PaperError(f"{place}: the field {name!r} is missing")
    for name in sorted(entry.keys() - required - optional):
        raise PaperError(
            f"{place}: unknown field {name!r}; known are {', '.join(sorted(required | optional))}"
        )


def _texts(
    entry: Any,
    names: tuple[str, ...] | None,
    place: str,
    may_be_empty: Set[str] = frozenset(),
) -> dict[str, Any]:
    if names is not None:
        _check_keys(entry, set(names), set(), place)
    for name, value in entry.items():
        if not isinstance(value, str) or (not value.strip() and name not in may_be_empty):
            raise PaperError(f"{place}: the field {name!r} must be a non-empty string")
    return dict(entry)


def _strings(value: Any, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise PaperError(f"{place}: a list of non-empty strings is expected")
    return tuple(value)


def _number(value: Any, place: str, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PaperError(f"{place}: a finite number is expected, not {value!r}")
    if not low <= value <= high:
        raise PaperError(f"{place}: {value!r} is outside [{low:g}, {high:g}]")
    return float(value)
