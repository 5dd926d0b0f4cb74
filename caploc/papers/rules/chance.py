"""The rule of chance: sets share more than sets placed at random would."""

from __future__ import annotations

from caploc.findings import Finding, Outcome, Verdict
from caploc.papers.evidence import num, p_values
from caploc.papers.kinds import PARAMETERS
from caploc.papers.model import Claim


def above_chance(claim: Claim, finding: Finding) -> Verdict:
    """Every pair shares more than chance gives, in the whole model and layer by layer, or none does.

    p values ``pair:...`` are hypergeometric, ``layer:...`` those of random sets with the same count in every layer;
    both are Holm-corrected over the pairs.
    """
    pair_level, refuted_level = (claim.rule.parameters[name] for name in PARAMETERS["above_chance"])
    pairs, layers = p_values(finding, "pair:"), p_values(finding, "layer:")
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
