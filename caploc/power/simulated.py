"""How often a rule says SUPPORTED and REFUTED where it should, and where it should not.

Samples are drawn once a truth and combined anew for every simulated measurement: its parts are of different tasks, so
they are independent. Few runs decide a rate near 0 or 1, more the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from scipy.stats import norm

from caploc import findings, rules, statistics, streams
from caploc.experiments import commonality_halves
from caploc.findings import Cell, Finding, Measurement, Outcome
from caploc.fingerprints import file_hash, fingerprint
from caploc.papers import Claim, PrintedFor
from caploc.power import measured, truths
from caploc.power.designs import Design, Layers
from caploc.power.halves import Grown, Halves, draws_grown
from caploc.power.measured import Draw
from caploc.power.truths import Truth, Truths, printed_of, quoted_of
from caploc.rules import judge
from caploc.statistics import Effect as Sampled
from caploc.statistics import binomial_interval
from caploc.store import Store
from caploc.streams import Stream, stream

RUNS, FIRST_RUNS, EXTREME_RUNS = 120, 40, 10
"""Simulated measurements of each truth: the first of them alone where they tell the rate from its mark; and where a
verdict need only be seen to be possible."""
COSTLY_RUNS = 180, 40
"""Of designs of examples: a standard error of 3 points at 80 %."""
WANTED, MOST_ERRORS = 0.8, 0.05
"""The marks: the power that a cell ought to have, and the error rate that it must not exceed."""
LEAST_POWER = 0.1
"""Below it, which is more than an error rate, and as far below 1, a power does not say how many units another takes."""
CELL = Cell("simulated", "simulated", 6.0)


@dataclass(frozen=True)
class Rates:
    """How often: ``power``: SUPPORTED at the ``stated`` effect; ``against``: REFUTED at the opposite."""

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
        return all(
            binomial_interval(round(one * self.runs), self.runs, 0.998).low <= MOST_ERRORS for one in errors
        )

    @property
    def words(self) -> str:
        """For reports."""
        at = "" if self.stated is None else f" at {self.stated:.3g}"
        return (
            f"power {self.power:.0%}{at}, refuted at the opposite {self.against:.0%}; false SUPPORTED "
            f"{self.false_supported:.0%}, false REFUTED {self.false_refuted:.0%}"
        ).replace("%", " %")


@dataclass(frozen=True)
class Asked:
    """What `TRUTHS` holds of a kind of rule."""

    truths: Callable[[Claim, Any], Truths]
    measure: Callable[[Claim, Any, Truth, Draw], Measurement]


_above = partial(truths.of_level, names=("supported_above", "refuted_below"), above=True)
_below = partial(truths.of_level, names=("supported_below", "refuted_above"), above=False)

TRUTHS: Mapping[str, Asked] = {
    "comparison": Asked(truths.of_comparison, measured.effects),
    "plain_difference": Asked(truths.of_comparison, measured.effects),
    "beyond_twins": Asked(truths.of_twins_alone, measured.twins_alone),
    "difference": Asked(truths.of_difference, measured.difference),
    "printed_or_direction": Asked(truths.of_comparison, measured.direction),
    "specificity": Asked(truths.of_specificity, measured.specificity),
    "best_of": Asked(truths.of_the_best, measured.best_of),
    "equivalence": Asked(truths.of_equivalence, measured.effects),
    "non_inferiority": Asked(truths.of_harmlessness, measured.harmless),
    "no_more": Asked(truths.of_no_more, measured.no_more),
    "partition": Asked(truths.of_partition, measured.partition),
    "lower_bound": Asked(_above, measured.value),
    "lower_bounds": Asked(_above, measured.bounds),
    "above_twin": Asked(truths.of_twin, measured.twin),
    "both": Asked(truths.of_twin, measured.twin),
    "interval_below": Asked(_below, measured.value),
    "corrected_overlap": Asked(_below, measured.corrected),
    "identity_below": Asked(truths.of_identity, measured.identity),
    "recall_below": Asked(truths.of_recall, measured.recall),
    "within": Asked(truths.of_band, measured.value),
    "agreement": Asked(truths.of_printed, measured.number),
    "readings": Asked(truths.of_printed, measured.reading),
    "monotone": Asked(truths.of_doses, measured.doses),
    "trend": Asked(truths.of_trend, measured.trend),
    "above_chance": Asked(truths.of_chance, measured.chances),
}
"""How each kind of rule is simulated."""
NO_SAMPLING: Mapping[str, str] = {
    "upper_bound": "a share of neurons, without sampling error",
    "one_reading": "shares of neurons, without sampling error",
    "vanishing_error": "a numerical error, without sampling error",
    "consistent": "what is printed, without sampling error",
    "derived": "follows from other claims",
    "untestable": "no measurement decides it",
    "measured": "measured only: nothing is held against it",
}
"""Kinds of rules that judge numbers without sampling error."""


def truths_of(claim: Claim, design: Design) -> Truths:
    """What the claim's rule is asked about."""
    return TRUTHS[claim.rule.kind].truths(claim, design)


