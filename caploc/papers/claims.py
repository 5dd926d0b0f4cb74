"""Reads one claim of a paper: texts, sources, printed numbers and the rule that judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caploc.papers.fields import check_keys, known, number, printed, strings, text, texts
from caploc.papers.kinds import COMPARISONS, DERIVED, PARAMETERS, REFERENCES
from caploc.papers.model import Claim, Margin, PaperError, Rule, RuleText, Source
from caploc.papers.printed import PrintedCell, PrintedNumber

LONGEST_QUOTE_WORDS = 25
KINDS = (
    "number",
    "bound",
    "comparison",
    "equivalence",
    "trend",
    "existence",
    "conjunction",
    "definition",
    "statement",
)
"""What a claim is: a value, a bound on it, one thing against another, no difference, a trend, that something occurs,
what follows from other claims, an equation or constant, or a remark that no measurement decides."""

_TEXTS = ("id", "group", "kind", "statement", "quantity", "formula", "direction", "test")
_REQUIRED = {*_TEXTS, "sources", "rule", "rule_text", "ambiguities", "controls"}
_OPTIONAL = {"cells", "numbers", "margin", "level"}
_COORDINATES = {"table", "quantity", "model", "dataset", "sigma", "method", "epoch"}


def read_claim(
    entry: Mapping[str, Any],
    raw: Mapping[str, Any],
    cells: Sequence[PrintedCell],
    level: float,
    documents: Mapping[str, str],
    groups: Mapping[str, Any],
    place: str,
) -> Claim:
    """The claim that an entry describes; ``raw`` holds all claims' entries by id. Raises `PaperError`."""
    check_keys(entry, _REQUIRED, _OPTIONAL, place)
    named = {name: text(entry, name, place) for name in _TEXTS}
    if named["kind"] not in KINDS:
        raise PaperError(f"{place}: unknown kind {named['kind']!r}; there is {', '.join(KINDS)}")
    known((named["group"],), groups, "group", place)
    return Claim(
        **named,
        sources=tuple(_source(source, documents, place) for source in entry["sources"]),
        cells=_cells(entry.get("cells"), cells, place),
        numbers=tuple(_printed_number(item, documents, place) for item in entry.get("numbers", ())),
        margin=_margin(entry["margin"], f"{place} margin") if "margin" in entry else None,
        level=number(entry.get("level", level), f"{place} level", low=0, high=1),
        rule=_rule(entry["rule"], raw, f"{place} rule"),
        rule_text=RuleText(
            **texts(entry["rule_text"], ("supported", "refuted", "inconclusive"), f"{place} rule_text")
        ),
        ambiguities=strings(entry["ambiguities"], f"{place} ambiguities"),
        controls=strings(entry["controls"], f"{place} controls"),
    )


def _source(entry: Mapping[str, Any], documents: Mapping[str, str], place: str) -> Source:
    check_keys(entry, {"document", "at"}, {"quote"}, f"{place} sources")
    known((text(entry, "document", place),), documents, "document", f"{place} sources")
    quote = text(entry, "quote", place) if "quote" in entry else ""
    if len(quote.split()) > LONGEST_QUOTE_WORDS:
        raise PaperError(f"{place}: the quote has more than {LONGEST_QUOTE_WORDS} words; shorten it")
    return Source(entry["document"], text(entry, "at", place), quote)


def _cells(
    wanted: Mapping[str, Any] | None, cells: Sequence[PrintedCell], place: str
) -> tuple[PrintedCell, ...]:
    """``wanted`` names coordinates, such as ``{ table = "table1", quantity = "iou" }``."""
    if wanted is None:
        return ()
    check_keys(wanted, {"table"}, _COORDINATES, f"{place} cells")
    found = tuple(cell for cell in cells if cell.matches(wanted))
    if not found:
        raise PaperError(f"{place} cells: no printed cell has {dict(wanted)}")
    return found


def _printed_number(entry: Mapping[str, Any], documents: Mapping[str, str], place: str) -> PrintedNumber:
    here = f"{place} numbers"
    check_keys(entry, {"key", "printed", "unit", "document", "at"}, set(), here)
    known((text(entry, "document", here),), documents, "document", here)
    return PrintedNumber(
        key=text(entry, "key", here),
        printed=printed(entry["printed"], f"{here} {entry['key']!r}"),
        unit=text(entry, "unit", here),
        document=entry["document"],
        at=text(entry, "at", here),
    )


def _margin(entry: Mapping[str, Any], place: str) -> Margin:
    check_keys(entry, {"kind", "value"}, set(), place)
    if entry["kind"] not in ("absolute", "factor"):
        raise PaperError(f"{place}: kind must be 'absolute' or 'factor', not {entry['kind']!r}")
    low = 1.0 if entry["kind"] == "factor" else 0.0
    return Margin(entry["kind"], number(entry["value"], f"{place} value", low=low))


def _rule(entry: Mapping[str, Any], raw: Mapping[str, Any], place: str) -> Rule:
    kind = str(entry.get("kind"))
    if kind not in PARAMETERS:
        raise PaperError(f"{place}: unknown kind {kind!r}; there is {', '.join(PARAMETERS)}")
    extra = {"claims"} if kind in DERIVED else {"detectable"} if kind in COMPARISONS else set()
    check_keys(entry, {"kind", *PARAMETERS[kind], *REFERENCES.get(kind, {}), *extra}, set(), place)
    parameters = {name: number(entry[name], f"{place} {name}") for name in PARAMETERS[kind]}
    # thresholds of another claim are copied, never written twice, so that the two cannot drift apart
    for reference, prefix in REFERENCES.get(kind, {}).items():
        other = raw.get(entry[reference])
        if other is None or other.get("rule", {}).get("kind") != "lower_bound":
            raise PaperError(f"{place} {reference}: {entry[reference]!r} is no claim with a lower_bound rule")
        for name in PARAMETERS["lower_bound"]:
            parameters[prefix + name] = number(other["rule"].get(name), f"{place} {reference} {name}")
    claims = strings(entry["claims"], f"{place} claims") if kind in DERIVED else ()
    return Rule(
        kind,
        parameters,
        claims=known(claims, raw, "claim", f"{place} claims"),
        detectable=number(entry["detectable"], f"{place} detectable", low=0) if kind in COMPARISONS else None,
    )
