"""Rules of bounds: a number lies above, below or between thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import (
    Part,
    estimate,
    interval,
    num,
    part,
    quantities,
    require_order,
    require_parts,
    span,
)
from caploc.papers.kinds import PARAMETERS
from caploc.papers.model import Claim


def lower_bound(claim: Claim, finding: Finding) -> Verdict:
    """The interval lies above one threshold, or below another."""
    supported, refuted = _thresholds(claim)
    return _above(Part(finding.quantity, *interval(finding)), supported, refuted)


def lower_bounds(claim: Claim, finding: Finding) -> Verdict:
    """Every part lies above, or every part lies below."""
    supported, refuted = _thresholds(claim)
    parts = [part(finding, name) for name in require_parts(finding, "bound")]
    verdicts = [_above(one, supported, refuted) for one in parts]
    return Verdict(_unanimous(verdicts), "; ".join(verdict.reason for verdict in verdicts))


def both(claim: Claim, finding: Finding) -> Verdict:
    """Overlap and IoU of one cell, each a ``lower_bound``: both supported, or either refuted."""
    verdicts = []
    for name in ("overlap", "iou"):
        low, high = quantities(finding, f"{name}_low", f"{name}_high")
        require_order(low, high, name)
        thresholds = (claim.rule.parameters[f"{name}_{bound}"] for bound in PARAMETERS["lower_bound"])
        verdicts.append(_above(Part(name, low, high), *thresholds))
    outcome = _unanimous(verdicts)
    if any(verdict.outcome is Outcome.REFUTED for verdict in verdicts):
        outcome = Outcome.REFUTED
    return Verdict(outcome, "; ".join(verdict.reason for verdict in verdicts))


def upper_bound(claim: Claim, finding: Finding) -> Verdict:
    """A share without sampling error is below one threshold, or above another."""
    supported, refuted = _thresholds(claim)
    value = estimate(finding)
    shown = f"{finding.quantity}: {num(value, supported, refuted)}"
    bound = finding.quantities.get("chebyshev_bound", math.inf)
    if value > refuted:
        impossible = (
            f", and above {num(bound)}, which is impossible under the standard deviation (Chebyshev)"
            if value > bound
            else ""
        )
        return Verdict(Outcome.REFUTED, f"{shown} is above {num(refuted)}{impossible}")
    if value < supported:
        return Verdict(Outcome.SUPPORTED, f"{shown} is below {num(supported)}")
    return Verdict(
        Outcome.INCONCLUSIVE, f"{shown} is neither below {num(supported)} nor above {num(refuted)}"
    )


def interval_below(claim: Claim, finding: Finding) -> Verdict:
    """The interval lies below one threshold, or above another."""
    supported, refuted = _thresholds(claim)
    low, high = interval(finding)
    shown = f"{finding.quantity}: interval {span(low, high, supported, refuted)}"
    if high < supported:
        return Verdict(Outcome.SUPPORTED, f"{shown} lies below {num(supported)}")
    if low > refuted:
        return Verdict(Outcome.REFUTED, f"{shown} lies above {num(refuted)}")
    return Verdict(
        Outcome.INCONCLUSIVE, f"{shown} lies neither below {num(supported)} nor above {num(refuted)}"
    )


def overlap_below(claim: Claim, finding: Finding) -> Verdict:
    """As `interval_below`, but only where unrelated items overlap less: else the overlap says nothing of the items."""
    (gap,) = quantities(finding, "baseline_gap:low")
    verdict = interval_below(claim, finding)
    if gap > 0:
        return Verdict(
            verdict.outcome, f"{verdict.reason}; unrelated items overlap less by at least {num(gap)}"
        )
    return Verdict(
        Outcome.INCONCLUSIVE,
        f"unrelated items are not shown to overlap less (lower end of the gap {num(gap, 0)}); {verdict.reason}",
    )


def within(claim: Claim, finding: Finding) -> Verdict:
    """The interval lies within one range, or wholly outside a wider one."""
    low, high = interval(finding)
    inner_low, inner_high, outer_low, outer_high = _thresholds(claim)
    shown = f"{finding.quantity}: interval {span(low, high, inner_low, inner_high, outer_low, outer_high)}"
    inner, outer = span(inner_low, inner_high), span(outer_low, outer_high)
    if inner_low <= low and high <= inner_high:
        return Verdict(Outcome.SUPPORTED, f"{shown} lies within {inner}")
    if high < outer_low or low > outer_high:
        return Verdict(Outcome.REFUTED, f"{shown} lies outside {outer}")
    return Verdict(Outcome.INCONCLUSIVE, f"{shown} lies neither within {inner} nor outside {outer}")


def _above(one: Part, supported: float, refuted: float) -> Verdict:
    shown = f"{one.name}: interval [{num(one.low, supported)}, {num(one.high, refuted)}]"
    if one.low > supported:
        return Verdict(Outcome.SUPPORTED, f"{shown} lies above {num(supported)}")
    if one.high < refuted:
        return Verdict(Outcome.REFUTED, f"{shown} lies below {num(refuted)}")
    return Verdict(
        Outcome.INCONCLUSIVE, f"{shown} lies neither above {num(supported)} nor below {num(refuted)}"
    )


def _unanimous(verdicts: Sequence[Verdict]) -> Outcome:
    """What all of them say, INCONCLUSIVE where they differ."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return outcomes.pop() if len(outcomes) == 1 else Outcome.INCONCLUSIVE


def _thresholds(claim: Claim) -> list[float]:
    return [claim.rule.parameters[name] for name in PARAMETERS[claim.rule.kind]]
