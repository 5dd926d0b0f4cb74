"""Rules of levels: a number lies above, below or between thresholds, is small, or is zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from caploc.findings import Bound, Count, Effect, Finding, Number, Outcome, Verdict
from caploc.rules.base import (
    ONE_SIDED,
    Comparison,
    IncompleteFindingError,
    Rule,
    Span,
    Threshold,
    at_once,
    ends,
    estimate,
    interval,
    num,
    number,
    part,
    parts,
    span,
    value_interval,
)
from caploc.rules.printed import NOT_THIS_MODEL

if TYPE_CHECKING:
    from caploc.papers import Claim


class LowerBound(Rule, kind="lower_bound"):
    """The value's interval lies above ``supported_above`` / below ``refuted_below``."""

    supported_above: Threshold
    refuted_below: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        return self.of(value_interval(finding))

    def of(self, one: Span, refuting: Span | None = None) -> Verdict:
        """The verdict on one interval; ``refuting``: as it holds for all parts that can refute (`at_once`)."""
        supported, refuted, wide = self.supported_above, self.refuted_below, refuting or one
        shown = f"{one.name}: interval {span(one.low, one.high, supported, refuted)}"
        if one.low > supported:
            return Verdict(Outcome.SUPPORTED, f"{shown} lies above {num(supported)}")
        if wide.high < refuted:
            return Verdict(Outcome.REFUTED, f"{shown} lies below {num(refuted)}")
        if one.high < refuted:
            why = f"lies below {num(refuted)}, but not where it is held for all parts at once"
            return Verdict(Outcome.INCONCLUSIVE, f"{shown} {why}")
        return Verdict(Outcome.INCONCLUSIVE, f"{shown} {_undecided(one, refuted, supported)}")


class LowerBounds(LowerBound, kind="lower_bounds"):
    """Parts that are a Bound: all lie above ``supported_above`` / all lie below ``refuted_below``."""

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        verdicts = [self.of(interval(finding, name, one)) for name, one in parts(finding, Bound).items()]
        return Verdict(_unanimous(verdicts), "; ".join(verdict.reason for verdict in verdicts))


class AboveTwin(LowerBound, kind="above_twin"):
    """The interval of the part ``at full size`` (a Bound: at the paper's number of samples) lies above
    ``supported_above``, and the part ``beyond twins`` (an Effect: what the model's number lies above the bound that
    95 % of untrained twins stay below, on as many samples) above 0 / the former lies below ``refuted_below``, or the
    latter below 0 (90 % interval).

    What random weights give as well is no trace of what a model has learned, though the number itself be as printed.
    """

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        return self.beside_twins(finding)

    @property
    def refuting(self) -> int:
        """How many of its two parts can refute a true claim: a level that must lie above ``supported_above`` does not
        lie below a lower ``refuted_below``, so that only twins are left, unless the two are one threshold."""
        return 2 if self.refuted_below >= self.supported_above else 1

    def beside_twins(self, finding: Finding, before: str = "", of: int = 1) -> Verdict:
        """The verdict on the parts whose names begin with ``before``, of so many pairs ``of`` them."""
        parts = of * self.refuting
        name, full = f"{before}at full size", part(finding, f"{before}at full size", Bound)
        what = before.strip().replace("iou", "IoU") or finding.measurement.quantity
        called = f"{what} at the paper's number of samples"
        level = self.of(
            interval(finding, name, full).called(called), at_once(finding, name, full, parts).called(called)
        )
        twins = beyond_twins(finding, f"{before}beyond twins", parts=parts)
        if twins.outcome is Outcome.REFUTED and level.outcome is Outcome.SUPPORTED:
            return Verdict(Outcome.REFUTED, f"the level holds, but {twins.reason}; {level.reason}")
        if Outcome.REFUTED in (level.outcome, twins.outcome):
            first, other = (level, twins) if level.outcome is Outcome.REFUTED else (twins, level)
            return Verdict(Outcome.REFUTED, f"{first.reason}; {other.reason}")
        return Verdict(_unanimous([level, twins]), f"{level.reason}; {twins.reason}")


