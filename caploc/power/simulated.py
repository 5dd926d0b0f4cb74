"""Which truths a rule is asked about, and how often it then says SUPPORTED and REFUTED.

For each kind of rule `TRUTHS` says what holds at its null, at the effect that it is meant to detect and at the
opposite, and how a measurement is put together of a design's samples. Samples are drawn once a truth and combined
anew for every simulated measurement: its parts are of different tasks, so they are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from caploc import findings, rules, statistics
from caploc.findings import (
    AnyPart,
    Bound,
    Cell,
    Count,
    Effect,
    Finding,
    Measurement,
    Number,
    Outcome,
    Part,
    Reading,
    Test,
)
from caploc.fingerprints import file_hash, fingerprint
from caploc.papers import Claim, PrintedCell, PrintedFor, PrintedNumber
from caploc.power.designs import Design, Doses, Halves
from caploc.rules import judge
from caploc.rules.printed import HUNDREDTHS
from caploc.statistics import Effect as Sampled
from caploc.statistics import binomial_interval, holm
from caploc.store import Store

RUNS = 100
"""Simulated measurements of each truth, for a plan; `python -m caploc.benchmarks statistics` takes more."""
EXTREME_RUNS = 10
CELL = Cell("simulated", "simulated", 6.0)
HERE = PrintedFor((CELL.model,), CELL.dataset)
STEP = 0.05
"""The rise a dose that a trend is meant to detect: five points of the score, the least loss that counts."""

Take = Callable[["float | None"], Sampled]


@dataclass(frozen=True)
class Truths:
    """True sizes of what a rule judges, one a part or one for all: ``null`` where SUPPORTED would be false, ``stated``
    what it is meant to detect, where REFUTED would be false, ``opposite`` where REFUTED is right, ``best`` and
    ``worst`` what data that agree perfectly would show, by which it is seen whether a verdict can be reached at all."""

    null: tuple[float | None, ...]
    stated: tuple[float | None, ...]
    opposite: tuple[float | None, ...]
    best: tuple[float | None, ...]
    worst: tuple[float | None, ...]


@dataclass(frozen=True)
class Rates:
    """How often, of ``runs``: ``power``: SUPPORTED at the stated effect; ``against``: REFUTED at the opposite."""

    power: float
    against: float
    false_supported: float
    false_refuted: float
    can_support: bool
    can_refute: bool
    stated: float | None
    runs: int = RUNS

    @property
    def calibrated(self) -> bool:
        """Whether neither error rate is above 5 %, as far as so many runs tell (the rate's exact 99.8 % interval)."""
        errors = (self.false_supported, self.false_refuted)
        return all(binomial_interval(round(one * self.runs), self.runs, 0.998).low <= 0.05 for one in errors)


@dataclass(frozen=True)
class Asked:
    """What `TRUTHS` holds of a kind of rule."""

    truths: Callable[[Claim, Design], Truths]
    measure: Callable[[Claim, Design, tuple[float | None, ...], Take], Measurement]


# ---------------------------------------------------------------------------------------- from samples to measurements


def _part(kind: type[AnyPart], one: Sampled, p: float | None = None) -> AnyPart:
    wide, narrow = one.interval, one.interval90
    return kind(one.estimate, (wide.low, wide.high), (narrow.low, narrow.high), p, n=one.items)


def _spread(truth: tuple[float | None, ...], parts: int) -> list[float | None]:
    """A truth for every part; the last one given is that of the rest."""
    return [truth[min(place, len(truth) - 1)] for place in range(parts)]


def _effects(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
    found = [take(one) for one in _spread(truth, design.comparisons)]
    p = holm([one.p for one in found])
    parts = {f"part {i}": _part(Effect, one, float(p[i])) for i, one in enumerate(found)}
    least = min(found, key=lambda one: one.estimate)
    return Measurement("difference", _part(Effect, least, least.p), parts)


def _value(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
    """One level, and beside it, for rules that ask for it, the overlap of unrelated items, which lies .15 lower."""
    one = take(truth[0])
    shift = lambda by: Effect(by, (by - 0.05, by + 0.05), (by - 0.04, by + 0.04))  # noqa: E731
    parts: dict[str, Part] = {"baseline gap": shift(0.15), "corrected overlap": _part(Bound, one)}
    return Measurement("level", _part(Bound, one), parts)


def _bounds(names: tuple[str, ...]) -> Callable[..., Measurement]:
    def measure(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
        found = [take(one) for one in _spread(truth, len(names))]
        parts = {name: _part(Bound, one) for name, one in zip(names, found, strict=True)}
        return Measurement("levels", _part(Bound, found[0]), parts)

    return measure


def _numbers(kind: type[Part]) -> Callable[..., Measurement]:
    def measure(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
        one = take(truth[0])
        parts = {} if kind is Number else {"reading": _part(kind, one)}
        return Measurement("number", _part(Bound, one), parts)

    return measure


def _difference(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
    own, scrambled = take(truth[0]), take(truth[-1])
    parts = {"scrambled gap": _part(Effect, scrambled), "permutation": Test(p=own.p)}
    return Measurement("difference", _part(Effect, own), parts)


def _specificity(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
    own, other = take(truth[0]), take(truth[1])
    parts = {"own": _part(Effect, own, own.p), "other": _part(Effect, other, other.p)}
    return Measurement("difference", _part(Effect, own), parts)


def _best_of(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
    found = [take(one) for one in _spread(truth, max(3, design.comparisons))]
    parts: dict[str, Part] = {str(i): _part(Effect, one, one.p) for i, one in enumerate(found)}
    # the p value of all epochs together, which share their items: that of the middle one
    parts["best"] = Test(p=sorted(one.p for one in found)[len(found) // 2])
    return Measurement("difference", _part(Effect, found[0]), parts)


def _doses(claim: Claim, design: Design, truth: tuple[float | None, ...], take: Take) -> Measurement:
    one = take(truth[0])
    return Measurement(
        "rise", Count(one.estimate), {"trend": Test(p=one.p_items), "reversal": Test(p=one.p_sets)}
    )


# ----------------------------------------------------------------------------------------------- truths by kind of rule


def _of_comparison(claim: Claim, design: Design) -> Truths:
    """One part without an effect among others that have it; all of them; the reverse."""
    size = float(claim.rule.detectable or 0)
    nothing = None if design.random_null else 0.0
    return Truths((nothing, size), (size,), (-size,), (design.high,), (-design.high,))


def _of_the_best(claim: Claim, design: Design) -> Truths:
    """Ahead nowhere, everywhere, and behind everywhere."""
    found = _of_comparison(claim, design)
    return replace(found, null=found.null[:1])


def _of_specificity(claim: Claim, design: Design) -> Truths:
    size, beyond = float(claim.rule.detectable or 0), claim.rule.parameters["other_refuted"]
    nothing = None if design.random_null else 0.0
    return Truths((nothing, 0.0), (size, 0.0), (-size, beyond), (design.high, 0.0), (-design.high, 0.0))


def _of_equivalence(claim: Claim, design: Design) -> Truths:
    """The smallest difference that is none is the margin itself: as few parts there as leave the share unmet."""
    margin, parts = claim.rule.parameters["margin"], design.comparisons
    equal = math.ceil(claim.rule.parameters["share"] * parts - 1e-9) - 1
    null = (0.0,) * equal + (margin,) * (parts - equal)
    return Truths(null, (0.0,), (3 * margin,), (0.0,), (design.high,))


def _of_harmlessness(claim: Claim, design: Design) -> Truths:
    margin = claim.rule.parameters["margin"]
    return Truths((-margin,), (0.0,), (-3 * margin,), (0.0,), (-design.high,))


def _of_level(claim: Claim, design: Design, names: tuple[str, str], above: bool) -> Truths:
    """SUPPORTED on one side of a threshold: the stated level is what the paper prints, or where it prints none on that
    side half-way to the end of the scale; the opposite is half-way to the other end."""
    supported, refuted = (claim.rule.parameters[name] for name in names)
    top, bottom = (design.high, design.low) if above else (design.low, design.high)
    printed = [_as_fraction(number) for number in _printed(claim)]
    right = [one for one in printed if (one > supported) is above and one != supported]
    middle = float(np.median(right)) if right else (supported + top) / 2
    if not design.low <= middle <= design.high:
        middle = (supported + top) / 2
    return Truths((supported,), (middle,), ((refuted + bottom) / 2,), (top,), (bottom,))


def _of_both(claim: Claim, design: Design) -> Truths:
    parameters = claim.rule.parameters
    line, fall = parameters["overlap_supported_above"], parameters["iou_refuted_below"]
    return Truths((line, 1.0), ((1 + line) / 2,), (fall / 2,), (1.0,), (0.0,))


def _of_band(claim: Claim, design: Design) -> Truths:
    low, high = claim.rule.parameters["supported_low"], claim.rule.parameters["supported_high"]
    outside = (claim.rule.parameters["refuted_high"] + design.high) / 2
    return Truths((high,), ((low + high) / 2,), (outside,), ((low + high) / 2,), (design.high,))


def _of_printed(claim: Claim, design: Design) -> Truths:
    """The printed number, the end of its margin, and three margins further."""
    printed = list(claim.numbers) if claim.rule.kind == "readings" else _printed(claim)
    value = _as_fraction(printed[0]) if printed else (design.low + design.high) / 2
    margin = claim.margin
    width = (
        0.05 if margin is None else margin.value if margin.kind == "absolute" else value * (margin.value - 1)
    )
    inward = -1 if value + 3 * width > design.high else 1
    far = float(np.clip(value + 3 * inward * width, design.low, design.high))
    other = design.low if value > (design.low + design.high) / 2 else design.high
    return Truths((value + inward * width,), (value,), (far,), (value,), (other,))


def _of_doses(claim: Claim, design: Design) -> Truths:
    return Truths((0.0,), (STEP,), (-STEP,), (0.4,), (-0.4,))


def _printed(claim: Claim) -> list[PrintedCell | PrintedNumber]:
    return [*claim.cells, *claim.numbers]


def _as_fraction(number: PrintedNumber | PrintedCell) -> float:
    return float(number.printed) / (100 if number.unit in HUNDREDTHS else 1)


_ABOVE = partial(_of_level, names=("supported_above", "refuted_below"), above=True)
_BELOW = partial(_of_level, names=("supported_below", "refuted_above"), above=False)

TRUTHS: Mapping[str, Asked] = {
    "comparison": Asked(_of_comparison, _effects),
    "plain_difference": Asked(_of_comparison, _effects),
    "difference": Asked(_of_comparison, _difference),
    "specificity": Asked(_of_specificity, _specificity),
    "best_of": Asked(_of_the_best, _best_of),
    "equivalence": Asked(_of_equivalence, _effects),
    "non_inferiority": Asked(_of_harmlessness, _effects),
    "lower_bound": Asked(_ABOVE, _value),
    "lower_bounds": Asked(_ABOVE, _bounds(("rise", "fall"))),
    "both": Asked(_of_both, _bounds(("overlap", "iou"))),
    "interval_below": Asked(_BELOW, _value),
    "overlap_below": Asked(_BELOW, _value),
    "corrected_overlap": Asked(_BELOW, _value),
    "within": Asked(_of_band, _value),
    "agreement": Asked(_of_printed, _numbers(Number)),
    "readings": Asked(_of_printed, _numbers(Reading)),
    "monotone": Asked(_of_doses, _doses),
}
"""How each kind of rule is simulated."""
ELSEWHERE: Mapping[str, str] = {
    "above_chance": "overlap against chance, simulated on planted scores by the tests",
    "partition": "equivalence of partitions, simulated on planted scores by the tests",
    "trend": "convergence, simulated on planted scores by the tests",
}
"""Kinds of rules whose data no design here draws, and where their error rates are looked at instead."""
NO_SAMPLING: Mapping[str, str] = {
    "upper_bound": "a share of neurons, without sampling error",
    "one_reading": "shares of neurons, without sampling error",
    "vanishing_error": "a numerical error, without sampling error",
    "consistent": "what is printed, without sampling error",
    "derived": "follows from other claims",
    "untestable": "no measurement decides it",
}
"""Kinds of rules that judge numbers without sampling error."""


def truths_of(claim: Claim, design: Design) -> Truths:
    """What the claim's rule is asked about."""
    return TRUTHS[claim.rule.kind].truths(claim, design)


def rates(claim: Claim, design: Design, runs: int = RUNS) -> Rates:
    """The claim's rule on simulated measurements of this design, in a cell for which its printed numbers count."""
    truths = truths_of(claim, design)
    share = partial(_share, replace(claim, printed_for=HERE), design, count=runs)
    extreme = partial(_share, replace(claim, printed_for=HERE), design, count=EXTREME_RUNS)
    return Rates(
        power=share(truths.stated, Outcome.SUPPORTED),
        against=share(truths.opposite, Outcome.REFUTED),
        false_supported=share(truths.null, Outcome.SUPPORTED),
        false_refuted=share(truths.stated, Outcome.REFUTED),
        can_support=any(extreme(truths.best, Outcome.SUPPORTED, noise=noise) for noise in (0.0, 1.0)),
        can_refute=any(extreme(truths.worst, Outcome.REFUTED, noise=noise) for noise in (0.0, 1.0)),
        stated=truths.stated[0],
        runs=runs,
    )


def _share(
    claim: Claim,
    design: Design,
    truth: tuple[float | None, ...],
    outcome: Outcome,
    count: int,
    noise: float = 1.0,
) -> float:
    """How often the outcome is this one. Every sample of a bank is taken equally often, in another order a part."""
    rng = np.random.default_rng([7, count])
    orders: dict[float | None, list[int]] = {}

    def take(one: float | None) -> Sampled:
        bank = _bank(design, one, noise, count)
        if not orders.get(one):
            orders[one] = rng.permutation(count).tolist()
        return bank[orders[one].pop()]

    measure, found = TRUTHS[claim.rule.kind].measure, 0
    printed = _printed(claim)
    quoted = str(printed[0].printed) if printed and claim.rule.kind == "agreement" else None
    for _ in range(count):
        measured = measure(claim, design, truth, take)
        found += judge(claim, Finding(claim.id, CELL, measured, published=quoted)).outcome is outcome
    return found / count


@lru_cache(maxsize=512)
def _bank(design: Design, truth: float | None, noise: float, count: int) -> list[Sampled]:
    """Samples of one truth, the same for all rules that judge this design."""
    rng = np.random.default_rng([8, *np.frombuffer(repr((design, truth, noise)).encode(), np.uint8)])
    return [design.sample(truth, rng, noise) for _ in range(count)]


def kept_rates(claim: Claim, design: Design, store: Store) -> Rates:
    """`rates`, kept in the store under a hash of the rule, the design and the code of both."""
    key = fingerprint(
        {
            "what": "rates",
            "code": _code(),
            "kind": claim.rule.kind,
            "rule": {**claim.rule.parameters, "detectable": claim.rule.detectable},
            "level": claim.level,
            "truths": asdict(truths_of(claim, design)),
            "margin": None if claim.margin is None else [claim.margin.kind, float(claim.margin.value)],
            "design": type(design).__name__,
            "sizes": asdict(design),
        }
    )
    entry = store.get(key)
    if entry is None:
        found = asdict(rates(claim, design))
        entry = store.put(key, {}, found, f"rates of the rule of {claim.id}")
    return Rates(**entry.meta)


@lru_cache
def _code() -> str:
    """A hash of the code that rates follow from."""
    folders = [Path(file).parent for file in (__file__, rules.__file__, statistics.__file__) if file]
    files = [
        Path(findings.__file__ or ""),
        *(file for folder in folders for file in sorted(folder.glob("*.py"))),
    ]
    return fingerprint([file_hash(file) for file in files])


def more_units(claim: Claim, design: Design, wanted: float = 0.8, most: int = 4096) -> int | None:
    """The fewest units, of a few sizes upwards, that give the power ``wanted``; None where ``most`` are too few."""
    tries = {math.ceil(design.units * factor) for factor in (1.5, 2, 3, 4, 8, 16)}
    for units in sorted(one for one in tries if one <= most):
        larger = design.with_units(units)
        if isinstance(design, Halves | Doses) and units > most // 4:
            return None
        if rates(claim, larger, runs=60).power >= wanted:
            return units
    return None
