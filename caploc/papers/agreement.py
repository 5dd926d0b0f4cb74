"""Whether a measured interval agrees with a number that the paper prints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from caploc.findings import Finding
from caploc.papers.evidence import listed, part_names
from caploc.papers.model import Claim, Margin

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


def number_agreement(claim: Claim, finding: Finding) -> str | None:
    """One sentence comparing the finding with the numbers printed for its cell: a note, never part of the verdict.

    The finding's interval is compared with the number that it quotes as published, its parts ``number:KEY`` with the
    claim's printed numbers of those keys or table cells of those ids. None where the claim has no margin, and where
    there is nothing to compare.
    """
    if claim.margin is None:
        return None
    notes: list[str] = []
    if finding.published is not None and finding.interval is not None and claim.cells:
        band = printed_band(finding.published, claim.cells[0].unit, claim.margin)
        notes += _note("our interval", finding.interval, band)
    for name in part_names(finding, "number"):
        key = name.partition(":")[2]
        if printed := claim.printed(key):
            low, high = (finding.quantities.get(f"{name}:{end}", math.nan) for end in ("low", "high"))
            band = printed_band(printed.printed, printed.unit, claim.margin)
            notes += _note(f"our interval of {key}", (low, high), band)
    return listed(notes) if notes else None


def _note(what: str, interval: tuple[float, float], band: Band) -> list[str]:
    if not interval[0] <= interval[1]:  # nan included
        return []
    return [f"{what} lies {band.holds(*interval)} the printed {band.text}"]
