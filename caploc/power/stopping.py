"""``--samples auto`` by simulation: how often a rule errs that is asked at every look, and how many facts it takes.

The looks of one simulated cell see the same data, as far as a design draws unit by unit: the first facts of the larger
sample. Counts (`Proportion`, controls) are drawn anew at every look, and looks that have less in common err more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from caploc.experiments import FEWEST_SAMPLES
from caploc.findings import Outcome
from caploc.papers import Claim
from caploc.power.designs import Design, Paired
from caploc.power.halves import Grown
from caploc.power.measured import Draw
from caploc.power.simulated import key_of, simulated_claim, simulated_finding, truths_of
from caploc.power.truths import Truth
from caploc.rules import judge
from caploc.rules.looks import DECIDED, LOOKS, Look, held_to
from caploc.statistics import Effect as Sampled
from caploc.statistics.comparisons import FLIPS
from caploc.store import Store
from caploc.streams import Stream, stream

PLANNED_RUNS = 20
"""Of a plan, which tells a saving from none; the benchmark takes more."""


class Ended(NamedTuple):
    """How a simulated cell ended, on which share of the default facts."""

    outcome: Outcome
    share: float


@dataclass(frozen=True)
class Stopping:
    """`caploc.power.Rates` of a rule that is asked at every look, and the mean ``share`` of the facts that it takes at
    the ``stated`` effect, at the null (the worst) and at the ``opposite``."""

    power: float
    against: float
    false_supported: float
    false_refuted: float
    share: float
    share_null: float
    share_opposite: float
    runs: int

    @property
    def words(self) -> str:
        """For a plan."""
        return (
            f"--samples auto: on average {self.share:.0%} of the facts at that effect, {self.share_null:.0%} at none, "
            f"{self.share_opposite:.0%} at the opposite"
        )


def stopping(claim: Claim, design: Design, runs: int, covered: bool = True) -> Stopping:
    """The claim's rule on simulated cells of this design, of which every look takes a share."""
    asked, claim = truths_of(claim, design), simulated_claim(claim, covered)
    if isinstance(design, Paired):
        design = replace(design, flips=FLIPS)
    stated, opposite = (_ended(claim, design, one, runs, covered) for one in (asked.stated, asked.opposite))
    nulls = [_ended(claim, design, one, runs, covered) for one in asked.nulls]
    return Stopping(
        power=_often(stated, Outcome.SUPPORTED),
        against=_often(opposite, Outcome.REFUTED),
        false_supported=max(_often(one, Outcome.SUPPORTED) for one in nulls),
        false_refuted=_often(stated, Outcome.REFUTED),
        share=_mean_share(stated),
        share_null=max(map(_mean_share, nulls)),
        share_opposite=_mean_share(opposite),
        runs=runs,
    )


def kept_stopping(claim: Claim, design: Design, store: Store, covered: bool = True) -> Stopping:
    """`stopping` with the runs of a plan, kept in the store as rates are."""
    key = key_of(claim, design, covered, f"stopping, {PLANNED_RUNS} runs")
    entry = store.get(key)
    if entry is None:
        found = asdict(stopping(claim, design, PLANNED_RUNS, covered))
        entry = store.put(key, {}, found, f"looks of the rule of {claim.id}")
    return Stopping(**entry.meta)


def _ended(claim: Claim, design: Design, truth: Truth, runs: int, covered: bool) -> list[Ended]:
    return [_one(claim, design, truth, run, covered) for run in range(runs)]


def _one(claim: Claim, design: Design, truth: Truth, run: int, covered: bool) -> Ended:
    for look in LOOKS:
        part = _at(look, design)
        finding = simulated_finding(claim, part, truth, _draw(part, run, look, covered))
        outcome = judge(claim, held_to(finding, look, claim)).outcome
        if outcome in DECIDED:
            break
    return Ended(outcome, part.units / design.units)


def _at(look: Look, design: Design) -> Design:
    """As many units as a run takes (`caploc.experiments.study.StudySettings.facts`)."""
    fewest = min(FEWEST_SAMPLES, design.units)
    return design.with_units(max(fewest, math.ceil(look.share * design.units)))


def _draw(design: Design, run: int, look: Look, covered: bool) -> Draw:
    """Every part of a measurement has a stream of its own, the same at all looks."""
    place = itertools.count()

    def take(one: Design, truth: float | None) -> Sampled | Grown:
        return one.sample(truth, stream(Stream.LOOKED_SAMPLES, 9, run, next(place)))

    return Draw(take, design, stream(Stream.LOOKED_PARTS, 10, run, look.number), covered=covered)


def _often(ended: Sequence[Ended], outcome: Outcome) -> float:
    return sum(one.outcome is outcome for one in ended) / len(ended)


def _mean_share(ended: Sequence[Ended]) -> float:
    return sum(one.share for one in ended) / len(ended)