def beyond_twins(finding: Finding, name: str, of: Effect | None = None, parts: int = 1) -> Verdict:
    """What a part, or the value ``of`` a finding, says that lies above 0 where a number is higher than in 95 % of
    untrained twins (`caploc.statistics.OneMore`). The estimate is held against a prediction of one more twin, which has
    its uncertainty in it, so that it alone supports: in one of twenty random-weight models; the 90 % interval refutes,
    as it holds for all ``parts`` that can (`at_once`).
    """
    gap = part(finding, name, Effect) if of is None else of
    value, narrow = number(finding, name, gap), at_once(finding, name, gap, parts, "interval90")
    most = f"at most {num(narrow.high, 0)} (one-sided {100 * (1 - ONE_SIDED / parts):.4g} %)"
    shown = f"lead over 95 % of untrained twins {num(value, 0)}, {most}"
    if value > 0:
        return Verdict(Outcome.SUPPORTED, f"{shown}: more than random weights give")
    if narrow.high <= 0:
        return Verdict(Outcome.REFUTED, f"{shown}: random weights give as much")
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}: whether random weights give as much is open")


class BeyondTwins(Comparison, kind="beyond_twins"):
    """The value, what a number of the model lies above the bound that 95 % of untrained twins stay below, is above 0 /
    its 90 % interval lies below 0."""

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        value = finding.measurement.value
        if not isinstance(value, Effect):
            raise IncompleteFindingError(f"{finding.measurement.quantity!r} needs a value that is an Effect")
        return beyond_twins(finding, finding.measurement.quantity, value)


class Both(Rule, kind="both"):
    """Overlap and IoU of one cell, each judged as ``above_twin``: both are supported / either is refuted.

    Its parts' names begin with ``overlap`` and ``iou``. The thresholds are those of the claims ``overlap_claim`` and
    ``iou_claim``: taken from them, never written twice, so that they cannot drift apart.
    """

    overlap_claim: str
    iou_claim: str
    overlap: AboveTwin | None = None
    iou: AboveTwin | None = None

    @property
    def parameters(self) -> Mapping[str, float]:
        return {
            f"{name}_{key}": value
            for name, one in self._bounds().items()
            for key, value in one.parameters.items()
        }

    def resolved(self, rules: Mapping[str, Rule]) -> Rule:
        found = {}
        for name in ("overlap", "iou"):
            claim = getattr(self, f"{name}_claim")
            if type(rules.get(claim)) is not AboveTwin:
                raise ValueError(f"{name}_claim: {claim!r} is no claim with a above_twin rule")
            found[name] = rules[claim]
        return self.model_copy(update=found)

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        bounds = self._bounds()
        verdicts = [one.beside_twins(finding, f"{name} ", len(bounds)) for name, one in bounds.items()]
        outcome = _unanimous(verdicts)
        if any(verdict.outcome is Outcome.REFUTED for verdict in verdicts):
            outcome = Outcome.REFUTED
        return Verdict(outcome, "; ".join(verdict.reason for verdict in verdicts))

    def _bounds(self) -> dict[str, AboveTwin]:
        if self.overlap is None or self.iou is None:
            raise IncompleteFindingError(
                f"a rule of kind {self.kind!r} has no thresholds before the claims that it refers to are known"
            )
        return {"overlap": self.overlap, "iou": self.iou}


class UpperBound(Rule, kind="upper_bound"):
    """The value's estimate, without sampling error, is below ``supported_below`` / above ``refuted_above``.

    A part ``Chebyshev bound``, a Count, says in the reason whether the standard deviation rules the value out.
    """

    supported_below: Threshold
    refuted_above: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        supported, refuted = self.supported_below, self.refuted_above
        value = estimate(finding)
        shown = f"{finding.measurement.quantity}: {num(value, supported, refuted)}"
        most = finding.measurement.parts.get("Chebyshev bound", Count(math.inf)).estimate
        if value > refuted:
            impossible = (
                f", and above {num(most)}, which is impossible under the standard deviation (Chebyshev)"
                if most is not None and value > most
                else ""
            )
            return Verdict(Outcome.REFUTED, f"{shown} is above {num(refuted)}{impossible}")
        if value < supported:
            return Verdict(Outcome.SUPPORTED, f"{shown} is below {num(supported)}")
        return Verdict(
            Outcome.INCONCLUSIVE, f"{shown} is neither below {num(supported)} nor above {num(refuted)}"
        )


class IntervalBelow(Rule, kind="interval_below"):
    """The value's interval lies below ``supported_below`` / above ``refuted_above``."""

    supported_below: Threshold
    refuted_above: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        return self.of(value_interval(finding))

    def of(self, one: Span) -> Verdict:
        """The verdict on one interval."""
        supported, refuted = self.supported_below, self.refuted_above
        shown = f"{one.name}: interval {span(one.low, one.high, supported, refuted)}"
        if one.high < supported:
            return Verdict(Outcome.SUPPORTED, f"{shown} lies below {num(supported)}")
        if one.low > refuted:
            return Verdict(Outcome.REFUTED, f"{shown} lies above {num(refuted)}")
        return Verdict(Outcome.INCONCLUSIVE, f"{shown} {_undecided(one, supported, refuted)}")


