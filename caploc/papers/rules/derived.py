"""Verdicts that follow from other claims' verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caploc.findings import Outcome, Verdict
from caploc.papers.model import Claim


def derive(claim: Claim, verdicts: Mapping[str, Sequence[Outcome]]) -> Verdict:
    """What a ``derived`` claim's verdict is, given those of the claims it follows from, cell by cell, in one model.

    REFUTED if any cell of any source is; SUPPORTED if every source has cells that ran and all of them are. A universal
    negative is INCONCLUSIVE instead of either: no finite set of methods supports it, and one that fares better than a
    bound takes a premise away from it without being the success that would refute it. Cells that were NOT RUN are left
    out; a source with no other cell leaves the verdict INCONCLUSIVE, or NOT RUN where every source is like that.
    """
    ran = {
        source: [outcome for outcome in verdicts.get(source, ()) if outcome != Outcome.NOT_RUN]
        for source in claim.rule.claims
    }
    refuted = [source for source, outcomes in ran.items() if Outcome.REFUTED in outcomes]
    missing = [source for source, outcomes in ran.items() if not outcomes]
    universal = bool(claim.rule.parameters["universal"])
    if refuted and universal:
        premises = _counts(refuted, ran, Outcome.REFUTED)
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"without support: refuted is {premises}, which it rests on; not itself refuted",
        )
    if refuted:
        return Verdict(Outcome.REFUTED, f"refuted: {_counts(refuted, ran, Outcome.REFUTED)}")
    if missing:
        outcome = Outcome.NOT_RUN if len(missing) == len(ran) else Outcome.INCONCLUSIVE
        return Verdict(outcome, f"no verdict of {', '.join(missing)}")
    open_ = [source for source, outcomes in ran.items() if Outcome.INCONCLUSIVE in outcomes]
    if open_:
        return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {_counts(open_, ran, Outcome.INCONCLUSIVE)}")
    names = _counts(list(ran), ran, Outcome.SUPPORTED)
    if universal:
        return Verdict(
            Outcome.INCONCLUSIVE, f"not contradicted by {names}, which no number of methods would prove"
        )
    return Verdict(Outcome.SUPPORTED, f"supported: {names}")


def _counts(sources: Sequence[str], ran: Mapping[str, Sequence[Outcome]], outcome: Outcome) -> str:
    return ", ".join(
        f"{source} ({ran[source].count(outcome)} of {len(ran[source])} cells)" for source in sources
    )
