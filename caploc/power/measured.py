"""How a measurement is put together of a design's samples, for each kind of rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from caploc.findings import AnyPart, Bound, Chance, Count, Effect, Measurement, Number, Part, Reading, Test
from caploc.papers import Claim
from caploc.power.designs import Design
from caploc.power.halves import Grown, Halves, Quantity, above_twins, from_other_text, growth
from caploc.power.items import Others
from caploc.power.truths import Truth, as_fraction, quantity_of
from caploc.rules.printed import HUNDREDTHS, DecidingReading
from caploc.statistics import Effect as Sampled
from caploc.statistics import binomial_interval, compare_successes, holm, share_interval

CONTROLS = 20
"""Facts on which controls of circuits run."""


@dataclass(frozen=True)
class Draw:
    """Where a simulated measurement takes its samples from: ``take`` gives one more of a truth by a design.
    ``covered``: the cell is one that the printed numbers are about."""

    take: Callable[[Design, float | None], Sampled | Grown]
    design: Design
    rng: np.random.Generator
    noise: float = 1.0
    covered: bool = True

    def effect(self, truth: float | None, design: Design | None = None) -> Sampled:
        """A sample of a design of facts or items, this one unless given."""
        found = self.take(design or self.design, truth)
        assert isinstance(found, Sampled)
        return found

    def grown(self, truth: float | None) -> Grown:
        """A sample of a design of examples."""
        found = self.take(self.design, truth)
        assert isinstance(found, Grown)
        return found

    def successes(self, share: float, trials: int) -> int:
        """Of a binomial distribution, or without noise what is expected."""
        return int(self.rng.binomial(trials, share)) if self.noise else round(share * trials)


def effects(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """Parts that are an Effect, their p values corrected over them and over the family."""
    found = [draw.effect(one) for one in _spread(truth, design.comparisons)]
    p = holm([min(1.0, one.p * design.family) for one in found])
    parts = {f"part {i}": _part(Effect, one, float(p[i])) for i, one in enumerate(found)}
    least = min(found, key=lambda one: one.estimate)
    return Measurement("difference", _part(Effect, least, least.p), parts)


def harmless(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """What other datasets and general text lose, and of every pair of datasets a Bound; of other designs `effects`."""
    if not isinstance(design, Others):
        return effects(claim, design, truth, draw)
    mean, text = draw.effect(truth[0]), draw.effect(truth[1], design.second)
    single = {
        f"pair {i}": _part(Bound, draw.effect(truth[0], design.single))
        for i in range(design.trained * design.elsewhere)
    }
    parts = {"other datasets": _part(Effect, mean), "general text": _part(Effect, text), **single}
    return Measurement("difference", _part(Effect, mean), parts)


def value(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """One level."""
    return Measurement("level", _part(Bound, draw.effect(truth[0])))


def corrected(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """A level corrected for chance, and how far it lies above that of unrelated items, which is 0 after correction."""
    one = draw.effect(truth[0])
    parts: dict[str, Part] = {"baseline gap": _part(Effect, one), "corrected overlap": _part(Bound, one)}
    return Measurement("level", _part(Bound, one), parts)


def identity(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """The share of identical pairs (`share_interval`), and the overlap as in `corrected`."""
    found = corrected(claim, design, truth[1:], draw)
    share = draw.successes(truth[0] or 0.0, design.units) / design.units
    one = share_interval(share, design.units)
    return replace(found, value=Bound(share, (one.low, one.high)))


def recall(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """Wilson's interval of recall, and the recall of the same facts minus that of controls (`compare_successes`)."""
    one = draw.effect(truth[0])
    control = draw.successes(truth[1] or 0.0, CONTROLS)
    own, alone = (
        (draw.rng.permutation(CONTROLS) < count).astype(float)
        for count in (round(one.estimate * CONTROLS), control)
    )
    gap = compare_successes(own, alone, np.arange(CONTROLS), 0)
    return Measurement("level", _part(Bound, one), {"controls": _part(Effect, gap)})


