"""Verdicts that follow from other claims' verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from caploc.findings import Effect, Outcome, Verdict
from caploc.rules.base import Rule

if TYPE_CHECKING:
    from caploc.papers import Claim


@dataclass(frozen=True)
class Judged:
    """How one cell of a claim ended. ``above``: one of its effects lies wholly above 0, as what was located does where
    it fares better than what it is compared with."""

    outcome: Outcome
    above: bool = False

    @classmethod
    def of(cls, outcome: Outcome, finding: Mapping[str, Any] | None) -> Judged:
        """From a finding as JSON data."""
        parts = ((finding or {}).get("parts") or {}).values()
        spans = (one.get("interval") for one in parts if one["kind"] == Effect.kind)
        return cls(outcome, any(one and one[0] is not None and one[0] > 0 for one in spans))


class Derived(Rule, kind="derived"):
    """Follows from the verdicts of ``claims``: all are supported / any is refuted beyond error (see `derive`).

    Attributes:
        better: those of the claims that it reads whose refutation counts only where what was located fares better, an
            effect of theirs lying above 0: they say that it fares no better, and faring worse is no evidence against
            that.
        universal: whether the claim is a universal negative, which no finite set of methods supports and no lost
            premise refutes. It is refuted where all claims of one entry of ``counterexamples`` are.
        counterexamples: lists of claims, a method each, that are refuted together where the method succeeds.
    """

    claims: Annotated[tuple[str, ...], Field(min_length=1)]
    better: tuple[str, ...] = ()
    universal: bool = False
    counterexamples: tuple[tuple[str, ...], ...] = ()

    def resolved(self, rules: Mapping[str, Rule]) -> Rule:
        known = {"claims": rules, "counterexamples": rules, "better": self.reads}
        named = {"claims": self.claims, "counterexamples": self.reads, "better": self.better}
        for name, claims in named.items():
            for claim in claims:
                if claim not in known[name]:
                    raise ValueError(f"{name}: there is no claim {claim!r}")
        return self

    def refuted(self, source: str, ended: Sequence[Judged]) -> int:
        """How many of a claim's cells are refuted in the way that counts."""
        return sum(
            one.outcome is Outcome.REFUTED and (one.above or source not in self.better) for one in ended
        )

    def falls(self, source: str, ended: Sequence[Judged], level: float) -> bool:
        """Whether a claim is refuted in more of the cells that were judged than error explains."""
        judged = [one for one in ended if one.outcome in _VERDICTS]
        return bool(judged) and self.refuted(source, judged) >= beyond_error(len(judged), level)


def beyond_error(cells: int, level: float) -> int:
    """The fewest refuted of ``cells`` that have a probability of at most ``level`` where each errs as often as that: 1
    of 1, 2 of 2 to 7, 3 of 8 to 16 at 5 %. Of many cells, each of which may err, one refuted alone shows nothing."""
    below = 0.0  # the probability of fewer
    for count in range(cells):
        below += math.comb(cells, count) * level**count * (1 - level) ** (cells - count)
        if 1 - below <= level + ROUNDING:
            return count + 1
    return cells


def derive(claim: Claim, cells: Mapping[str, Sequence[Judged]]) -> Verdict:
    """What a ``derived`` claim's verdict is, given how the cells of one model ended, by claim.

    REFUTED if a source is in more of its cells than errors explain (`beyond_error`, at the claim's level); SUPPORTED if
    every source has cells that were judged and all of them are. A universal negative is INCONCLUSIVE instead of
    SUPPORTED, and of REFUTED unless one method is a counterexample. Cells that were not run, or measured without
    anything to compare with, are left out; a source with no other cell leaves the verdict INCONCLUSIVE, or NOT RUN
    where every source is like that.
    """
    rule = claim.rule
    assert isinstance(rule, Derived)
    judged = {
        source: [one for one in cells.get(source, ()) if one.outcome in _VERDICTS] for source in rule.claims
    }
    against = {
        source: f"{source} ({count} of {_cells(ended)})"
        for source, ended in judged.items()
        if (count := rule.refuted(source, ended))
    }
    refuted = [shown for source, shown in against.items() if rule.falls(source, judged[source], claim.level)]
    missing = [source for source, ended in judged.items() if not ended]
    if rule.universal:
        return _universal(rule, cells, refuted, missing, claim.level)
    if refuted:
        return Verdict(
            Outcome.REFUTED, f"it needs all of {', '.join(rule.claims)}; refuted: {', '.join(refuted)}"
        )
    if missing:
        outcome = Outcome.NOT_RUN if len(missing) == len(judged) else Outcome.INCONCLUSIVE
        return Verdict(
            outcome, f"it needs all of {', '.join(rule.claims)}; without a verdict: {', '.join(missing)}"
        )
    counts = {
        source: sum(one.outcome is Outcome.SUPPORTED for one in ended) for source, ended in judged.items()
    }
    shown = ", ".join(f"{source} in {count} of {_cells(judged[source])}" for source, count in counts.items())
    if all(count == len(judged[source]) for source, count in counts.items()):
        return Verdict(Outcome.SUPPORTED, f"supported: {shown}")
    few = f"refuted in no more cells than errors of {100 * claim.level:g} % a cell explain, "
    lost = few + ", ".join(against.values()) if against else "not refuted"
    return Verdict(Outcome.INCONCLUSIVE, f"{lost}, and supported: {shown}; all cells are needed")


def _universal(
    rule: Derived,
    cells: Mapping[str, Sequence[Judged]],
    refuted: Sequence[str],
    missing: Sequence[str],
    level: float,
) -> Verdict:
    for method in rule.counterexamples:
        if all(rule.falls(source, cells.get(source, ()), level) for source in method):
            return Verdict(
                Outcome.REFUTED,
                f"a counterexample on this model: {' and '.join(method)} are refuted together",
            )
    if len(missing) == len(rule.claims):
        return Verdict(Outcome.NOT_RUN, f"without a verdict: {', '.join(missing)}")
    premises = f"of what it rests on, refuted on this model: {', '.join(refuted) or 'none'}"
    return Verdict(
        Outcome.INCONCLUSIVE,
        f"no method tested is a counterexample, which would refute it, and no number of methods proves it; {premises}",
    )


def _cells(ended: Sequence[Judged]) -> str:
    return "1 cell" if len(ended) == 1 else f"{len(ended)} cells"


ROUNDING = 1e-9
"""1 - .95 must not be more than .05."""
_VERDICTS = (Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE)
