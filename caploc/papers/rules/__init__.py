"""The rules of verdict: pure functions of a claim's fixed thresholds and of one finding's numbers.

A rule never looks at anything else, so that a ledger can be judged again later. All of them share three
properties, which ``caploc/tests/papers/test_rules.py`` draws at random: they return for every number, nan and
infinity included; moving an interval up never turns SUPPORTED into REFUTED where high is claimed; and
the reason names the numbers and thresholds that decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import IncompleteFindingError, NotANumberError, estimate
from caploc.papers.kinds import DERIVED
from caploc.papers.model import Claim
from caploc.papers.rules import bounds, chance, differences, equivalences, numbers, trends
from caploc.papers.rules.derived import derive

__all__ = ["decisive_p", "derive", "judge"]


def judge(claim: Claim, finding: Finding) -> Verdict:
    """What the claim's rule makes of the finding.

    NOT RUN if the finding says so; INCONCLUSIVE for a floor or ceiling effect, for an estimate that is missing
    or not a number, and where a number that the rule reads is nan; else what that rule says.

    Raises `IncompleteFindingError` if the finding belongs to another claim, if a named quantity or p value that the
    rule reads is absent, or if the claim is a derived one, which `derive` judges.
    """
    if finding.claim != claim.id:
        raise IncompleteFindingError(f"the finding is about {finding.claim!r}, not about {claim.id!r}")
    if claim.rule.kind in DERIVED:
        raise IncompleteFindingError(
            f"{claim.id!r} follows from {', '.join(claim.rule.claims)}: derive its verdict from theirs"
        )
    if finding.not_run is not None:
        return Verdict(Outcome.NOT_RUN, finding.not_run)
    if finding.floor is not None:
        return Verdict(Outcome.INCONCLUSIVE, finding.floor)
    try:
        if claim.empirical:
            estimate(finding)
        return _RULES[claim.rule.kind](claim, finding)
    except NotANumberError as reason:
        return Verdict(Outcome.INCONCLUSIVE, str(reason))


def decisive_p(claim: Claim, finding: Finding) -> float | None:
    """The largest p value that the rule needs below its level to say SUPPORTED, already corrected within the finding.

    None where the rule reads no p value, and where the finding lacks one or has one that is undefined.
    """
    read = _DECISIVE.get(claim.rule.kind, ())
    values = [
        p for name, p in finding.p_values.items() if name in read or f"{name.partition(':')[0]}:" in read
    ]
    if not values or any(value is None or math.isnan(value) for value in values):
        return None
    return float(max(values))


_RULES: Mapping[str, Callable[[Claim, Finding], Verdict]] = {
    "lower_bound": bounds.lower_bound,
    "upper_bound": bounds.upper_bound,
    "interval_below": bounds.interval_below,
    "overlap_below": bounds.overlap_below,
    "within": bounds.within,
    "lower_bounds": bounds.lower_bounds,
    "both": bounds.both,
    "agreement": numbers.agreement,
    "readings": numbers.readings,
    "difference": differences.difference,
    "plain_difference": differences.plain_difference,
    "comparison": differences.comparison,
    "best_of": differences.best_of,
    "specificity": differences.specificity,
    "equivalence": equivalences.equivalence,
    "non_inferiority": equivalences.non_inferiority,
    "above_chance": chance.above_chance,
    "partition": equivalences.partition,
    "trend": trends.trend,
    "monotone": trends.monotone,
    "one_reading": numbers.one_reading,
    "vanishing_error": numbers.vanishing_error,
    "consistent": numbers.consistent,
    "untestable": numbers.untestable,
}

_DECISIVE: Mapping[str, tuple[str, ...]] = {
    "difference": ("permutation",),
    "comparison": ("effect:",),
    "best_of": ("best",),
    "specificity": ("effect:own",),
    "above_chance": ("pair:", "layer:"),
    "trend": ("trend",),
    "monotone": ("trend",),
}
