"""Rules of trends and of chance: rising and then flat, rising throughout, sharing more than chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caploc.findings import Chance, Count, Effect, Finding, Outcome, Test, Verdict
from caploc.rules.base import Comparison, Level, Rule, Threshold, ends, estimate, num, number, part, parts

if TYPE_CHECKING:
    from caploc.papers import Claim


class Trend(Rule, kind="trend"):
    """Rising by a trend test, the part ``trend`` (a Test, whose estimate is Kendall's tau), and then flat: the part
    ``rise`` (a Count) lies above, and the 90 % interval of the part ``last increment`` (an Effect) below,
    ``last_supported_below`` / not rising, or the last increment lies above ``last_refuted_above``.

    Growing subsamples of one sample depend on each other, so that a flat curve, too, can have a trend: the whole rise
    must also exceed what the last step may still add.
    """

    last_supported_below: Threshold
    last_refuted_above: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        supported, refuted = self.last_supported_below, self.last_refuted_above
        test, last = part(finding, "trend", Test), part(finding, "last increment", Effect)
        tau, p = number(finding, "trend", test), number(finding, "trend", test, "p")
        rise = number(finding, "rise", part(finding, "rise", Count))
        low, _ = ends(finding, "last increment", last)
        _, high90 = ends(finding, "last increment", last, "interval90")
        shown = (
            f"trend tau {num(tau, 0)}, p {num(p, claim.level)}, rise {num(rise, supported)}; the last doubling adds at "
            f"least {num(low, refuted)} and at most {num(high90, supported)}"
        )
        if tau <= 0:
            return Verdict(Outcome.REFUTED, f"{shown}: no rising trend")
        if low > refuted:
            return Verdict(Outcome.REFUTED, f"{shown}: still rising by more than {num(refuted)}")
        if p < claim.level and high90 < supported < rise:
            return Verdict(Outcome.SUPPORTED, f"{shown}: rising, then by less than {num(supported)}")
        reasons = [f"p is not below {num(claim.level)}"] if p >= claim.level else []
        reasons += [f"the rise is not above {num(supported)}"] if rise <= supported else []
        reasons += [f"the last step may exceed {num(supported)}"] if high90 >= supported else []
        return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {' and '.join(reasons)}")

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _trend_p(finding)


class Monotone(Rule, kind="monotone"):
    """The value's estimate lies above 0 with the p value of the part ``trend`` (a Test) below the level, and no step
    falls significantly / the p value of the part ``reversal`` (a Test) is below the level, whatever the trend."""

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        value, level = estimate(finding), claim.level
        p, reversal = (
            number(finding, name, part(finding, name, Test), "p") for name in ("trend", "reversal")
        )
        shown = f"{finding.measurement.quantity}: {num(value, 0)}, trend p {num(p, level)}"
        falls = f"p of a reversal {num(reversal, level)}"
        if reversal < level:
            return Verdict(Outcome.REFUTED, f"{falls}, below {num(level)}; {shown}")
        if value > 0 and p < level:
            return Verdict(Outcome.SUPPORTED, f"{shown}, below {num(level)}; {falls}")
        reasons = ["the value is not above 0"] if value <= 0 else []
        reasons += [f"the trend's p is not below {num(level)}"] if p >= level else []
        return Verdict(Outcome.INCONCLUSIVE, f"{shown}; {falls}: {' and '.join(reasons)}")

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _trend_p(finding)


class AboveChance(Comparison, kind="above_chance"):
    """Parts that are a Chance, one a pair of sets: every pair shares more than chance gives, its hypergeometric p
    below ``pair_level`` and that of random sets with the same count in every layer below the level / no pair's
    hypergeometric p is below ``refuted_level``. Both are Holm-corrected over the pairs."""

    pair_level: Level
    refuted_level: Level

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        found = parts(finding, Chance)
        pairs = [number(finding, name, one, "p") for name, one in found.items()]
        layers = [number(finding, name, one, "p_by_layer") for name, one in found.items()]
        largest, smallest = max(pairs), min(pairs)
        shown = (
            f"{len(pairs)} pair{'' if len(pairs) == 1 else 's'}, hypergeometric p (Holm) "
            f"{num(smallest, self.refuted_level)} to {num(largest, self.pair_level)}"
        )
        matched = f"layer-matched p up to {num(max(layers), claim.level)}"
        if smallest >= self.refuted_level:
            return Verdict(Outcome.REFUTED, f"{shown}: none below {num(self.refuted_level)}")
        if largest < self.pair_level and max(layers) < claim.level:
            return Verdict(
                Outcome.SUPPORTED,
                f"{shown}, all below {num(self.pair_level)}; {matched}, below {num(claim.level)}",
            )
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"{shown}; {matched}: not all below {num(self.pair_level)} and {num(claim.level)}, but some pair is below "
            f"{num(self.refuted_level)}",
        )

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        found = finding.measurement.of(Chance).values()
        return [p for one in found for p in (one.p, one.p_by_layer)]


def _trend_p(finding: Finding) -> list[float | None]:
    found = finding.measurement.parts.get("trend")
    return [found.p if found is not None else None]