def bounds(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """Two levels."""
    found = [draw.effect(one) for one in _spread(truth, 2)]
    return Measurement(
        "levels", _part(Bound, found[0]), {f"{i}": _part(Bound, one) for i, one in enumerate(found)}
    )


def number(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """One number, quoted beside the printed one."""
    return Measurement("number", _part(Bound, draw.effect(truth[0])))


def reading(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """The reading that decides, alone."""
    assert isinstance(claim.rule, DecidingReading)
    one = draw.effect(truth[0])
    return Measurement("number", _part(Bound, one), {claim.rule.decides: _part(Reading, one)})


def no_more(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """How much more is shared, and how far what is located lies above chance."""
    more, above = draw.effect(truth[0]), draw.effect(truth[1])
    parts = {"more": _part(Effect, more), "above chance": _part(Effect, above)}
    return Measurement("level", _part(Bound, more), parts)


def direction(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """The direction in its parts; where the paper prints numbers for the cell, those too, of shares that are as
    printed, each with Wilson's interval."""
    found = effects(claim, design, truth, draw)
    numbers: dict[str, Part] = {}
    for one in (n for n in claim.numbers if draw.covered and n.unit in HUNDREDTHS):
        right = draw.successes(as_fraction(one), design.units)
        ends = binomial_interval(right, design.units, method="wilson")
        numbers[one.key] = Number(right / design.units, (ends.low, ends.high))
    return replace(found, parts={**found.parts, **numbers})


def specificity(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """An effect on its own kind, and one on others."""
    own, other = draw.effect(truth[0]), draw.effect(truth[1], design.second)
    parts = {"own": _part(Effect, own, own.p), "other": _part(Effect, other)}
    return Measurement("difference", _part(Effect, own), parts)


def best_of(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """Three columns; p and lead of all together, which share their items, are those of the middle one."""
    found = [draw.effect(one) for one in _spread(truth, max(3, design.comparisons))]
    parts: dict[str, Part] = {str(i): _part(Effect, one, one.p) for i, one in enumerate(found)}
    parts["best"] = Test(p=sorted(one.p for one in found)[len(found) // 2])
    parts["mean lead"] = _part(Bound, sorted(found, key=lambda one: one.estimate)[len(found) // 2])
    return Measurement("difference", _part(Effect, found[0]), parts)


def chances(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """Pairs of masks; layers are taken to hold as many as any."""
    found = [draw.effect(one) for one in _spread(truth, design.comparisons)]
    p = holm([one.p for one in found])
    parts = {
        str(i): Chance(one.estimate, p=float(p[i]), p_by_layer=float(p[i])) for i, one in enumerate(found)
    }
    return Measurement("overlap", _part(Bound, found[0]), parts)


def doses(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """The rise a dose, the trend and the reversal."""
    one = draw.effect(truth[0])
    return Measurement(
        "rise", Count(one.estimate), {"trend": Test(p=one.p_items), "reversal": Test(p=one.p_sets)}
    )


def partition(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """The mean over partitions, and one of them, which is alone and so the mean as well."""
    one = draw.effect(truth[0])
    return Measurement("difference", _part(Effect, one), {"a partition": _part(Effect, one)})


def difference(claim: Claim, design: Halves, truth: Truth, draw: Draw) -> Measurement:
    """Samples of halves, of the dataset, of the nearest other text and of scrambled text, and the gap to twins."""
    own, other, scrambled = (draw.grown(one) for one in truth[:3])
    beyond = design.beyond(own, truth[0] or 0.0, truth[3], draw.rng)
    return from_other_text(own, other, scrambled, beyond)


def twin(claim: Claim, design: Halves, truth: Truth, draw: Draw) -> Measurement:
    """A sample of halves, and the gap to twins."""
    own, size, gap = draw.grown(truth[0]), truth[0] or 0.0, truth[1]
    if claim.rule.kind != "both":
        parts = above_twins(design, own, size, gap, draw.rng, quantity_of(claim))
        return Measurement("agreement", parts["at full size"], parts)
    parts = {
        f"{quantity} {name}": part
        for quantity in get_args(Quantity)
        for name, part in above_twins(design, own, size, gap, draw.rng, quantity).items()
    }
    return Measurement("agreement", parts["overlap at full size"], parts)


def twins_alone(claim: Claim, design: Halves, truth: Truth, draw: Draw) -> Measurement:
    """The gap to twins."""
    return Measurement("gap", design.beyond(draw.grown(truth[0]), truth[0] or 0.0, truth[1], draw.rng))


def trend(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Measurement:
    """One sample of halves, along its curve."""
    return growth(draw.grown(truth[0]))


def _part(kind: type[AnyPart], one: Sampled, p: float | None = None) -> AnyPart:
    wide, narrow = one.interval, one.interval90
    return kind(one.estimate, (wide.low, wide.high), (narrow.low, narrow.high), p, n=one.items)


def _spread(truth: Truth, parts: int) -> list[float | None]:
    """A truth for every part; the last one given is that of the rest."""
    return [truth[min(place, len(truth) - 1)] for place in range(parts)]