def rates(claim: Claim, design: Design, runs: int | None = None, covered: bool = True) -> Rates:
    """The claim's rule on simulated measurements of this design. ``covered``: in a cell for which its printed numbers
    count."""
    asked, claim = truths_of(claim, design), simulated_claim(claim, covered)
    most, first = COSTLY_RUNS if isinstance(design, Halves) else (RUNS, FIRST_RUNS)
    runs = runs or most
    share = partial(_share, claim, design, runs=(min(first, runs), runs), covered=covered)
    error = partial(share, mark=MOST_ERRORS)
    extreme = partial(_share, claim, design, runs=(EXTREME_RUNS, EXTREME_RUNS), covered=covered)
    power, against = share(asked.stated, Outcome.SUPPORTED), share(asked.opposite, Outcome.REFUTED)
    levels = (1.0,) if draws_grown(design) else (0.0, 1.0)
    return Rates(
        power=power,
        against=against,
        false_supported=max(error(one, Outcome.SUPPORTED) for one in asked.nulls),
        false_refuted=error(asked.stated, Outcome.REFUTED),
        can_support=power > 0 or any(extreme(asked.best, Outcome.SUPPORTED, noise=noise) for noise in levels),
        can_refute=against > 0 or any(extreme(asked.worst, Outcome.REFUTED, noise=noise) for noise in levels),
        stated=asked.shown,
        runs=runs,
    )


def simulated_claim(claim: Claim, covered: bool) -> Claim:
    """The claim, its printed numbers those of `CELL` or, unless ``covered``, of another."""
    here = CELL.model if covered else f"not {CELL.model}"
    return replace(claim, printed_for=PrintedFor((here,), CELL.dataset))


def simulated_finding(claim: Claim, design: Design, truth: Truth, draw: Draw) -> Finding:
    """One simulated measurement as evidence on a `simulated_claim`."""
    printed = quoted_of(claim)
    quoted = str(printed.printed) if printed and claim.rule.kind == "agreement" else None
    measurement = TRUTHS[claim.rule.kind].measure(claim, design, truth, draw)
    return Finding(claim.id, CELL, measurement, published=quoted)


def _share(
    claim: Claim,
    design: Design,
    truth: Truth,
    outcome: Outcome,
    runs: tuple[int, int],
    covered: bool,
    noise: float = 1.0,
    mark: float = WANTED,
) -> float:
    """How often the outcome is this one, of the first of ``runs``, or of more where those do not tell it from the
    mark (the rate's exact 99 % interval)."""
    first, most = runs
    found = _outcomes(claim, design, truth, first, noise, covered).count(outcome)
    likely = binomial_interval(found, first, 0.99)
    if first == most or found in (0, first) or not likely.low < mark < likely.high:
        return found / first
    return _outcomes(claim, design, truth, most, noise, covered).count(outcome) / most


def _outcomes(
    claim: Claim, design: Design, truth: Truth, count: int, noise: float, covered: bool
) -> list[Outcome]:
    """Every sample of a bank is taken equally often, in another order a part."""
    rng = stream(Stream.SIMULATED_PARTS, 7, count)
    orders: dict[tuple[Design, float | None], list[int]] = {}

    def take(design: Design, one: float | None) -> Sampled | Grown:
        # of few samples a share is so uncertain that "so many of several" would not be told
        enough = count * (min(4, design.comparisons) if isinstance(design, Layers) else 1)
        bank = _bank(design, one, noise).first(enough)
        if not orders.get((design, one)):
            orders[design, one] = rng.permutation(enough).tolist()
        return bank[orders[design, one].pop()]

    draw = Draw(take, design, rng, noise, covered)
    return [judge(claim, simulated_finding(claim, design, truth, draw)).outcome for _ in range(count)]


