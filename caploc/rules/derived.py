"""Verdicts that follow from other claims' verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from caploc.findings import Outcome, Verdict
from caploc.rules.base import Rule

if TYPE_CHECKING:
    from caploc.papers import Claim


class Derived(Rule, kind="derived"):
    """Follows from the verdicts of ``claims``: all are supported / any is refuted (see `derive`).

    With ``universal`` 1 the claim is a universal negative, which no finite set of methods supports and no lost premise
    refutes: INCONCLUSIVE instead of either.
    """

    claims: Annotated[tuple[str, ...], Field(min_length=1)]
    universal: Annotated[int, Field(strict=True, ge=0, le=1)]

    def resolved(self, rules: Mapping[str, Rule]) -> Rule:
        for claim in self.claims:
            if claim not in rules:
                raise ValueError(f"claims: there is no claim {claim!r}")
        return self


def derive(claim: Claim, verdicts: Mapping[str, Sequence[Outcome]]) -> Verdict:
    """What a ``derived`` claim's verdict is, given those of the claims it follows from, cell by cell, in one model.

    REFUTED if any cell of any source is; SUPPORTED if every source has cells that ran and all of them are. A universal
    negative is INCONCLUSIVE instead of either: no finite set of methods supports it, and one that fares better than a
    bound takes a premise away from it without being the success that would refute it. Cells that were NOT RUN or only MEASURED are left
    out; a source with no other cell leaves the verdict INCONCLUSIVE, or NOT RUN where every source is like that.
    """
    ran = {
        source: [
            outcome
            for outcome in verdicts.get(source, ())
            if outcome not in (Outcome.NOT_RUN, Outcome.MEASURED)
        ]
        for source in claim.rule.claims
    }
    refuted = [source for source, outcomes in ran.items() if Outcome.REFUTED in outcomes]
    missing = [source for source, outcomes in ran.items() if not outcomes]
    universal = isinstance(claim.rule, Derived) and bool(claim.rule.universal)
    if refuted and universal:
        premises = _counts(refuted, ran, Outcome.REFUTED)
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"not supported, as it rests on {premises}, refuted here; a refuted premise does not show the opposite"
            f"{_others(ran, Outcome.REFUTED)}",
        )
    if refuted:
        counts = _counts(refuted, ran, Outcome.REFUTED)
        return Verdict(Outcome.REFUTED, f"refuted: {counts}{_others(ran, Outcome.REFUTED)}")
    if missing:
        outcome = Outcome.NOT_RUN if len(missing) == len(ran) else Outcome.INCONCLUSIVE
        return Verdict(outcome, f"no verdict of {', '.join(missing)}")
    open_ = [source for source, outcomes in ran.items() if Outcome.INCONCLUSIVE in outcomes]
    if open_:
        counts = _counts(open_, ran, Outcome.INCONCLUSIVE)
        return Verdict(Outcome.INCONCLUSIVE, f"inconclusive: {counts}{_others(ran, Outcome.INCONCLUSIVE)}")
    names = _counts(list(ran), ran, Outcome.SUPPORTED)
    if universal:
        return Verdict(
            Outcome.INCONCLUSIVE, f"not contradicted by {names}, which no number of methods would prove"
        )
    return Verdict(Outcome.SUPPORTED, f"supported: {names}")


def _counts(sources: Sequence[str], ran: Mapping[str, Sequence[Outcome]], outcome: Outcome) -> str:
    return ", ".join(
        f"{source} ({ran[source].count(outcome)} of {len(ran[source])} cell{'' if len(ran[source]) == 1 else 's'})"
        for source in sources
    )


def _others(ran: Mapping[str, Sequence[Outcome]], decided: Outcome) -> str:
    """What the sources that did not decide came to: a reader is told of all of them."""
    rest = {source: outcomes for source, outcomes in ran.items() if decided not in outcomes}
    said = (
        f"; {outcome.value.lower()}: {_counts(sources, ran, outcome)}"
        for outcome in (Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.SUPPORTED)
        if (sources := [source for source, outcomes in rest.items() if outcome in outcomes])
    )
    silent = [source for source, outcomes in rest.items() if not outcomes]
    return "".join(said) + (f"; no verdict of {', '.join(silent)}" if silent else "")
