"""Rules of differences: located against something else, where positive speaks for the claim.

Where a difference is both above zero and equivalent to zero, equivalence decides: an effect needs a size as well as a
sign. Equivalence is read from 90 % intervals (two one-sided tests at level .05), signs from 95 % ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import (
    Part,
    interval,
    listed,
    num,
    p_value,
    part,
    part_names,
    quantities,
    require_order,
    require_parts,
    span,
)
from caploc.papers.model import Claim


def difference(claim: Claim, finding: Finding) -> Verdict:
    """Overlap within a dataset minus between datasets: above 0, with a permutation p below the level, and above that
    of scrambled text by an amount not equivalent to 0."""
    low, high = interval(finding)
    margin = claim.rule.parameters["equivalence_margin"]
    gap_low, gap_high, gap90_low, gap90_high = quantities(
        finding,
        "random_text_gap_low",
        "random_text_gap_high",
        "random_text_gap90_low",
        "random_text_gap90_high",
    )
    p = p_value(finding, "permutation")
    shown = f"{finding.quantity}: interval {span(low, high, 0)}"
    gap90 = f"scrambled text overlaps less by [{num(gap90_low, -margin)}, {num(gap90_high, margin)}] (90 %)"
    if high <= 0:
        return Verdict(Outcome.REFUTED, f"{shown} is not above 0")
    if Part("", gap90_low, gap90_high).within(margin):
        return Verdict(
            Outcome.REFUTED, f"{gap90}, within {num(margin)} of 0: scrambled text overlaps equally; {shown}"
        )
    shown = (
        f"{shown}; permutation p {num(p, claim.level)} at level {num(claim.level)}; scrambled text overlaps "
        f"less by {span(gap_low, gap_high, 0)}"
    )
    if low > 0 and p < claim.level and gap_low > 0:
        return Verdict(Outcome.SUPPORTED, shown)
    missing = ["the interval contains 0"] if low <= 0 else []
    missing += ["p is not below the level"] if p >= claim.level else []
    missing += ["scrambled text is not shown to overlap less"] if gap_low <= 0 else []
    return Verdict(Outcome.INCONCLUSIVE, f"{', '.join(missing)}: {shown}")


def plain_difference(claim: Claim, finding: Finding) -> Verdict:
    """One difference: its interval lies above 0 and it is not equivalent to 0."""
    low, high = interval(finding)
    margin = claim.rule.parameters["equivalence_margin"]
    gap = Part("", *quantities(finding, "gap90_low", "gap90_high"))
    require_order(gap.low, gap.high, "90 % interval")
    shown = f"{finding.quantity}: interval {span(low, high, 0)}"
    if high <= 0:
        return Verdict(Outcome.REFUTED, f"{shown} is not above 0")
    if gap.within(margin):
        return Verdict(
            Outcome.REFUTED,
            f"{finding.quantity}: 90 % interval [{num(gap.low, -margin)}, {num(gap.high, margin)}] lies "
            f"within {num(margin)} of 0, the two are equivalent; {shown}",
        )
    if low > 0:
        return Verdict(Outcome.SUPPORTED, f"{shown} lies above 0")
    return Verdict(Outcome.INCONCLUSIVE, f"{shown} contains 0 and is too wide to show equivalence")


def comparison(claim: Claim, finding: Finding) -> Verdict:
    """Every part is an effect, or one of them is none."""
    names = _effect_names(finding)
    verdicts = [_effect(claim, finding, name) for name in names]
    for outcome in (Outcome.REFUTED, Outcome.INCONCLUSIVE):
        reasons = [verdict.reason for verdict in verdicts if verdict.outcome is outcome]
        if reasons:
            return Verdict(outcome, f"{_of_all(reasons, verdicts)}{listed(reasons)}")
    return Verdict(Outcome.SUPPORTED, listed([verdict.reason for verdict in verdicts], len(verdicts)))


def best_of(claim: Claim, finding: Finding) -> Verdict:
    """Against the best rival: ahead often enough, more often than by luck, and nowhere behind."""
    names = require_parts(finding, "effect")
    parts = [part(finding, name) for name in names]
    estimates = quantities(finding, *(f"{name}:estimate" for name in names))
    p, share = p_value(finding, "best"), claim.rule.parameters["share"]
    behind = [one.shown(0) for one in parts if one.high < 0]
    if behind:
        return Verdict(Outcome.REFUTED, f"behind the best rival: {listed(behind)}")
    ahead = sum(value > 0 for value in estimates)
    shown = (
        f"ahead of the best rival in {ahead} of {len(parts)} ({num(share)} needed), p {num(p, claim.level)} at level "
        f"{num(claim.level)}; no interval below 0"
    )
    if ahead >= share * len(parts) - ROUNDING and p < claim.level:
        return Verdict(Outcome.SUPPORTED, shown)
    return Verdict(Outcome.INCONCLUSIVE, shown)


def specificity(claim: Claim, finding: Finding) -> Verdict:
    """An effect on its own kind, and none on others."""
    own = _effect(claim, finding, "effect:own")
    wide, narrow = part(finding, "effect:other"), part(finding, "effect:other", 90)
    margin, beyond = (claim.rule.parameters[name] for name in ("other_margin", "other_refuted"))
    if own.outcome is Outcome.REFUTED:
        return own
    if wide.low > beyond or wide.high < -beyond:
        return Verdict(
            Outcome.REFUTED,
            f"{wide.shown(beyond, -beyond)} is further than {num(beyond)} from 0; {own.reason}",
        )
    inside = narrow.within(margin)
    other = f"{narrow.shown(margin, -margin)} (90 %) {'lies' if inside else 'does not lie'} within {num(margin)} of 0"
    outcome = own.outcome if inside else Outcome.INCONCLUSIVE
    return Verdict(outcome, f"{own.reason}; {other}")


ROUNDING = 1e-9
"""A share such as 8/9, written in decimals, must not ask for one part more."""


def _effect_names(finding: Finding) -> list[str]:
    # a part with a p value alone is asked for its interval, and found out, rather than overlooked
    with_p = [name for name in finding.p_values if name.startswith("effect:")]
    return list(dict.fromkeys([*part_names(finding, "effect"), *with_p])) or require_parts(finding, "effect")


def _effect(claim: Claim, finding: Finding, name: str) -> Verdict:
    wide, narrow, p = part(finding, name), part(finding, name, 90), p_value(finding, name)
    margin = claim.rule.parameters["equivalence_margin"]
    shown = f"{wide.shown(0)}, p {num(p, claim.level)}"
    if wide.high <= 0:
        return Verdict(Outcome.REFUTED, f"{shown}: not above 0")
    if narrow.within(margin):
        return Verdict(
            Outcome.REFUTED,
            f"{shown}: 90 % interval {span(narrow.low, narrow.high, margin, -margin)} within {num(margin)} of 0",
        )
    if wide.low > 0 and p < claim.level:
        return Verdict(Outcome.SUPPORTED, f"{shown}: above 0, p below {num(claim.level)}")
    missing = ["contains 0"] if wide.low <= 0 else []
    missing += [f"p not below {num(claim.level)}"] if p >= claim.level else []
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {', '.join(missing)}")


def _of_all(reasons: Sequence[str], verdicts: Sequence[Verdict]) -> str:
    return f"{len(reasons)} of {len(verdicts)} effects: " if len(verdicts) > 1 else ""
