"""Rules of trends: rising and then flat, or rising throughout."""

from __future__ import annotations

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import estimate, num, p_value, quantities
from caploc.papers.kinds import PARAMETERS
from caploc.papers.model import Claim


def trend(claim: Claim, finding: Finding) -> Verdict:
    """Rising by a trend test, with a last step that is shown to be small; or flat, falling, or still rising.

    Growing subsamples of one sample depend on each other, so that a flat curve, too, can have a trend: the whole rise
    must also exceed what the last step may still add.
    """
    supported, refuted = (claim.rule.parameters[name] for name in PARAMETERS["trend"])
    tau, rise, low, high90 = quantities(
        finding, "trend_tau", "rise", "last_increment_low", "last_increment90_high"
    )
    p = p_value(finding, "trend")
    shown = (
        f"trend tau {num(tau, 0)}, p {num(p, claim.level)}, rise {num(rise, supported)}; the last doubling adds at "
        f"least {num(low, refuted)} and at most {num(high90, supported)}"
    )
    if tau <= 0:
        return Verdict(Outcome.REFUTED, f"{shown}: no rising trend")
    if low > refuted:
        return Verdict(Outcome.REFUTED, f"{shown}: still rising by more than {num(refuted)}")
    if p < claim.level and high90 < supported < rise:
        return Verdict(Outcome.SUPPORTED, f"{shown}: rising, then by less than {num(supported)}")
    reasons = [f"p is not below {num(claim.level)}"] if p >= claim.level else []
    reasons += [f"the rise is not above {num(supported)}"] if rise <= supported else []
    reasons += [f"the last step may exceed {num(supported)}"] if high90 >= supported else []
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {' and '.join(reasons)}")


def monotone(claim: Claim, finding: Finding) -> Verdict:
    """Rising by a trend test, and no step falls significantly; one that does refutes, whatever the trend."""
    value, p, reversal = estimate(finding), p_value(finding, "trend"), p_value(finding, "reversal")
    shown = f"{finding.quantity}: {num(value, 0)}, trend p {num(p, claim.level)}"
    falls = f"p of a reversal {num(reversal, claim.level)}"
    if reversal < claim.level:
        return Verdict(Outcome.REFUTED, f"{falls}, below {num(claim.level)}; {shown}")
    if value > 0 and p < claim.level:
        return Verdict(Outcome.SUPPORTED, f"{shown}, below {num(claim.level)}; {falls}")
    reasons = ["not above 0"] if value <= 0 else []
    reasons += [f"trend p not below {num(claim.level)}"] if p >= claim.level else []
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}; {falls}: {', '.join(reasons)}")
