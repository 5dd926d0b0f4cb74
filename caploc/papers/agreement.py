"""Whether a measured interval agrees with the number a paper prints: a note, never part of the verdict."""

from __future__ import annotations

from caploc.findings import Finding
from caploc.papers.model import Claim


def number_agreement(claim: Claim, finding: Finding) -> str | None:
    """One sentence comparing the finding's interval with the number printed for its cell.

    None where the claim has no margin or prints no number for the cell's model and dataset, and where the
    finding does not quote one or has no interval. A count is compared as it stands, per cent as fractions.
    """
    printed = claim.published.get((finding.cell.model, finding.cell.dataset or ""))
    if printed is None or finding.published is None or claim.margin is None or finding.interval is None:
        return None
    value = float(printed) / (100 if claim.published_unit == "%" else 1)
    if claim.margin.kind == "absolute":
        least, most = value - claim.margin.value, value + claim.margin.value
        band = f"{printed}{claim.published_unit} +- {claim.margin.value * 100:g} points"
    else:
        least, most = value / claim.margin.value, value * claim.margin.value
        band = f"{printed}{claim.published_unit} within a factor of {claim.margin.value:g}"
    low, high = finding.interval
    if not low <= high:  # nan included
        return None
    if least <= low and high <= most:
        return f"our interval lies within the printed {band}"
    if high < least or low > most:
        return f"our interval lies outside the printed {band}"
    return f"our interval lies partly within the printed {band}"
