"""Rules of numbers: agreement with what is printed, which reading is meant, errors that vanish, contradictions."""

from __future__ import annotations

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.agreement import Agreement, Band, printed_band
from caploc.papers.evidence import (
    IncompleteFindingError,
    Part,
    estimate,
    interval,
    listed,
    num,
    part,
    part_names,
    quantities,
    span,
)
from caploc.papers.kinds import PARAMETERS
from caploc.papers.model import Claim

NOTHING_PRINTED = "the paper prints no number for this cell"


def agreement(claim: Claim, finding: Finding) -> Verdict:
    """Measured against printed: all numbers agree within the margin, or one lies wholly outside it."""
    names = part_names(finding, "number")
    if not names and finding.published is None:
        return Verdict(Outcome.INCONCLUSIVE, NOTHING_PRINTED)
    if names:
        pairs = [(part(finding, name), _band(claim, number=name.partition(":")[2])) for name in names]
    else:
        pairs = [(Part(finding.quantity, *interval(finding)), _band(claim, finding.published))]
    reasons = {
        which: [_shown(one, band) for one, band in pairs if band.holds(one.low, one.high) is which]
        for which in Agreement
    }
    if reasons[Agreement.OUTSIDE]:
        return Verdict(Outcome.REFUTED, listed(reasons[Agreement.OUTSIDE]))
    if reasons[Agreement.PARTLY]:
        return Verdict(Outcome.INCONCLUSIVE, listed(reasons[Agreement.PARTLY]))
    return Verdict(Outcome.SUPPORTED, listed(reasons[Agreement.WITHIN]))


def readings(claim: Claim, finding: Finding) -> Verdict:
    """Every admissible reading of an equation gives the printed number, or none does."""
    names = part_names(finding, "reading")
    if not names and finding.published is None:
        return Verdict(Outcome.INCONCLUSIVE, NOTHING_PRINTED)
    if not names:
        raise IncompleteFindingError(
            f"the finding of {finding.claim!r} has no quantity 'reading:...', which its rule reads"
        )
    band = _band(claim)
    parts = [part(finding, name) for name in names]
    held = [band.holds(one.low, one.high) for one in parts]
    shown = f"{listed([one.shown(band.low, band.high) for one in parts])} against {band.text}"
    if all(one is Agreement.WITHIN for one in held):
        return Verdict(Outcome.SUPPORTED, f"every reading lies within: {shown}")
    if all(one is Agreement.OUTSIDE for one in held):
        return Verdict(Outcome.REFUTED, f"every reading lies outside: {shown}")
    count = sum(one is Agreement.WITHIN for one in held)
    return Verdict(Outcome.INCONCLUSIVE, f"{count} of {len(held)} readings lie within: {shown}")


def one_reading(claim: Claim, finding: Finding) -> Verdict:
    """Of the two readings of eq. (8) exactly one gives a ratio like the printed ones, or neither does."""
    low, high = (claim.rule.parameters[name] for name in PARAMETERS["one_reading"])
    ratios = dict(zip(("std", "variance"), quantities(finding, "ratio_std", "ratio_variance"), strict=True))
    fits = [name for name, ratio in ratios.items() if low <= ratio <= high]
    shown = ", ".join(f"{name} {num(ratio, low, high)}" for name, ratio in ratios.items())
    outcome = (Outcome.REFUTED, Outcome.SUPPORTED, Outcome.INCONCLUSIVE)[len(fits)]
    which = ("neither", f"only {fits[0] if fits else ''}", "both")[len(fits)]
    return Verdict(outcome, f"ratios {shown}: {which} within {span(low, high)}")


def vanishing_error(claim: Claim, finding: Finding) -> Verdict:
    """A numerical error is small, and smaller than with a coarser rule; one that does not shrink refutes."""
    value, (coarse,) = estimate(finding), quantities(finding, "coarse")
    bound = claim.rule.parameters["supported_below"]
    shown = f"error {num(value, bound, coarse)}, coarse {num(coarse, value)}"
    if value >= coarse:
        return Verdict(Outcome.REFUTED, f"{shown}: it does not shrink")
    if value < bound:
        return Verdict(Outcome.SUPPORTED, f"{shown}: it shrinks, to below {num(bound)}")
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}: it shrinks, but not to below {num(bound)}")


def consistent(claim: Claim, finding: Finding) -> Verdict:
    """The paper's own numbers contradict each other in no place, or in some."""
    violations = estimate(finding)
    if violations == 0:
        return Verdict(Outcome.SUPPORTED, f"{finding.quantity}: none")
    return Verdict(Outcome.REFUTED, f"{finding.quantity}: {num(violations, 0)}")


def untestable(claim: Claim, finding: Finding) -> Verdict:
    """No measurement decides it."""
    return Verdict(Outcome.INCONCLUSIVE, "no measurement decides it")


def _band(claim: Claim, printed: str | None = None, number: str | None = None) -> Band:
    """The band round a cell's ``printed`` number, or round that of the key or id ``number``, by default the first."""
    if claim.margin is None:
        raise IncompleteFindingError(f"the claim {claim.id!r} has no margin, which its rule reads")
    if printed is not None and claim.cells:
        return printed_band(printed, claim.cells[0].unit, claim.margin)
    one = next(iter(claim.numbers), None) if number is None else claim.printed(number)
    if one is not None:
        return printed_band(one.printed, one.unit, claim.margin)
    raise IncompleteFindingError(
        f"the claim {claim.id!r} prints no number {number or ''!r}, which the finding names"
    )


def _shown(one: Part, band: Band) -> str:
    return f"{one.shown(band.low, band.high)} lies {band.holds(one.low, one.high)} the printed {band.text}"
