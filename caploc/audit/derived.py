"""Verdicts that follow from others: claims about what several measured claims amount to, model by model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caploc.audit.results import Planned, Result, Status
from caploc.findings import Cell, Outcome
from caploc.papers import Claim, Paper
from caploc.rules import derive


def derived(results: Sequence[Result], paper: Paper) -> list[Result]:
    """A result for each claim that follows from others and each model in which one of those has a cell, in the paper's
    order; cells under other readings of the paper are left out.

    A cell that erred or is missing might have ended in any way: it counts as inconclusive.
    """
    own = [
        result for result in results if result.planned.paper == paper.key and not result.planned.cell.variant
    ]
    found = {}
    for model in dict.fromkeys(result.planned.cell.model for result in own):
        outcomes: dict[str, list[Outcome]] = {}
        for result in own:
            if result.planned.cell.model == model:
                outcomes.setdefault(result.planned.claim, []).append(_outcome(result.status))
        for claim in _sources_first(paper):
            if not outcomes.keys().isdisjoint(claim.rule.claims):
                result = _derived(paper, claim, model, outcomes)
                found[claim.id, model] = result
                outcomes[claim.id] = [_outcome(result.status)]
    order = list(paper.claims)
    return sorted(found.values(), key=lambda result: order.index(result.planned.claim))


def _derived(paper: Paper, claim: Claim, model: str, outcomes: Mapping[str, Sequence[Outcome]]) -> Result:
    verdict = derive(claim, outcomes)
    planned = Planned("", f"{claim.id}[{model}]", claim.id, Cell(model), paper=paper.key)
    return Result(planned, Status(verdict.outcome.value), verdict.reason)


def _sources_first(paper: Paper) -> list[Claim]:
    """The derived claims, each after those derived ones that it follows from."""
    left = {claim.id: claim for claim in paper.claims.values() if claim.rule.claims}
    ordered: list[Claim] = []
    while ready := [claim for claim in left.values() if left.keys().isdisjoint(claim.rule.claims)]:
        ordered += ready
        for claim in ready:
            del left[claim.id]
    return ordered


def _outcome(status: Status) -> Outcome:
    return Outcome.INCONCLUSIVE if status in (Status.ERROR, Status.MISSING) else Outcome(status.value)
