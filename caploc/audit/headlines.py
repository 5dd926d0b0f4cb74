"""The first screen of the report: a paper's headline claims, each with what was measured on one small axis.

Which claims are headlines is data, the key ``headline`` of a claim in its paper's files. A model is one row whatever
the number of its cells: their intervals share the axis, their verdicts are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from caploc.audit.results import Result, Status
from caploc.audit.text import measured, number, plural, unit_sign
from caploc.papers import Claim

if TYPE_CHECKING:
    from caploc.power import Rates

WIDTH, LINE, MARGIN = 280, 9, 8
"""Of a drawing, in its own units: how wide it is, how high the line of a cell, and the space at its edges."""
MOST_DRAWN = 40
_SCALES = {"%": 100, "points": 100}
_CORRECTED = ("corrected_overlap", "identity_below")
_LEVELS = ("lower_bound", "above_twin", "interval_below", "recall_below", "upper_bound", *_CORRECTED)
"""The kinds of rules that hold the estimate itself against thresholds: what is printed, and the level by chance, are
numbers of the same kind then, and belong on its axis. Elsewhere the estimate is a difference of such numbers.
The threshold of a corrected overlap is none for the overlap as it stands, which is shown."""


@dataclass(frozen=True)
class Mark:
    """A cell on the axis: where its estimate and its interval lie, and whether they reach beyond the axis."""

    result: Result
    y: float
    at: float
    ends: tuple[float, float] | None
    chance: float | None

    @property
    def words(self) -> str:
        """What the mark shows, for readers who cannot see it."""
        finding = self.result.finding or {}
        unit = finding.get("unit", "fraction")
        shown = measured(finding["estimate"], finding["interval"] if self.ends else None, unit)
        shown += f", chance {number(finding['chance'], unit)}" if self.chance is not None else ""
        return f"{self.result.planned.cell.label}: {shown}, {self.result.status.value.lower()}"


@dataclass(frozen=True)
class Axis:
    """From where to where a claim's numbers lie, in one unit, and what stands on the axis beside the measured ones."""

    low: float
    high: float
    unit: str
    printed: Sequence[float]
    thresholds: Sequence[float]

    @classmethod
    def of(cls, claim: Claim, results: Iterable[Result]) -> Axis | None:
        """The axis that all models of a claim share; None where nothing on it was measured, or not in one unit."""
        found = [result.finding for result in results if _measured(result)]
        units = {str(finding["unit"]) for finding in found if finding}
        if len(units) != 1:
            return None
        (unit,) = units
        fraction = unit in ("fraction", "share")
        level = _level(claim)
        printed = [value for value in _printed(claim) if fraction]
        bounds = claim.rule.parameters if level and claim.rule.kind not in _CORRECTED else {}
        thresholds = sorted({v for name, v in bounds.items() if name.startswith(("supported", "refuted"))})
        values = [*printed, *thresholds, 0.0]
        for finding in (one for one in found if one):
            ends = finding.get("interval") or ()
            chance = finding.get("chance") if level else None
            values += [one for one in (finding["estimate"], chance, *ends) if one is not None]
        low, high = min(values), max(values)
        if fraction and level:
            low, high = min(low, 0.0), max(high, 1.0)
        space = 0.05 * (high - low) or 1.0
        return cls(
            low if low == 0 else low - space, high if high == 1 else high + space, unit, printed, thresholds
        )

    def x(self, value: float) -> float:
        """Where a value lies in the drawing."""
        return round(MARGIN + (value - self.low) / (self.high - self.low) * (WIDTH - 2 * MARGIN), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Both ends and, if it lies well between them, zero, with what is written there."""
        values = [self.low, self.high]
        if self.low < 0 < self.high and min(-self.low, self.high) > 0.2 * (self.high - self.low):
            values.append(0.0)
        digits = 0 if self.high - self.low > 0.2 else 1
        scale, sign = (100, " %") if self.unit in ("fraction", "share") else (1, "")
        return [(self.x(one), f"{one * scale:.{digits if scale == 100 else 2}f}{sign}") for one in values]


@dataclass(frozen=True)
class HeadlineRow:
    """One model's cells of a headline claim, or the verdict derived for it."""

    claim: Claim
    model: str
    tested: Sequence[Result]
    derived: Sequence[Result]
    axis: Axis | None
    rates: Rates | None = None

    @cached_property
    def _findings(self) -> list[Mapping[str, Any]]:
        return [one.finding for one in self.tested if one.finding and _measured(one)]

    @cached_property
    def verdicts(self) -> list[tuple[Status, int]]:
        """Each verdict that its cells have, and how many have it."""
        every = [*self.tested, *self.derived]
        counts = ((status, sum(one.status is status for one in every)) for status in Status)
        return [(status, count) for status, count in counts if count]

    @cached_property
    def marks(self) -> list[Mark]:
        """The measured cells on the axis, the first `MOST_DRAWN` of them."""
        if self.axis is None:
            return []
        found = []
        for place, result in enumerate([one for one in self.tested if _measured(one)][:MOST_DRAWN]):
            finding, x = result.finding or {}, self.axis.x
            ends, chance = finding.get("interval"), finding.get("chance") if _level(self.claim) else None
            known = ends if ends and None not in ends else None
            found.append(
                Mark(
                    result,
                    LINE * (place + 0.7),
                    x(finding["estimate"]),
                    (x(known[0]), x(known[1])) if known else None,
                    None if chance is None else x(chance),
                )
            )
        return found

    @property
    def height(self) -> float:
        """Of the drawing, without the line of its axis."""
        return LINE * (len(self.marks) + 0.4)

    @property
    def measured(self) -> str:
        """The number with its interval, or, of several cells, how far their estimates reach."""
        found = self._findings
        if not found:
            return ""
        unit = str(found[0]["unit"])
        if len(found) == 1:
            return measured(found[0]["estimate"], found[0].get("interval"), unit)
        values = [finding["estimate"] for finding in found]
        reach = f"{number(min(values), unit)} to {number(max(values), unit)}{unit_sign(unit)}"
        return f"{reach} in {plural(len(found), 'cell')}"

    @property
    def chance(self) -> str:
        """The level by chance, or how far those of several cells reach; empty where none has one."""
        found = self._findings
        levels = [finding["chance"] for finding in found if finding.get("chance") is not None]
        if not levels or not _level(self.claim):
            return ""
        unit = str(found[0]["unit"])
        low, high = number(min(levels), unit), number(max(levels), unit)
        return f"{low if low == high else f'{low} to {high}'}{unit_sign(unit)}"

    @property
    def power(self) -> str:
        """The rule's power at its stated effect and how often its verdicts are false, where they were simulated."""
        return "" if self.rates is None else self.rates.words

    @property
    def why(self) -> str:
        """The one reason of a model with one verdict; of several cells the table of cells has each one's."""
        every = [*self.tested, *self.derived]
        return every[0].reason if len(every) == 1 else ""


@dataclass(frozen=True)
class Headline:
    """A headline claim with a row for each model in which it has cells or a derived verdict."""

    claim: Claim
    rows: Sequence[HeadlineRow]

    @property
    def printed(self) -> str:
        """The numbers that the paper prints for it, at most a line: one, or how far those of a table reach."""
        claim = self.claim
        if not (claim.quoted and _level(claim)):
            return ""
        if claim.cells:
            values = sorted((cell.value, cell.printed) for cell in claim.cells)
            low, high, unit = values[0][1], values[-1][1], claim.cells[0].unit
            return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
        return " or ".join(dict.fromkeys(one.shown for one in claim.numbers[:3]))


def headlines(
    claims: Iterable[Claim],
    tested: Iterable[Result],
    derived: Iterable[Result],
    models: Sequence[str],
    rates: Mapping[tuple[str, str], Rates] = MappingProxyType({}),
) -> list[Headline]:
    """The headline claims that the run has something on, in the paper's order; cells under other readings stand in
    the table of cells alone."""
    own: dict[str, list[Result]] = {}
    follows: dict[str, list[Result]] = {}
    for into, results in ((own, tested), (follows, derived)):
        for result in results:
            if not result.planned.cell.variant:
                into.setdefault(result.planned.claim, []).append(result)
    found = []
    for claim in claims:
        cells, inferred = own.get(claim.id, []), follows.get(claim.id, [])
        if not claim.headline or not (cells or inferred):
            continue
        axis = Axis.of(claim, cells)
        rows = []
        for model in models:
            own_here, derived_here = (
                [one for one in of if one.planned.cell.model == model] for of in (cells, inferred)
            )
            if own_here or derived_here:
                rows.append(
                    HeadlineRow(claim, model, own_here, derived_here, axis, rates.get((claim.id, model)))
                )
        found.append(Headline(claim, rows))
    return found


def _level(claim: Claim) -> bool:
    return claim.rule.kind in _LEVELS


def _measured(result: Result) -> bool:
    finding: Mapping[str, Any] = result.finding or {}
    return finding.get("estimate") is not None and bool(finding.get("unit"))


def _printed(claim: Claim) -> list[float]:
    """What the paper prints, as fractions; a range of a table by its ends."""
    if not (claim.quoted and _level(claim)):
        return []
    every = claim.cells or claim.numbers
    values = sorted({float(one.value) / _SCALES[one.unit] for one in every if one.unit in _SCALES})
    return values if len(values) <= 3 else [values[0], values[-1]]