class _Bank:
    """Samples of one truth, drawn as they are asked for."""

    def __init__(self, design: Design, truth: float | None, noise: float) -> None:
        self._rng = stream(Stream.SIMULATED_SAMPLES, 8, *repr((design, truth, noise)).encode())
        self._design, self._truth, self._noise = design, truth, noise
        self._found: list[Sampled | Grown] = []

    def first(self, count: int) -> list[Sampled | Grown]:
        """So many samples."""
        while len(self._found) < count:
            self._found.append(self._one())
        return self._found[:count]

    def _one(self) -> Sampled | Grown:
        if draws_grown(self._design):
            return self._design.grown(self._truth or 0.0, self._rng)
        return self._design.sample(self._truth, self._rng, self._noise)


def _bank(design: Design, truth: float | None, noise: float) -> _Bank:
    """The same for all rules that judge this design, however their p values are corrected."""
    return _kept_bank(
        design if isinstance(design, Layers) else replace(design, comparisons=1, family=1), truth, noise
    )


_kept_bank = lru_cache(maxsize=1024)(_Bank)


def kept_rates(claim: Claim, design: Design, store: Store, covered: bool = True) -> Rates:
    """`rates`, kept in the store under a hash of the rule, the design and the code of both."""
    key = key_of(claim, design, covered)
    entry = store.get(key)
    if entry is None:
        found = asdict(rates(claim, design, covered=covered))
        entry = store.put(key, {}, found, f"rates of the rule of {claim.id}")
    return Rates(**entry.meta)


def known_rates(claim: Claim, design: Design, store: Store, covered: bool = True) -> Rates | None:
    """`kept_rates` where they were simulated before; None where they were not."""
    entry = store.get(key_of(claim, design, covered))
    return None if entry is None else Rates(**entry.meta)


def key_of(claim: Claim, design: Design, covered: bool, what: str = "rates") -> str:
    """The key of ``what`` follows from the rule, the design and the code of both."""
    return fingerprint(
        {
            "what": what,
            "code": _code(),
            "kind": claim.rule.kind,
            "rule": {**claim.rule.parameters, "detectable": claim.rule.detectable},
            "level": claim.level,
            "covered": covered,
            "printed": [[one.printed, one.unit] for one in printed_of(claim)],
            "quantity": truths.quantity_of(claim),
            "margin": None if claim.margin is None else [claim.margin.kind, float(claim.margin.value)],
            "design": type(design).__name__,
            "sizes": asdict(design),
        }
    )


@lru_cache
def _code() -> str:
    """A hash of the code that rates follow from."""
    folders = [Path(file).parent for file in (__file__, rules.__file__, statistics.__file__) if file]
    single = [Path(one.__file__ or "") for one in (findings, commonality_halves, streams)]
    files = [*single, *(file for folder in folders for file in sorted(folder.glob("*.py")))]
    return fingerprint([file_hash(file) for file in files])


def more_units(
    claim: Claim, design: Design, found: Rates, covered: bool = True, most: int = 5000
) -> int | None:
    """About how many units give the power `WANTED`, to two digits; None where ``most`` are too few.

    Extrapolated from the power that was ``found``: an interval reaches a threshold as often as a normal estimate whose
    standard error falls with the root of the number of units. Where next to nothing was found, larger numbers are
    simulated first.
    """
    power, units = found.power, design.units
    while not LEAST_POWER < power < 1 - LEAST_POWER:
        units *= 4
        if power > 0.5 or units > (design.units * 4 if isinstance(design, Halves) else most):
            return None
        power = rates(claim, design.with_units(units), FIRST_RUNS, covered).power
        if power >= WANTED:
            power = min(power, 1 - LEAST_POWER)
            break
    two_sided = claim.rule.kind in ("equivalence", "agreement", "readings", "within", "partition")
    reached, needed = (
        norm.isf(0.025) + norm.ppf((1 + one) / 2 if two_sided else one) for one in (power, WANTED)
    )
    wanted = units * (needed / reached) ** 2 if reached > 0 else math.inf
    if not wanted <= most:
        return None
    digits = 10 ** max(0, math.floor(math.log10(wanted)) - 1)
    return math.ceil(wanted / digits) * digits
