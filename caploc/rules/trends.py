"""Rules of trends and of chance: rising and then flat, rising throughout, sharing more than chance gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caploc.findings import Bound, Chance, Effect, Finding, Outcome, Test, Verdict
from caploc.rules.base import (
    Comparison,
    Level,
    Rule,
    Threshold,
    ends,
    estimate,
    interval,
    num,
    number,
    part,
    parts,
)

if TYPE_CHECKING:
    from caploc.papers import Claim


class Trend(Rule, kind="trend"):
    """Rising and then flat: the interval of the part ``rise`` (an Effect) lies above 0, and the 90 % interval of the
    part ``last increment`` (an Effect) below ``last_supported_below`` / the 90 % interval of the rise, or else the last
    increment's whole 95 % interval, shows the contrary: a rise below ``last_refuted_above``, a last step above it.

    Where the smallest subsample, the part ``smallest`` (a Bound), agrees so well that less than ``last_refuted_above``
    is left to rise by, it has risen before: the last step alone decides."""

    last_supported_below: Threshold
    last_refuted_above: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        supported, refuted = self.last_supported_below, self.last_refuted_above
        last = part(finding, "last increment", Effect)
        rise = interval(finding, "rise", part(finding, "rise", Effect))
        rise90 = interval(finding, "rise", part(finding, "rise", Effect), "interval90")
        low, _ = ends(finding, "last increment", last)
        _, high90 = ends(finding, "last increment", last, "interval90")
        shown = (
            f"{rise.shown(0)} (90 %: at most {num(rise90.high, refuted)}); the last doubling adds at least "
            f"{num(low, refuted)} and at most {num(high90, supported)}"
        )
        smallest = part(finding, "smallest", Bound)
        risen = number(finding, "smallest", smallest) > 1 - refuted
        if risen:
            first = num(number(finding, "smallest", smallest), 1 - refuted)
            shown = f"{shown}; the smallest subsample agrees by {first}"
        if rise90.high < refuted and not risen:
            return Verdict(Outcome.REFUTED, f"{shown}: not rising by {num(refuted)}")
        if low > refuted:
            return Verdict(Outcome.REFUTED, f"{shown}: still rising by more than {num(refuted)}")
        if high90 < supported and (rise.low > 0 or risen):
            how = "rising, then" if rise.low > 0 else "risen already, and"
            return Verdict(Outcome.SUPPORTED, f"{shown}: {how} by less than {num(supported)}")
        reasons = ["the rise is not shown to lie above 0"] if rise.low <= 0 and not risen else []
        reasons += [f"the last doubling may add {num(supported)} or more"] if high90 >= supported else []
        return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {' and '.join(reasons)}")


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
