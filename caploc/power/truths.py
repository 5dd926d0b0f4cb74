"""Which truths each kind of rule is asked about: at its null, at the effect that it is meant to detect, and opposite.

A truth is a size for every part of a measurement, in the order in which `caploc.power.measured` takes them; the last
one given is that of the rest. Of designs of examples (`caploc.power.halves`) it is the noise that a sample is under.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats as distributions

from caploc.experiments.commonality_halves import LEAST_AGREEMENT
from caploc.papers import Claim, PrintedCell, PrintedNumber
from caploc.power.designs import Design
from caploc.power.halves import FAR, GRID, TWIN_SPREAD, Halves, Quantity
from caploc.power.items import Others, TextLoss
from caploc.rules.printed import HUNDREDTHS
from caploc.statistics.one_more import LEVEL, log_odds

Truth = tuple[float | None, ...]
STEP = 0.05
"""The rise a dose that a trend is meant to detect: five points of the score, the least loss that counts."""
NOTHING = GRID[-1]
"""So much noise that halves share next to nothing, as those of scrambled text in which no neuron stands out."""
MORE_THAN_TWINS = math.log(4)
"""Four times the odds: halves that agree by .8 where those of random weights agree by .5, or by .63 for .3."""
WELL_ABOVE_CHANCE = 0.3
PRINTED_HARM = 0.0558
"""What other datasets lose on average by the most harmful training that Table 4 prints."""


@dataclass(frozen=True)
class Truths:
    """True sizes of what a rule judges: ``nulls`` where SUPPORTED would be false, the worst of which counts; ``stated``
    what it is meant to detect, where REFUTED would be false; ``opposite`` where REFUTED is right; ``best`` and
    ``worst`` what data that agree perfectly would show, by which it is seen whether a verdict can be reached at all.
    ``shown``: the stated size in the quantity's own unit."""

    nulls: tuple[Truth, ...]
    stated: Truth
    opposite: Truth
    best: Truth
    worst: Truth
    shown: float | None = None

    @classmethod
    def simple(cls, null: Truth, stated: Truth, opposite: Truth, best: Truth, worst: Truth) -> Truths:
        """With one null, and the first part's size to show."""
        return cls((null,), stated, opposite, best, worst, stated[0])


def of_comparison(claim: Claim, design: Design) -> Truths:
    """One part without an effect among others that have it; all of them; the reverse, or where the rule says what the
    least effect is, none."""
    size = _detectable(claim)
    nothing = None if design.random_null else 0.0
    opposite = nothing if "least_effect" in claim.rule.parameters else -size
    return Truths.simple((nothing, size), (size,), (opposite,), (design.high,), (-design.high,))


def of_the_best(claim: Claim, design: Design) -> Truths:
    """Ahead nowhere, everywhere, and behind everywhere, or where the rule says what the least lead is, nowhere."""
    size = _detectable(claim)
    nothing = None if design.random_null else 0.0
    opposite = nothing if "least_lead" in claim.rule.parameters else -size
    return Truths.simple((nothing,), (size,), (opposite,), (design.high,), (-design.high,))


def of_chance(claim: Claim, design: Design) -> Truths:
    """One pair that shares what chance gives among others that share more; none shares more."""
    size = _detectable(claim)
    return Truths.simple((None, size), (size,), (None,), (design.high,), (None,))


def of_difference(claim: Claim, design: Halves) -> Truths:
    """Samples of: the dataset, the nearest other text and scrambled text; and how far twins lie below."""
    n, more = design.units, MORE_THAN_TWINS
    own = design.size_for(0.8, "overlap", n)
    other = design.size_for(design.at(own, "overlap", n) - _detectable(claim), "overlap", n)
    return Truths(
        ((own, own, NOTHING, more), (own, other, own, more), (own, other, NOTHING, None)),
        (own, other, NOTHING, more),
        (own, other, NOTHING, 0.0),
        (GRID[0], NOTHING, NOTHING, FAR),
        (other, GRID[0], NOTHING, FAR),
        _detectable(claim),
    )  # fmt: skip


