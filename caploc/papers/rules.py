"""The rules of verdict: pure functions of a claim's fixed thresholds and of one finding's numbers.

A rule never looks at anything else, so that a ledger can be judged again later. All of them share three
properties, which ``caploc/tests/papers/test_rules.py`` draws at random: they return for every number, nan and
infinity included; moving an interval up never turns SUPPORTED into REFUTED where high is claimed; and
the reason names the numbers and thresholds that decided.

Where a difference is both above zero and equivalent to zero, equivalence decides: an effect needs a size as
well as a sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import (
    IncompleteFindingError,
    NotANumberError,
    estimate,
    interval,
    num,
    p_value,
    p_values,
    quantities,
    require_order,
)
from caploc.papers.model import Claim

# parameters that each kind of rule reads from the claim's TOML entry
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "lower_bound": ("supported_above", "refuted_below"),
    "upper_bound": ("supported_below", "refuted_above"),
    "both": (),
    "difference": ("equivalence_margin",),
    "plain_difference": ("equivalence_margin",),
    "partition": ("supported_below", "refuted_above"),
    "above_chance": ("pair_level", "refuted_level"),
    "trend": ("last_supported_below", "last_refuted_above"),
}

# rules that take the thresholds of other claims: field naming the claim -> prefix of the copied parameters
REFERENCES: Mapping[str, Mapping[str, str]] = {"both": {"overlap_claim": "overlap_", "iou_claim": "iou_"}}


def judge(claim: Claim, finding: Finding) -> Verdict:
    """What the claim's rule makes of the finding.

    NOT RUN if the finding says so; INCONCLUSIVE for a floor or ceiling effect, for an estimate that is missing
    or not a number, and where a number that the rule reads is nan; else what that rule says.

    Raises `IncompleteFindingError` if the finding belongs to another claim, or if a named quantity or p value
    that the rule reads is absent.
    """
    if finding.claim != claim.id:
        raise IncompleteFindingError(f"the finding is about {finding.claim!r}, not about {claim.id!r}")
    if finding.not_run is not None:
        return Verdict(Outcome.NOT_RUN, finding.not_run)
    if finding.floor is not None:
        return Verdict(Outcome.INCONCLUSIVE, finding.floor)
    try:
        estimate(finding)
        return _RULES[claim.rule.kind](claim, finding)
    except NotANumberError as reason:
        return Verdict(Outcome.INCONCLUSIVE, str(reason))


def _lower_bound(claim: Claim, finding: Finding) -> Verdict:
    return _bounded_below(
        finding.quantity,
        *interval(finding),
        claim.rule.parameters["supported_above"],
        claim.rule.parameters["refuted_below"],
    )


def _bounded_below(name: str, low: float, high: float, supported: float, refuted: float) -> Verdict:
    span = f"{name}: interval [{num(low, supported)}, {num(high, refuted)}]"
    if low > supported:
        return Verdict(Outcome.SUPPORTED, f"{span} lies above {num(supported)}")
    if high < refuted:
        return Verdict(Outcome.REFUTED, f"{span} lies below {num(refuted)}")
    return Verdict(
        Outcome.INCONCLUSIVE, f"{span} lies neither above {num(supported)} nor below {num(refuted)}"
    )


def _upper_bound(claim: Claim, finding: Finding) -> Verdict:
    supported, refuted = (claim.rule.parameters[name] for name in PARAMETERS["upper_bound"])
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


def _both(claim: Claim, finding: Finding) -> Verdict:
    parts = []
    for name in ("overlap", "iou"):
        low, high = quantities(finding, f"{name}_low", f"{name}_high")
        thresholds = (claim.rule.parameters[f"{name}_{bound}"] for bound in PARAMETERS["lower_bound"])
        require_order(low, high, name)
        parts.append(_bounded_below(name, low, high, *thresholds))
    outcomes = {part.outcome for part in parts}
    if Outcome.REFUTED in outcomes:
        outcome = Outcome.REFUTED
    else:
        outcome = Outcome.SUPPORTED if outcomes == {Outcome.SUPPORTED} else Outcome.INCONCLUSIVE
    return Verdict(outcome, "; ".join(part.reason for part in parts))


def _difference(claim: Claim, finding: Finding) -> Verdict:
    """Within minus between, against 0, against a permutation null and against halves of scrambled text."""
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
    span = f"{finding.quantity}: interval [{num(low, 0)}, {num(high, 0)}]"
    gap90 = f"scrambled text overlaps less by [{num(gap90_low, -margin)}, {num(gap90_high, margin)}] (90 %)"
    if high <= 0:
        return Verdict(Outcome.REFUTED, f"{span} is not above 0")
    if _inside(gap90_low, gap90_high, margin):
        return Verdict(
            Outcome.REFUTED, f"{gap90}, within {num(margin)} of 0: scrambled text overlaps equally; {span}"
        )
    shown = (
        f"{span}; permutation p {num(p, claim.level)} at level {num(claim.level)}; scrambled text overlaps "
        f"less by [{num(gap_low, 0)}, {num(gap_high, 0)}]"
    )
    if low > 0 and p < claim.level and gap_low > 0:
        return Verdict(Outcome.SUPPORTED, shown)
    missing = ["the interval contains 0"] if low <= 0 else []
    missing += ["p is not below the level"] if p >= claim.level else []
    missing += ["scrambled text is not shown to overlap less"] if gap_low <= 0 else []
    return Verdict(Outcome.INCONCLUSIVE, f"{', '.join(missing)}: {shown}")


def _plain_difference(claim: Claim, finding: Finding) -> Verdict:
    low, high = interval(finding)
    margin = claim.rule.parameters["equivalence_margin"]
    gap_low, gap_high = quantities(finding, "gap90_low", "gap90_high")
    span = f"{finding.quantity}: interval [{num(low, 0)}, {num(high, 0)}]"
    if high <= 0:
        return Verdict(Outcome.REFUTED, f"{span} is not above 0")
    if _inside(gap_low, gap_high, margin):
        return Verdict(
            Outcome.REFUTED,
            f"{finding.quantity}: 90 % interval [{num(gap_low, -margin)}, {num(gap_high, margin)}] lies "
            f"within {num(margin)} of 0, the two are equivalent; {span}",
        )
    if low > 0:
        return Verdict(Outcome.SUPPORTED, f"{span} lies above 0")
    return Verdict(Outcome.INCONCLUSIVE, f"{span} contains 0 and is too wide to show equivalence")


def _partition(claim: Claim, finding: Finding) -> Verdict:
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


def _above_chance(claim: Claim, finding: Finding) -> Verdict:
    """p values ``pair:...``: hypergeometric, Holm-corrected; ``layer:...``: layer-matched permutations."""
    pair_level, refuted_level = (claim.rule.parameters[name] for name in PARAMETERS["above_chance"])
    pairs = p_values(finding, "pair:")
    layers = p_values(finding, "layer:")
    largest, smallest = max(pairs), min(pairs)
    shown = (
        f"{len(pairs)} pairs, hypergeometric p (Holm) {num(smallest, refuted_level)} to "
        f"{num(largest, pair_level)}"
    )
    matched = f"layer-matched p up to {num(max(layers), claim.level)}"
    if smallest >= refuted_level:
        return Verdict(Outcome.REFUTED, f"{shown}: none below {num(refuted_level)}")
    if largest < pair_level and max(layers) < claim.level:
        return Verdict(
            Outcome.SUPPORTED, f"{shown}, all below {num(pair_level)}; {matched}, below {num(claim.level)}"
        )
    return Verdict(
        Outcome.INCONCLUSIVE,
        f"{shown}; {matched}: not all below {num(pair_level)} and {num(claim.level)}, but some pair is below "
        f"{num(refuted_level)}",
    )


def _trend(claim: Claim, finding: Finding) -> Verdict:
    supported, refuted = (claim.rule.parameters[name] for name in PARAMETERS["trend"])
    tau, low, high90 = quantities(finding, "trend_tau", "last_increment_low", "last_increment90_high")
    p = p_value(finding, "trend")
    shown = (
        f"trend tau {num(tau, 0)}, p {num(p, claim.level)}; the last doubling adds at least "
        f"{num(low, refuted)} and at most {num(high90, supported)}"
    )
    if tau <= 0:
        return Verdict(Outcome.REFUTED, f"{shown}: no rising trend")
    if low > refuted:
        return Verdict(Outcome.REFUTED, f"{shown}: still rising by more than {num(refuted)}")
    if p < claim.level and high90 < supported:
        return Verdict(Outcome.SUPPORTED, f"{shown}: rising, then by less than {num(supported)}")
    reasons = [f"p is not below {num(claim.level)}"] if p >= claim.level else []
    reasons += [f"the last step may exceed {num(supported)}"] if high90 >= supported else []
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {' and '.join(reasons)}")


_RULES: Mapping[str, Callable[[Claim, Finding], Verdict]] = {
    "lower_bound": _lower_bound,
    "upper_bound": _upper_bound,
    "both": _both,
    "difference": _difference,
    "plain_difference": _plain_difference,
    "partition": _partition,
    "above_chance": _above_chance,
    "trend": _trend,
}


def _inside(low: float, high: float, margin: float) -> bool:
    return -margin < low <= high < margin
