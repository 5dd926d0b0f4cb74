"""Rules that hold measured numbers against printed ones, and the note that compares any finding with its number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from caploc.findings import Finding, Number, Outcome, Range, Reading, Verdict
from caploc.rules.base import (
    IncompleteFindingError,
    Rule,
    Span,
    at_once,
    interval,
    listed,
    part,
    value_interval,
)

if TYPE_CHECKING:
    from caploc.papers import Claim, Margin, PrintedCell, PrintedNumber

NOT_THIS_CELL = "the paper prints no number for this cell"
NOT_THIS_MODEL = "the paper prints no number for this model"
HUNDREDTHS = ("%", "points")
"""Units of which findings hold fractions; every other number is compared as it stands."""


class Agreement(StrEnum):
    """Where an interval lies, in a sentence that goes on with "the printed ..."."""

    WITHIN = "within"
    PARTLY = "partly within"
    OUTSIDE = "outside"


@dataclass(frozen=True)
class Band:
    """What counts as agreement with a printed number, in the unit of findings, and the same in words."""

    low: float
    high: float
    text: str

    def holds(self, low: float, high: float) -> Agreement:
        """Where the interval from ``low`` to ``high``, in order, lies."""
        if self.low <= low and high <= self.high:
            return Agreement.WITHIN
        return Agreement.OUTSIDE if high < self.low or low > self.high else Agreement.PARTLY


def printed_band(printed: str, unit: str, margin: Margin) -> Band:
    """The margin round a number as it is printed: ``96.42`` and ``%`` with 0.05 give 0.9142 to 1.0142."""
    scale = 100 if unit in HUNDREDTHS else 1
    value = float(printed) / scale
    shown = f"{printed}{unit}" if unit == "%" else f"{printed} {unit}"
    if margin.kind == "absolute":
        points = " points" if scale == 100 else ""
        return Band(
            value - margin.value, value + margin.value, f"{shown} +- {margin.value * scale:g}{points}"
        )
    low, high = sorted((value * margin.value, value / margin.value))
    return Band(low, high, f"{shown} within a factor of {margin.value:g}")


class AgreesWithPrinted(Rule, kind="agreement"):
    """Measured against printed: all numbers lie within the claim's margin / one lies wholly outside it.

    Each part that is a Number is held against what the paper prints for it in this cell: by its name, the key of one
    of the claim's printed numbers, or by its coordinates, those of one of the claim's table cells. A Number for which
    the paper prints nothing in this cell is not judged; if that is all of them, the cell is MEASURED. Without such
    parts the value's interval is held against the number that the finding quotes as published, whatever the floor; a
    finding that quotes none is MEASURED.
    """

    def nothing_to_judge(self, claim: Claim, finding: Finding) -> str | None:
        if finding.measurement.of(Number):
            return None if _printed_parts(claim, finding) else NOT_THIS_MODEL
        return NOT_THIS_CELL if finding.published is None else None

    def heeds_floor(self, finding: Finding) -> bool:
        return bool(finding.measurement.of(Number)) or finding.measurement.value is None

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        return self.among(claim, finding, 0)

    def among(self, claim: Claim, finding: Finding, others: int) -> Verdict:
        """The verdict where so many ``others`` than the numbers can refute the claim, too (`at_once`)."""
        numbers = finding.measurement.of(Number)
        printed = _printed_parts(claim, finding) if numbers else {}
        of, held = len(printed) + others, ""
        if numbers:
            bands = {name: _band(claim, one) for name, one in printed.items()}
            pairs = [(interval(finding, name, numbers[name]), band) for name, band in bands.items()]
            refuting = [(at_once(finding, name, numbers[name], of), band) for name, band in bands.items()]
            held = f", for {of} parts at once," if of > 1 else ""
        else:
            refuting = pairs = [(value_interval(finding), _quoted_band(claim, finding.published or ""))]
        outside = [
            _shown(one, band, held)
            for one, band in refuting
            if band.holds(one.low, one.high) is Agreement.OUTSIDE
        ]
        if outside:
            return Verdict(Outcome.REFUTED, listed(outside))
        within = [band.holds(one.low, one.high) is Agreement.WITHIN for one, band in pairs]
        reasons = [
            _shown(one, band) for (one, band), good in zip(pairs, within, strict=True) if good == all(within)
        ]
        return Verdict(Outcome.SUPPORTED if all(within) else Outcome.INCONCLUSIVE, listed(reasons))


class DecidingReading(Rule, kind="readings"):
    """Parts that are a Reading, one an admissible reading of an equation, against the claim's first printed number: the
    one named ``decides`` lies within the margin / none does. Where that number is not about this cell, it is
    MEASURED."""

    decides: str

    def nothing_to_judge(self, claim: Claim, finding: Finding) -> str | None:
        if finding.measurement.of(Reading):
            return None if claim.covers(finding.cell) else NOT_THIS_MODEL
        return NOT_THIS_CELL if finding.published is None else None

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        found = finding.measurement.of(Reading)
        if not found:
            raise IncompleteFindingError(
                f"the finding of {finding.claim!r} has no part that is a Reading, which its rule reads"
            )
        band = _band(claim, claim.numbers[0] if claim.numbers else None)
        first = part(finding, self.decides, Reading)
        spans = [interval(finding, name, one) for name, one in {self.decides: first, **found}.items()]
        held = [band.holds(one.low, one.high) for one in spans]
        shown = f"{listed([one.shown(band.low, band.high) for one in spans], len(spans))} against {band.text}"
        which = f"the reading that decides, {self.decides}, lies {held[0]}"
        if held[0] is Agreement.WITHIN:
            return Verdict(Outcome.SUPPORTED, f"{which}: {shown}")
        if all(one is Agreement.OUTSIDE for one in held):
            return Verdict(Outcome.REFUTED, f"every reading lies outside: {shown}")
        return Verdict(Outcome.INCONCLUSIVE, f"{which}, and not every reading lies outside: {shown}")


def number_agreement(claim: Claim, finding: Finding) -> str | None:
    """One sentence comparing the finding with the numbers printed for its cell: a note, never part of the verdict.

    The value's interval is compared with the number that the finding quotes as published, its parts that are a Number
    with what the paper prints for them. None where the claim has no margin, and where there is nothing to compare.
    """
    if claim.margin is None:
        return None
    notes: list[str] = []
    found = finding.measurement
    if finding.published is not None and found.value and found.value.interval and claim.cells:
        notes += _note("our interval", found.value.interval, _quoted_band(claim, finding.published))
    for name, one in found.of(Number).items():
        printed = claim.printed_number(finding.cell, name, one.at)
        if printed is not None and one.interval is not None:
            notes += _note(f"our interval of {name}", one.interval, _band(claim, printed))
    return listed(notes) if notes else None


def _printed_parts(claim: Claim, finding: Finding) -> Mapping[str, PrintedNumber | PrintedCell]:
    """What the paper prints for each of the finding's Numbers in its cell, where it prints anything for it."""
    found = {}
    for name, one in finding.measurement.of(Number).items():
        printed = claim.printed_number(finding.cell, name, one.at)
        if printed is not None:
            found[name] = printed
        elif not one.at and claim.covers(finding.cell):
            raise IncompleteFindingError(
                f"the claim {claim.id!r} prints no number {name!r}, which the finding names"
            )
    return found


def _quoted_band(claim: Claim, published: str) -> Band:
    """The band round the number that a finding quotes: a table cell's, or else the claim's first one."""
    if claim.margin is not None and claim.cells:
        return printed_band(published, claim.cells[0].unit, claim.margin)
    return _band(claim, claim.numbers[0] if claim.numbers else None)


def _band(claim: Claim, printed: PrintedNumber | PrintedCell | None) -> Band:
    if claim.margin is None:
        raise IncompleteFindingError(f"the claim {claim.id!r} has no margin, which its rule reads")
    if printed is None:
        raise IncompleteFindingError(f"the claim {claim.id!r} prints no number, which its rule reads")
    return printed_band(printed.printed, printed.unit, claim.margin)


def _note(what: str, ends: Range, band: Band) -> list[str]:
    if not ends[0] <= ends[1]:  # nan included
        return []
    return [f"{what} lies {band.holds(*ends)} the printed {band.text}"]


def _shown(one: Span, band: Band, held: str = "") -> str:
    return (
        f"{one.shown(band.low, band.high)}{held} lies {band.holds(one.low, one.high)} the printed {band.text}"
    )