def of_twin(claim: Claim, design: Halves) -> Truths:
    """Samples of the dataset, and how far twins lie below; of ``both``, overlap and IoU of the same samples."""
    parameters, paper = claim.rule.parameters, max(design.paper, design.units)
    bounds: dict[Quantity, str] = (
        {"overlap": "overlap_", "iou": "iou_"} if claim.rule.kind == "both" else {quantity_of(claim): ""}
    )
    at_null, stated, shown = [], [], 0.0
    for quantity, before in bounds.items():
        supported = parameters[f"{before}supported_above"]
        own_numbers = [as_fraction(one) for one in claim.numbers if one.key == quantity]
        wanted = own_numbers[0] if own_numbers and len(bounds) > 1 else _stated_level(claim, supported, 1.0)
        at_null.append(design.size_for(supported, quantity, paper, below=True))
        stated.append(design.size_for(wanted, quantity, paper))
        shown = wanted
    own = min(stated)
    return Truths(
        ((min(at_null), FAR), (own, None)),
        (own, MORE_THAN_TWINS),
        (own, 0.0),
        (GRID[0], FAR),
        (own, -FAR),
        shown,
    )


def of_twins_alone(claim: Claim, design: Halves) -> Truths:
    """The model is one more twin; it lies above what 95 % of twins stay below by the stated size; it is as twins are on
    average."""
    own = design.size_for(0.8, "overlap", design.few)
    there = design.at(own, "overlap", design.few)
    bound = float(log_odds(there - _detectable(claim)))
    of_bound = float(distributions.norm.isf(LEVEL)) * TWIN_SPREAD
    gap = float(log_odds(there)) - bound + of_bound
    return Truths(((own, None),), (own, gap), (own, 0.0), (own, FAR), (own, -FAR), _detectable(claim))


