"""Rules of differences: located against something else, where positive speaks for the claim, and of no difference.

Where a difference is both above zero and equivalent to zero, equivalence decides: an effect needs a size as well as a
sign. Equivalence is read from 90 % intervals (two one-sided tests at level .05), signs from 95 % ones; no difference
is shown by intervals within a margin set beforehand, never by a large p value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caploc.findings import Bound, Effect, Finding, Number, Outcome, Test, Verdict
from caploc.rules.base import (
    Comparison,
    NonNegative,
    Rule,
    Share,
    Span,
    at_once,
    ends,
    interval,
    listed,
    num,
    number,
    part,
    parts,
    span,
    value_interval,
    value_interval90,
)
from caploc.rules.levels import beyond_twins
from caploc.rules.printed import AgreesWithPrinted

if TYPE_CHECKING:
    from caploc.papers import Claim

ROUNDING = 1e-9
"""A share such as 8/9, written in decimals, must not ask for one part more."""


class Difference(Comparison, kind="difference"):
    """Overlap within a dataset minus overlap with one of another kind lies above 0, with the p value of the part
    ``permutation`` (a Test) below the level; it lies above that of scrambled text, the part ``scrambled gap`` (an
    Effect), by an amount not equivalent to 0 within ``equivalence_margin``, and above that of untrained twins, the part
    ``beyond twins`` (`caploc.rules.levels.beyond_twins`) / it does not lie above 0, text of another kind or scrambled
    text overlaps equally, or random weights show as much."""

    equivalence_margin: NonNegative

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        own, margin = value_interval(finding), self.equivalence_margin
        scrambled = part(finding, "scrambled gap", Effect)
        gap_low, gap_high = ends(finding, "scrambled gap", scrambled)
        narrow = Span("", ends(finding, "scrambled gap", scrambled, "interval90"))
        p = number(finding, "permutation", part(finding, "permutation", Test), "p")
        twins, own90 = beyond_twins(finding, "beyond twins"), value_interval90(finding)
        shown = f"{own.name}: interval {span(own.low, own.high, 0)}{' lies above 0' if own.low > 0 else ''}"
        gap90 = (
            f"scrambled text overlaps less by [{num(narrow.low, -margin)}, {num(narrow.high, margin)}] (90 %)"
        )
        if own.high <= 0:
            return Verdict(Outcome.REFUTED, f"{shown} is not above 0; {twins.reason}")
        if own90.within(margin):
            return Verdict(
                Outcome.REFUTED,
                f"{own.name}: 90 % interval [{num(own90.low, -margin)}, {num(own90.high, margin)}], within "
                f"{num(margin)} of 0: text of another kind overlaps equally; {twins.reason}",
            )
        if twins.outcome is Outcome.REFUTED:
            return Verdict(Outcome.REFUTED, f"{twins.reason}; {shown}")
        if narrow.within(margin):
            return Verdict(
                Outcome.REFUTED,
                f"{gap90}, within {num(margin)} of 0: scrambled text overlaps equally; {shown}",
            )
        shown = (
            f"{shown}; permutation p {num(p, claim.level)} at level {num(claim.level)}; scrambled text overlaps "
            f"less by {span(gap_low, gap_high, 0)}; {twins.reason}"
        )
        supported = twins.outcome is Outcome.SUPPORTED
        if own.low > 0 and p < claim.level and gap_low > 0 and supported:
            return Verdict(Outcome.SUPPORTED, shown)
        missing = ["the interval contains 0"] if own.low <= 0 else []
        missing += ["p is not below the level"] if p >= claim.level else []
        missing += ["scrambled text is not shown to overlap less"] if gap_low <= 0 else []
        missing += [] if supported else ["untrained twins are not shown to overlap less"]
        return Verdict(Outcome.INCONCLUSIVE, f"{', '.join(missing)}: {shown}")

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _ps(finding, "permutation")


class PlainDifference(Comparison, kind="plain_difference"):
    """The value's interval lies above 0, and its 90 % one not within ``equivalence_margin`` of 0 / it does not lie
    above 0, or is equivalent to 0."""

    equivalence_margin: NonNegative

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        one, gap, margin = value_interval(finding), value_interval90(finding), self.equivalence_margin
        shown = f"{one.name}: interval {span(one.low, one.high, 0)}"
        if one.high <= 0:
            return Verdict(Outcome.REFUTED, f"{shown} is not above 0")
        if gap.within(margin):
            return Verdict(
                Outcome.REFUTED,
                f"{one.name}: 90 % interval [{num(gap.low, -margin)}, {num(gap.high, margin)}] lies "
                f"within {num(margin)} of 0, the two are equivalent; {shown}",
            )
        if one.low > 0:
            return Verdict(Outcome.SUPPORTED, f"{shown} lies above 0")
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"{shown} contains 0, and the 90 % interval reaches beyond {num(margin)} of 0: neither a difference nor "
            "equivalence is shown",
        )


class EveryEffect(Comparison, kind="comparison"):
    """Parts that are an Effect: all lie above 0 with p below the level and are not equivalent to 0 within
    ``equivalence_margin`` / one lies at or below 0, is equivalent to 0, or does not lie above 0 and is shown (by its
    90 % interval) to be smaller than ``least_effect``, where that is given: the smallest that the claim can mean."""

    equivalence_margin: NonNegative
    least_effect: NonNegative | None = None

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        return self.among(claim, finding, 0)

    def among(self, claim: Claim, finding: Finding, others: int) -> Verdict:
        """The verdict where so many ``others`` than the effects can refute the claim, too."""
        found = parts(finding, Effect)
        verdicts = [
            _effect(
                claim,
                finding,
                name,
                self.equivalence_margin,
                self.least_effect,
                of=len(found) + others,
                alone=len(found) == 1,
            )
            for name in found
        ]
        by_outcome = {
            outcome: [verdict.reason for verdict in verdicts if verdict.outcome is outcome]
            for outcome in (Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.SUPPORTED)
        }
        decides = next(outcome for outcome, reasons in by_outcome.items() if reasons)
        if len(by_outcome[decides]) == len(verdicts):
            return Verdict(decides, listed(by_outcome[decides]))
        # what decides comes first, but what says otherwise is not kept from the reader
        said = {
            Outcome.REFUTED: "against",
            Outcome.INCONCLUSIVE: "undecided",
            Outcome.SUPPORTED: "in favour",
        }
        sides = (
            f"{said[outcome]} {len(reasons)} of {len(verdicts)} effects: {listed(reasons)}"
            for outcome, reasons in by_outcome.items()
            if reasons
        )
        return Verdict(decides, "; ".join(sides))

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _ps(finding, *finding.measurement.of(Effect))


class BestOf(Comparison, kind="best_of"):
    """Parts that are an Effect, each the best rival subtracted: at least ``share`` of the estimates lie above 0, with
    the p value of the part ``best`` (a Test: how often chance alone puts as many ahead) below the level, and no
    interval lies below 0 / one interval lies below 0, or, with ``least_lead``, the part ``mean lead`` (a Bound, over
    all of them) does not lie above 0 and is shown (by its 90 % interval) to be smaller than that."""

    share: Share
    least_lead: NonNegative | None = None

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        effects = parts(finding, Effect)
        spans = [interval(finding, name, one) for name, one in effects.items()]
        estimates = [number(finding, name, one) for name, one in effects.items()]
        p = number(finding, "best", part(finding, "best", Test), "p")
        together = [at_once(finding, name, one, len(effects)) for name, one in effects.items()]
        behind = [one.shown(0) for one in together if one.high < 0]
        if behind:
            return Verdict(
                Outcome.REFUTED,
                f"{len(behind)} of {len(spans)} intervals{_held(len(spans))} below 0, behind the best rival: "
                f"{listed(behind)}",
            )
        if self.least_lead is not None:
            lead = part(finding, "mean lead", Bound)
            wide, narrow = (interval(finding, "mean lead", lead, one) for one in ("interval", "interval90"))
            if wide.low <= 0 and narrow.high < self.least_lead:
                ends_shown = span(narrow.low, narrow.high, self.least_lead)
                return Verdict(
                    Outcome.REFUTED,
                    f"no lead over the best rival: {wide.shown(0)} contains 0, and its 90 % interval {ends_shown} lies "
                    f"below {num(self.least_lead)}",
                )
        ahead = sum(value > 0 for value in estimates)
        shown = (
            f"ahead of the best rival in {ahead} of {len(spans)} ({num(self.share)} needed), p {num(p, claim.level)} "
            f"at level {num(claim.level)}; "
        )
        below = [one.shown(0) for one in spans if one.high < 0]
        shown += f"below 0, but not{_held(len(spans))}: {listed(below)}" if below else "no interval below 0"
        if ahead >= self.share * len(spans) - ROUNDING and p < claim.level and not below:
            return Verdict(Outcome.SUPPORTED, shown)
        return Verdict(Outcome.INCONCLUSIVE, shown)

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _ps(finding, "best")


class Specificity(Comparison, kind="specificity"):
    """An effect on its own kind and none on others: the part ``own`` (an Effect) as in ``comparison``, and the part
    ``other`` (an Effect) equivalent to 0 within ``other_margin`` / own is refuted, or the whole interval of other lies
    beyond ``other_refuted`` on either side."""

    equivalence_margin: NonNegative
    other_margin: NonNegative
    other_refuted: NonNegative

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        own = _effect(claim, finding, "own", self.equivalence_margin, of=2, alone=True)
        others = part(finding, "other", Effect)
        wide = at_once(finding, "other", others, 2).called("elsewhere")
        narrow = interval(finding, "other", others, "interval90").called("elsewhere")
        margin, beyond = self.other_margin, self.other_refuted
        if own.outcome is Outcome.REFUTED:
            return own
        if wide.low > beyond or wide.high < -beyond:
            return Verdict(
                Outcome.REFUTED,
                f"{wide.shown(beyond, -beyond)}{_held(2)} is further than {num(beyond)} from 0; {own.reason}",
            )
        inside = narrow.within(margin)
        lies = "lies" if inside else "does not lie"
        other = f"{narrow.shown(margin, -margin)} (90 %) {lies} within {num(margin)} of 0"
        return Verdict(own.outcome if inside else Outcome.INCONCLUSIVE, f"{own.reason}; {other}")

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _ps(finding, "own")


class Equivalence(Rule, kind="equivalence"):
    """Parts that are an Effect: at least ``share`` of them have their interval within ``margin`` of 0 / so many lie
    wholly outside it that the share cannot be reached. Of all parts, their 90 % interval; of a share below 1, their
    ``interval``, which must hold for as many of them as are free to be or not to be equal
    (`caploc.statistics.free_level`), or some of several that are not would pass by accident."""

    margin: NonNegative
    share: Share

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        margin = self.margin
        field, called = (
            ("interval90", "90 % interval") if self.share == 1 else ("interval", "simultaneous interval")
        )
        effects = parts(finding, Effect)
        spans = [interval(finding, name, one, field) for name, one in effects.items()]
        needed = math.ceil(self.share * len(spans) - ROUNDING)
        of = len(spans) if self.share == 1 else 1  # simultaneous intervals hold for several already
        refuting = [at_once(finding, name, one, of, field) for name, one in effects.items()]
        inside = [one for one in spans if one.within(margin)]
        outside = [one for one in refuting if one.low >= margin or one.high <= -margin]
        if len(spans) == 1:
            shown = f"{_alone(finding, spans[0]).shown(margin, -margin)} ({called}) lies"
            if inside:
                return Verdict(Outcome.SUPPORTED, f"{shown} within {num(margin)} of 0")
            if outside:
                return Verdict(Outcome.REFUTED, f"{shown} wholly more than {num(margin)} from 0")
            return Verdict(
                Outcome.INCONCLUSIVE, f"{shown} neither within {num(margin)} of 0 nor wholly outside"
            )
        count = (
            f"{len(inside)} of {len(spans)} {called}s "
            f"{'lies' if len(inside) == 1 else 'lie'} within {num(margin)} of 0 ({needed} needed)"
        )
        if len(inside) >= needed:
            return Verdict(
                Outcome.SUPPORTED, f"{count}: {listed([one.shown(margin, -margin) for one in inside])}"
            )
        if len(spans) - len(outside) < needed:
            return Verdict(
                Outcome.REFUTED,
                f"{count}; outside{_held(of)} lie {listed([one.shown(margin, -margin) for one in outside])}",
            )
        undecided = [one.shown(margin, -margin) for one in spans if one not in inside]
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"{count}; {listed(undecided)} {'does' if len(undecided) == 1 else 'do'} not",
        )


class NonInferiority(Rule, kind="non_inferiority"):
    """Parts that are an Effect: every interval lies above ``-margin``, and of parts that are a Bound, whose intervals
    hold for all of them together, none lies wholly below it / one of either kind lies wholly below it."""

    margin: NonNegative

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        bound = -self.margin
        effects, single = parts(finding, Effect), finding.measurement.of(Bound)
        spans = [interval(finding, name, one) for name, one in effects.items()]
        of = len(effects) + bool(single)
        every = [at_once(finding, name, one, of) for name, one in {**effects, **single}.items()]
        below = [one.shown(bound) for one in every if one.high < bound]
        if below:
            return Verdict(Outcome.REFUTED, f"below {num(bound)}{_held(of)}: {listed(below)}")
        alone = [interval(finding, name, one) for name, one in single.items()]
        open_ = [one.shown(bound) for one in spans if one.low <= bound]
        open_ += [one.shown(bound) for one in alone if one.high < bound]
        if open_:
            return Verdict(Outcome.INCONCLUSIVE, f"may lie below {num(bound)}: {listed(open_)}")
        worst = min(spans, key=lambda one: one.low)
        shown = (
            f"{worst.shown(bound)} lies above {num(bound)}"
            if len(spans) == 1
            else f"{'both' if len(spans) == 2 else f'all {len(spans)}'} intervals lie above {num(bound)}, the lowest "
            f"is {worst.shown(bound)}"
        )
        none = f"; none of {len(single)} single ones is shown to lie below it" if single else ""
        return Verdict(Outcome.SUPPORTED, shown + none)


class Partition(Rule, kind="partition"):
    """The value, what structured partitions lie below random ones on average, has its 90 % interval within ``margin``
    of 0 / one of the structured ones, the parts that are an Effect, lies lower by more than ``margin``, with an
    interval that holds for all of them together."""

    margin: NonNegative

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        margin, mean = self.margin, value_interval90(finding)
        kinds = [interval(finding, name, one) for name, one in parts(finding, Effect).items()]
        shown = f"structured partitions overlap less by {span(mean.low, mean.high, margin, -margin)} (90 %) on average"
        single = f"lower than random ones: {listed([one.shown(margin) for one in kinds], len(kinds))}"
        below = [one.name for one in kinds if one.low > margin]
        if below:
            return Verdict(
                Outcome.REFUTED, f"{single}; {' and '.join(below)} by more than {num(margin)}; {shown}"
            )
        if mean.within(margin):
            return Verdict(Outcome.SUPPORTED, f"{shown}, within {num(margin)} of 0; {single}")
        return Verdict(
            Outcome.INCONCLUSIVE,
            f"{shown}, not within {num(margin)} of 0; {single}: none is shown to be lower by more than {num(margin)}",
        )


class NoMore(Rule, kind="no_more"):
    """Things that have something in common share no more of what is located than others, where what is located means
    something.

    Parts ``more``, an Effect: what they share minus what others share, and ``above chance``, an Effect. The former's
    90 % interval ends below ``margin``, and the latter lies above 0 / the former's interval lies above ``margin``.
    """

    margin: NonNegative

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        margin, more = self.margin, part(finding, "more", Effect)
        wide, narrow = interval(finding, "more", more), interval(finding, "more", more, "interval90")
        chance = interval(finding, "above chance", part(finding, "above chance", Effect))
        shown = (
            f"what they share minus what others share {span(wide.low, wide.high, margin)}, one-sided 95 % at most "
            f"{num(narrow.high, margin)}; what is located overlaps above chance by {span(chance.low, chance.high, 0)}"
        )
        if wide.low > margin:
            return Verdict(Outcome.REFUTED, f"{shown}: more by over {num(margin)}")
        if narrow.high < margin and chance.low > 0:
            return Verdict(
                Outcome.SUPPORTED,
                f"{shown}: not more by {num(margin)}, and what is located is shown to lie above chance",
            )
        missing = ["what is located is not shown to lie above chance"] if chance.low <= 0 else []
        missing += [f"they may share more by {num(margin)}"] if narrow.high >= margin else []
        return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {' and '.join(missing)}")


class PrintedOrDirection(AgreesWithPrinted, Comparison, kind="printed_or_direction"):
    """The direction that the printed numbers have, tested in any model: as ``comparison``, of the parts that are an
    Effect, each positive in that direction. In cells for which the paper prints numbers these, too, as ``agreement``:
    both are supported / either is refuted."""

    detectable: NonNegative
    equivalence_margin: NonNegative

    def nothing_to_judge(self, claim: Claim, finding: Finding) -> str | None:
        return None

    def heeds_floor(self, finding: Finding) -> bool:
        return True

    def judge(self, claim: Claim, finding: Finding) -> Verdict:
        direction = EveryEffect(detectable=self.detectable, equivalence_margin=self.equivalence_margin)
        numbers = finding.measurement.of(Number) if claim.covers(finding.cell) else {}
        verdicts = {"in the direction of the printed numbers": direction.among(claim, finding, len(numbers))}
        if numbers:
            effects = finding.measurement.of(Effect)
            verdicts["the numbers themselves"] = self.among(claim, finding, len(effects))
        outcomes = [one.outcome for one in verdicts.values()]
        outcome = next(
            (one for one in (Outcome.REFUTED, Outcome.INCONCLUSIVE) if one in outcomes), Outcome.SUPPORTED
        )
        return Verdict(outcome, "; ".join(f"{name}: {one.reason}" for name, one in verdicts.items()))

    def decisive(self, finding: Finding) -> Sequence[float | None]:
        return _ps(finding, *finding.measurement.of(Effect))


def _effect(
    claim: Claim,
    finding: Finding,
    name: str,
    margin: float,
    least: float | None = None,
    of: int = 1,
    alone: bool = False,
) -> Verdict:
    """Whether one part is an effect: above 0, with a p below the level, and not equivalent to 0; ``least``: the
    smallest that counts; ``of``: how many parts can refute the claim (`caploc.rules.base.at_once`); ``alone``: it is
    what the finding is about."""
    one = part(finding, name, Effect)
    wide, narrow = interval(finding, name, one), interval(finding, name, one, "interval90")
    wide = _alone(finding, wide) if alone else wide
    refuting, refuting90 = (at_once(finding, name, one, of, field) for field in ("interval", "interval90"))
    p = number(finding, name, one, "p")
    shown = f"{wide.shown(0)}, one-sided p {num(p, claim.level)}"
    held = _held(of)
    if refuting.high <= 0:
        return Verdict(Outcome.REFUTED, f"{shown}: the interval{held} is not above 0")
    if refuting90.within(margin):
        ends_shown = span(refuting90.low, refuting90.high, margin, -margin)
        return Verdict(
            Outcome.REFUTED, f"{shown}: the 90 % interval{held} {ends_shown} lies within {num(margin)} of 0"
        )
    if least is not None and wide.low <= 0 and refuting90.high < least:
        ends_shown = span(refuting90.low, refuting90.high, least)
        return Verdict(
            Outcome.REFUTED,
            f"{shown}: the interval contains 0, and the 90 % interval{held} {ends_shown} lies below {num(least)}",
        )
    equal = narrow.within(margin)
    if wide.low > 0 and p < claim.level and not equal:
        return Verdict(
            Outcome.SUPPORTED, f"{shown}: the interval lies above 0 and p below {num(claim.level)}"
        )
    missing = ["the interval does not lie above 0" if wide.high <= 0 else "the interval contains 0"]
    missing = missing if wide.low <= 0 else []
    missing += [f"p is not below {num(claim.level)}"] if p >= claim.level else []
    missing += [f"alone it lies within {num(margin)} of 0, but not{held}"] if equal else []
    return Verdict(Outcome.INCONCLUSIVE, f"{shown}: {' and '.join(missing)}")


def _alone(finding: Finding, one: Span) -> Span:
    """The interval of a finding's only effect under a name that says what was compared."""
    quantity = finding.measurement.quantity
    named = one.name in quantity or one.name == "own"
    return one.called(quantity if named else f"{quantity}, {one.name}")


def _held(of: int) -> str:
    """That intervals are wider, since any of ``of`` parts can refute the claim."""
    return "" if of == 1 else f" (for {of} parts at once)"


def _ps(finding: Finding, *names: str) -> list[float | None]:
    """The p values of these parts; None for one that is not there."""
    found = finding.measurement.parts
    return [found[name].p if name in found else None for name in names]