class Within(Rule, kind="within"):
    """The value's interval lies within ``supported_low`` .. ``supported_high`` / wholly outside ``refuted_low`` ..
    ``refuted_high``. The range is set round a printed number: where the measurement names a Number, and the
    paper's numbers are about other cells, the cell is MEASURED."""

    supported_low: Threshold
    supported_high: Threshold
    refuted_low: Threshold
    refuted_high: Threshold

    def nothing_to_judge(self, claim: Claim, finding: Finding) -> str | None:
        return NOT_THIS_MODEL if finding.measurement.of(Number) and not claim.covers(finding.cell) else None

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        one = value_interval(finding)
        inner_low, inner_high = self.supported_low, self.supported_high
        outer_low, outer_high = self.refuted_low, self.refuted_high
        ends_shown = span(one.low, one.high, inner_low, inner_high, outer_low, outer_high)
        shown = f"{one.name}: interval {ends_shown}"
        inner, outer = span(inner_low, inner_high), span(outer_low, outer_high)
        if inner_low <= one.low and one.high <= inner_high:
            return Verdict(Outcome.SUPPORTED, f"{shown} lies within {inner}")
        if one.high < outer_low or one.low > outer_high:
            return Verdict(Outcome.REFUTED, f"{shown} lies outside {outer}")
        return Verdict(Outcome.INCONCLUSIVE, f"{shown} lies neither within {inner} nor outside {outer}")


class OneReading(Rule, kind="one_reading"):
    """Of two readings of eq. (8) exactly one gives a ratio within ``low`` .. ``high`` / neither does.

    Parts ``std`` and ``variance``, each a Count.
    """

    low: Threshold
    high: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        low, high = self.low, self.high
        ratios = {name: number(finding, name, part(finding, name, Count)) for name in ("std", "variance")}
        fits = [name for name, ratio in ratios.items() if low <= ratio <= high]
        shown = ", ".join(f"{name} {num(ratio, low, high)}" for name, ratio in ratios.items())
        outcome = (Outcome.REFUTED, Outcome.SUPPORTED, Outcome.INCONCLUSIVE)[len(fits)]
        which = ("neither", f"only {fits[0] if fits else ''}", "both")[len(fits)]
        return Verdict(outcome, f"ratios {shown}: {which} within {span(low, high)}")


class VanishingError(Rule, kind="vanishing_error"):
    """A numerical error, the value's estimate, is below ``supported_below`` and below that of a coarser rule, the
    part ``coarse`` (a Count) / it is not below the coarser one: it does not shrink."""

    supported_below: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        value, bound = estimate(finding), self.supported_below
        coarse = number(finding, "coarse", part(finding, "coarse", Count))
        shown = f"error {num(value, bound, coarse)}, coarse {num(coarse, value)}"
        if value >= coarse:
            return Verdict(Outcome.REFUTED, f"{shown}: it does not shrink")
        if value < bound:
            return Verdict(Outcome.SUPPORTED, f"{shown}: it shrinks, to below {num(bound)}")
        return Verdict(Outcome.INCONCLUSIVE, f"{shown}: it shrinks, but not to below {num(bound)}")


class Consistent(Rule, kind="consistent"):
    """The value counts places where the paper's own numbers contradict each other: none / any."""

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        violations, quantity = estimate(finding), finding.measurement.quantity
        if violations == 0:
            return Verdict(Outcome.SUPPORTED, f"{quantity}: none")
        return Verdict(Outcome.REFUTED, f"{quantity}: {num(violations, 0)}")


class MeasuredOnly(Rule, kind="measured"):
    """A number of our own that is held against nothing: MEASURED; INCONCLUSIVE where there is none, as at a floor."""

    why: ClassVar[str] = "a number of our own, held against nothing"

    def nothing_to_judge(self, claim: Claim, finding: Finding) -> str | None:
        found = finding.measurement
        number_found = found.value.estimate if found.value else None
        if found.floor is not None or number_found is None or not math.isfinite(number_found):
            return None
        return self.why


class Untestable(MeasuredOnly, kind="untestable"):
    """No measurement decides it: its number is shown, and there is no verdict."""

    why = "no measurement decides it"
    empirical = False

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        return Verdict(Outcome.INCONCLUSIVE, self.why)