def of_trend(claim: Claim, design: Halves) -> Truths:
    """What the last doubling up to the paper's number adds: less than the rule asks for after a rise, just as much, and
    more than that; where nothing stands out nothing rises."""
    n, paper = design.units, max(design.paper, design.units)
    gains = np.array([design.at(s, "overlap", paper) - design.at(s, "overlap", paper // 2) for s in GRID])
    rises = np.array([design.at(s, "overlap", n) - design.at(s, "overlap", max(8, n // 8)) for s in GRID])
    most = claim.rule.parameters["last_supported_below"]
    rising = [i for i in range(len(GRID)) if rises[i] > 0.1 and gains[i] < most] or [int(gains.argmin())]
    stated = min(rising, key=lambda i: abs(gains[i] - most / 3))
    null = min(
        (i for i in range(len(GRID)) if gains[i] >= most), key=lambda i: gains[i], default=len(GRID) - 1
    )
    bounded = [
        i for i in range(len(GRID)) if n >= paper or design.at(GRID[i], "overlap", n) > 1.1 * LEAST_AGREEMENT
    ]
    sizes = [GRID[i] for i in (null, stated, max(bounded, key=lambda i: gains[i]))]
    return Truths(
        ((sizes[0],), (NOTHING,)), (sizes[1],), (sizes[2],), (sizes[1],), (sizes[2],), float(gains[stated])
    )


def of_specificity(claim: Claim, design: Design) -> Truths:
    """No effect on its own kind; an effect there alone; effects on others that are too large."""
    size, parameters = _detectable(claim), claim.rule.parameters
    nothing = None if design.random_null else 0.0
    far = min(2.0 if isinstance(design, TextLoss) else 1.0, 2 * parameters["other_refuted"])
    return Truths(
        ((nothing, 0.0), (size, parameters["other_margin"])),
        (size, 0.0),
        (size, far),
        (design.high, 0.0),
        (0.0, far),
        size,
    )


def of_equivalence(claim: Claim, design: Design) -> Truths:
    """The smallest difference that is none is the margin itself: as few parts there as leave the share unmet."""
    margin, parts = claim.rule.parameters["margin"], design.comparisons
    equal = math.ceil(claim.rule.parameters["share"] * parts - 1e-9) - 1
    null = (0.0,) * equal + (margin,) * (parts - equal)
    return Truths.simple(null, (0.0,), (3 * margin,), (0.0,), (design.high,))


def of_partition(claim: Claim, design: Design) -> Truths:
    """Structured halves that agree less by the margin, by nothing, and by far more."""
    margin = claim.rule.parameters["margin"]
    return Truths.simple((margin,), (0.0,), (4 * margin,), (0.0,), (0.8,))


def of_harmlessness(claim: Claim, design: Design) -> Truths:
    """One part at the margin among others without harm; none harmed; all harmed by far more."""
    margin = claim.rule.parameters["margin"]
    if isinstance(design, Others):
        low = (-design.high, 0.0)
        return Truths(
            ((-margin, 0.0), (0.0, -margin)), (0.0, 0.0), (-PRINTED_HARM, 0.0), (0.0, 0.0), low, 0.0
        )
    return Truths.simple((-margin, 0.0), (0.0,), (-5 * margin,), (0.0,), (-design.high,))


def of_no_more(claim: Claim, design: Design) -> Truths:
    """How much more they share, and how far what is located lies above chance."""
    margin = claim.rule.parameters["margin"]
    return Truths(
        ((margin, WELL_ABOVE_CHANCE), (0.0, 0.0)),
        (0.0, WELL_ABOVE_CHANCE),
        (3 * margin, WELL_ABOVE_CHANCE),
        (0.0, 1.0),
        (1.0, 1.0),
        0.0,
    )


def of_level(claim: Claim, design: Design, names: tuple[str, str], above: bool) -> Truths:
    """SUPPORTED on one side of a threshold: the stated level is what the paper prints, or where it prints none on that
    side half-way to the end of the scale; the opposite is half-way to the other end."""
    supported, refuted = (claim.rule.parameters[name] for name in names)
    top, bottom = (design.high, design.low) if above else (design.low, design.high)
    middle = _stated_level(claim, supported, top)
    if not design.low <= middle <= design.high:
        middle = (supported + top) / 2
    return Truths.simple((supported,), (middle,), ((refuted + bottom) / 2,), (top,), (bottom,))


def of_identity(claim: Claim, design: Design) -> Truths:
    """The share of identical pairs, and the corrected overlap: both low; one of them at its threshold; both high."""
    identical, similar = claim.rule.parameters["identical"], claim.rule.parameters["similar"]
    printed = _stated_level(claim, identical, 0.0)
    return Truths(
        ((identical, similar / 2), (printed, similar)),
        (printed, similar / 2),
        ((1 + identical) / 2, (1 + similar) / 2),
        (0.0, similar / 2),
        (1.0, 1.0),
        printed,
    )


def of_recall(claim: Claim, design: Design) -> Truths:
    """The recall of circuits, and that of controls."""
    supported, refuted = claim.rule.parameters["supported_below"], claim.rule.parameters["refuted_above"]
    printed = _stated_level(claim, supported, 0.0)
    return Truths(
        ((supported, 0.0), (printed, 1.0)),
        (printed, printed / 2),
        ((1 + refuted) / 2, 0.0),
        (0.0, 0.0),
        (1.0, 0.0),
        printed,
    )


def of_band(claim: Claim, design: Design) -> Truths:
    """The upper end of the range, its middle, and far outside."""
    low, high = claim.rule.parameters["supported_low"], claim.rule.parameters["supported_high"]
    outside = (claim.rule.parameters["refuted_high"] + design.high) / 2
    return Truths.simple((high,), ((low + high) / 2,), (outside,), ((low + high) / 2,), (design.high,))


def of_printed(claim: Claim, design: Design) -> Truths:
    """The printed number, the end of its margin, and three margins further."""
    quoted = quoted_of(claim)
    value = as_fraction(quoted) if quoted else (design.low + design.high) / 2
    margin = claim.margin
    width = (
        0.05 if margin is None else margin.value if margin.kind == "absolute" else value * (margin.value - 1)
    )
    inward = -1 if value + 3 * width > design.high else 1
    far = float(np.clip(value + 3 * inward * width, design.low, design.high))
    other = design.low if value > (design.low + design.high) / 2 else design.high
    return Truths.simple((value + inward * width,), (value,), (far,), (value,), (other,))


def of_doses(claim: Claim, design: Design) -> Truths:
    """No rise, `STEP` a dose, and as steep a fall."""
    return Truths.simple((0.0,), (STEP,), (-STEP,), (0.4,), (-0.4,))


def printed_of(claim: Claim) -> list[PrintedCell | PrintedNumber]:
    """What the paper prints for the claim, table cells first."""
    return [*claim.cells, *claim.numbers]


def quoted_of(claim: Claim) -> PrintedCell | PrintedNumber | None:
    """The printed number that a simulated one is held against: of table cells the middle one, else the first."""
    if claim.cells and claim.rule.kind != "readings":
        return sorted(claim.cells, key=lambda one: one.value)[len(claim.cells) // 2]
    return next(iter(claim.numbers), None)


def as_fraction(number: Any) -> float:
    """A printed number in the unit of findings."""
    return float(number.printed) / (100 if number.unit in HUNDREDTHS else 1)


def _stated_level(claim: Claim, supported: float, end: float) -> float:
    """The median of what is printed on the supported side, or else half-way to the end of the scale."""
    printed = [as_fraction(one) for one in printed_of(claim)]
    right = [one for one in printed if (one > supported) is (end > supported) and one != supported]
    return float(np.median(right)) if right else (supported + end) / 2


def _detectable(claim: Claim) -> float:
    return float(claim.rule.detectable or 0)


def quantity_of(claim: Claim) -> Quantity:
    """Which of the two agreements of Table 1 a claim is about."""
    return "iou" if "iou" in claim.id else "overlap"
