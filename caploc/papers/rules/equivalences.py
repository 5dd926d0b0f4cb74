"""Rules of no difference: shown by intervals within a margin set beforehand, never by a large p value."""

from __future__ import annotations

import math

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import listed, num, part, quantities, require_parts
from caploc.papers.kinds import PARAMETERS
from caploc.papers.model import Claim
from caploc.papers.rules.differences import ROUNDING


def equivalence(claim: Claim, finding: Finding) -> Verdict:
    """Enough parts have their 90 % interval within the margin, or too many lie wholly outside it."""
    margin, share = (claim.rule.parameters[name] for name in PARAMETERS["equivalence"])
    parts = [part(finding, name, 90) for name in require_parts(finding, "effect")]
    needed = math.ceil(share * len(parts) - ROUNDING)
    inside = [one for one in parts if one.within(margin)]
    outside = [one for one in parts if one.low >= margin or one.high <= -margin]
    count = f"of {len(parts)} 90 % intervals {len(inside)} lie within {num(margin)} of 0 ({needed} needed)"
    if len(inside) >= needed:
        return Verdict(
            Outcome.SUPPORTED, f"{count}: {listed([one.shown(margin, -margin) for one in inside])}"
        )
    if len(parts) - len(outside) < needed:
        return Verdict(
            Outcome.REFUTED, f"{count}; outside lie {listed([one.shown(margin, -margin) for one in outside])}"
        )
    undecided = [one.shown(margin, -margin) for one in parts if one not in inside]
    return Verdict(Outcome.INCONCLUSIVE, f"{count}; not so {listed(undecided)}")


def non_inferiority(claim: Claim, finding: Finding) -> Verdict:
    """No part is lower than minus the margin, or one is."""
    bound = -claim.rule.parameters["margin"]
    parts = [part(finding, name) for name in require_parts(finding, "effect")]
    below = [one.shown(bound) for one in parts if one.high < bound]
    if below:
        return Verdict(Outcome.REFUTED, f"below {num(bound)}: {listed(below)}")
    open_ = [one.shown(bound) for one in parts if one.low <= bound]
    if open_:
        return Verdict(Outcome.INCONCLUSIVE, f"may lie below {num(bound)}: {listed(open_)}")
    worst = min(parts, key=lambda one: one.low)
    return Verdict(
        Outcome.SUPPORTED,
        f"all {len(parts)} intervals lie above {num(bound)}, the lowest is {worst.shown(bound)}",
    )


def partition(claim: Claim, finding: Finding) -> Verdict:
    """The range over partitions is small, or the worst structured one lies far below random ones."""
    supported, refuted = (claim.rule.parameters[name] for name in PARAMETERS["partition"])
    spread, gap_low, gap_high = quantities(
        finding, "range_random_structured", "worst_structured_gap_low", "worst_structured_gap_high"
    )
    shown = (
        f"range over partitions {num(spread, supported)}; the worst structured one lies lower by "
        f"[{num(gap_low, refuted)}, {num(gap_high)}]"
    )
    if gap_low > refuted:
        return Verdict(Outcome.REFUTED, f"{shown}, more than {num(refuted)}")
    if spread < supported:
        return Verdict(Outcome.SUPPORTED, f"{shown}; the range is below {num(supported)}")
    return Verdict(
        Outcome.INCONCLUSIVE,
        f"{shown}; the range is not below {num(supported)}, the drop not shown to exceed {num(refuted)}",
    )