class CorrectedOverlap(IntervalBelow, kind="corrected_overlap"):
    """The overlap corrected for chance, (overlap - chance) / (1 - chance), lies below ``supported_below`` / above
    ``refuted_above``, and unrelated items overlap less.

    Parts ``corrected overlap``, a Bound, and ``baseline gap``, an Effect: the overlap minus that of unrelated items,
    both as they stand. Where the gap's interval does not lie above 0, what was located is not shown to belong to the
    items, and neither verdict follows: so random sets are not SUPPORTED, and sets that are the same for every item are
    not REFUTED.
    """

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        low, high = ends(finding, "baseline gap", part(finding, "baseline gap", Effect))
        name = "corrected overlap"
        verdict = self.of(interval(finding, name, part(finding, name, Bound)))
        gap = f"overlap minus that of unrelated items {span(low, high, 0)}"
        if low > 0:
            return Verdict(verdict.outcome, f"{verdict.reason}; {gap} lies above 0")
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"{gap} does not lie above 0, so that what was located is not shown to belong to the item; "
            f"{verdict.reason}",
        )


class IdentityBelow(Rule, kind="identity_below"):
    """The share of pairs that are identical, the value, lies below ``identical`` and the part ``corrected overlap``, a
    Bound (see ``corrected_overlap``), below ``similar`` / either lies above.

    Unless the part ``baseline gap``, an Effect (overlap minus that of unrelated items), lies above 0, what is compared
    says nothing of the items, and the verdict is INCONCLUSIVE.
    """

    identical: Threshold
    similar: Threshold

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        gap, _ = ends(finding, "baseline gap", part(finding, "baseline gap", Effect))
        corrected = "corrected overlap"
        spans = [
            (value_interval(finding), self.identical),
            (interval(finding, corrected, part(finding, corrected, Bound)), self.similar),
        ]
        shown = "; ".join(
            f"{one.name}: interval {span(one.low, one.high, mark)} lies {_side(one, mark)} {num(mark)}"
            for one, mark in spans
        )
        if not gap > 0:
            return Verdict(
                Outcome.INCONCLUSIVE,
                f"unrelated items are not shown to overlap less (lower end of the gap {num(gap, 0)}); {shown}",
            )
        shown = f"{shown}; unrelated items overlap less by at least {num(gap)}"
        if any(one.low > mark for one, mark in spans):
            return Verdict(Outcome.REFUTED, shown)
        low = all(one.high < mark for one, mark in spans)
        return Verdict(Outcome.SUPPORTED if low else Outcome.INCONCLUSIVE, shown)


class RecallBelow(IntervalBelow, kind="recall_below"):
    """As ``interval_below``, read against controls: every part that is an Effect is the recall minus that of a control
    for the same items. Recall that is high refutes only where every difference lies above 0, since controls that recall
    as much show that recall comes with the method; recall that is low supports unless a control recalls more (a
    difference lies below 0)."""

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        verdict = super().judge(claim, finding)
        gaps = [interval(finding, name, one) for name, one in parts(finding, Effect).items()]
        shown = f"{verdict.reason}; recall minus that of {'; '.join(one.shown(0) for one in gaps)}"
        if verdict.outcome is Outcome.REFUTED and not all(one.low > 0 for one in gaps):
            return Verdict(
                Outcome.INCONCLUSIVE,
                f"controls are not shown to recall less, so that recall says nothing: {shown}",
            )
        if verdict.outcome is Outcome.SUPPORTED and any(one.high < 0 for one in gaps):
            return Verdict(
                Outcome.INCONCLUSIVE, f"a control recalls more, so that recall says nothing: {shown}"
            )
        return Verdict(verdict.outcome, shown)


def _undecided(one: Span, low: float, high: float) -> str:
    """How an interval lies that is neither below ``low`` nor above ``high``: in the gap between, or across an end."""
    if low == high:
        return f"contains {num(low)}"
    if low <= one.low and one.high <= high:
        return f"lies wholly between {num(low)} and {num(high)}, where the claim is neither supported nor refuted"
    return f"lies neither below {num(low)} nor above {num(high)}"


def _side(one: Span, mark: float) -> str:
    return "below" if one.high < mark else "above" if one.low > mark else "on both sides of"


def _unanimous(verdicts: Sequence[Verdict]) -> Outcome:
    """What all of them say, INCONCLUSIVE where they differ."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return outcomes.pop() if len(outcomes) == 1 else Outcome.INCONCLUSIVE
