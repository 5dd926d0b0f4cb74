"""Decoupling (section 4): the same sums under two tasks. Does what KN locates go with the sum, or with the task?

Readings of eq. (6), the coincidence rate C_r, which is printed as a mean of sets, without a denominator:

============ ==========================================================================================================
``overlap``  eq. (9)'s overlap of two sets, the mean over pairs of prompts: our first choice
``iou``      their intersection over their union, likewise
``smaller``  their intersection over the smaller of them, likewise
``poster``   the poster's formula: the intersection over all neurons of the model; for two tasks of the pair of prompts,
             mean over pairs; for one task of all its prompts at once
``joint``    one task only: the intersection of all its prompts over their union
``paper``    one task only: eq. (6) as printed compares each set with itself, which is 100 % whatever is located: shown,
             and no evidence
============ ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.datasets.base import digest
from caploc.examples import Example
from caploc.experiments.evidence import bound, difference, effect, effects, finite, number, printed_mark
from caploc.experiments.facts import (
    OF_EQUATION_8,
    Answered,
    Fact,
    FactSet,
    FirstFacts,
    Known,
    facts_of,
    tokenized_facts,
)
from caploc.experiments.locating_facts import LocatedFacts, LocatedSets
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.experiments.study import Study, family
from caploc.findings import Cell, Measurement, Part, Plot, Reading
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES
from caploc.statistics.sets import PERMUTATIONS, RANDOM_DRAWS
from caploc.store import Entry

LOCATOR = "kn"
"""Of section 4.1."""
TASKS = ("result", "program")
UNTRAINED_PAIRS = 12
UNRELATED = "zsre"
UNRELATED_PROMPTS = 16
JOINT_RESAMPLES = 500
SAME_WORDS = (
    "prompts of one task share its words, too: what these do alone shows in the untrained twin's overlap"
)

PAIRWISE: Mapping[str, Callable[[LocatedSets, LocatedSets], np.ndarray]] = MappingProxyType(
    {
        "overlap": lambda a, b: a.overlap(b),
        "iou": lambda a, b: a.iou(b),
        "smaller": lambda a, b: a.smaller(b),
        "poster": lambda a, b: a.common(b) / a.places,
    }
)

Rate = tuple[float, stats.Interval]
TwoTasks = tuple[LocatedSets, LocatedSets]


# --------------------------------------------------------------------------------------- the pairs, and what is located


@dataclass(frozen=True)
class SumPairs(Spec[FactSet]):
    """The study's pairs of section 4.1, one sum to be computed and to be programmed: facts in two wordings, known where
    the model does both tasks.

    NotRunError: they cannot be had here, or are too few.
    """

    dataset: str

    def read(self, study: Study, entries: Iterator[Entry]) -> FactSet:
        part = study.drawn_from(self.dataset, "locate", None)
        groups: dict[str, list[Example]] = {}
        for example in part.examples:
            groups.setdefault(example.group or example.id, []).append(example)
        pairs = [Fact(name, tuple(members)) for name, members in groups.items() if len(members) == len(TASKS)]
        pairs.sort(key=lambda pair: digest(str(study.settings.seed), pair.id))
        return tokenized_facts(study, self.dataset, pairs, len(TASKS), part.left_out, all_wordings=True)


def known_pairs(dataset: str) -> Spec[FactSet]:
    """The pairs with the model's answers, if it does both tasks of enough of them."""
    return Known(Answered(SumPairs(dataset)))


@dataclass(frozen=True, eq=False)
class LocatedPairs:
    """What is located for the n known pairs: ``sets[task]`` has n sets each, of the same sums in the same order, by the
    cut that verdicts rest on; ``variants`` by the others."""

    facts: FactSet
    sets: TwoTasks
    variants: Mapping[str, TwoTasks]
    settings: Mapping[str, Any]
    controls: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sets[0])


@dataclass(frozen=True)
class BothTasks(Spec[LocatedPairs]):
    """What is located for the known pairs of a dataset. FloorError: next to nothing is."""

    dataset: str

    @property
    def _located(self) -> LocatedFacts:
        return LocatedFacts(LOCATOR, known_pairs(self.dataset))

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (known_pairs(self.dataset), self._located)

    def read(self, study: Study, entries: Iterator[Entry]) -> LocatedPairs:
        facts, found = study.result(known_pairs(self.dataset)), study.result(self._located)
        sets = _by_task(facts, found.sets)
        empty, prompts = (
            int(sum((one.counts == 0).sum() for one in sets)),
            len(TASKS) * int(facts.known.sum()),
        )
        if 2 * empty > prompts:
            raise FloorError(f"floor effect: KN locates nothing for {empty} of {prompts} prompts")
        variants = {name: _by_task(facts, one) for name, one in found.variants.items()}
        return LocatedPairs(facts, sets, variants, found.settings)


@dataclass(frozen=True)
class TaskControls(Spec[Mapping[str, float]]):
    """The overlaps of the tasks' sets beside those of the untrained twin, for the first pairs, and of unrelated text:
    facts asked for in words, where they can be had."""

    dataset: str

    @property
    def _twin(self) -> LocatedFacts:
        few = FirstFacts(known_pairs(self.dataset), UNTRAINED_PAIRS)
        return LocatedFacts(LOCATOR, few, "untrained")

    @property
    def _unrelated(self) -> LocatedFacts:
        return LocatedFacts(LOCATOR, FirstFacts(facts_of(UNRELATED, wordings=1), UNRELATED_PROMPTS))

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (BothTasks(self.dataset), self._twin, self._unrelated)

    def read(self, study: Study, entries: Iterator[Entry]) -> Mapping[str, float]:
        located = study.result(BothTasks(self.dataset))
        found = overlaps(*located.sets)
        twin = _by_task(study.result(self._twin.facts), study.result(self._twin).sets)
        found |= {f"untrained twin: {name}": value for name, value in overlaps(*twin).items()}
        try:
            unrelated = study.result(self._unrelated).sets
        except NotRunError:
            return finite(found)
        for task, sets in zip(TASKS, located.sets, strict=True):
            found[f"{task} against unrelated text"] = stats.defined_mean(sets.overlap(unrelated))
        return finite(found)


def _by_task(facts: FactSet, sets: LocatedSets) -> TwoTasks:
    first = facts.first[facts.known]
    return sets[first], sets[first + 1]


def overlaps(first: LocatedSets, second: LocatedSets) -> dict[str, float]:
    """Mean overlaps of different sums within the tasks and across them, and of the same sums across."""
    across = first.overlap(second)
    return {
        f"{TASKS[0]}, different sums": stats.off_diagonal_mean(first.overlap()),
        f"{TASKS[1]}, different sums": stats.off_diagonal_mean(second.overlap()),
        "two tasks, different sums": stats.off_diagonal_mean(across),
        "two tasks, same sum": stats.defined_mean(np.diagonal(across)),
    }


# -------------------------------------------------------------------------------------------------- readings of eq. (6)


def two_tasks(first: LocatedSets, second: LocatedSets, seed: int) -> dict[str, Rate]:
    """C(1, 2) under every reading: of the prompts about the same sum; pairs are resampled."""
    found = {}
    for name, matrix in PAIRWISE.items():
        rates = np.diagonal(matrix(first, second))
        rates = rates[np.isfinite(rates)]
        found[name] = (float(rates.mean()), stats.bootstrap_mean(rates, seed=seed))
    return found


def one_task(sets: LocatedSets, seed: int) -> dict[str, Rate]:
    """C(t, t) under every reading; prompts are resampled, and never paired with themselves."""
    weights = stats.cluster_weights(np.arange(len(sets)), seed)
    found: dict[str, Rate] = {}
    for name in ("overlap", "iou", "smaller"):
        matrix = PAIRWISE[name](sets, sets)
        found[name] = (
            stats.off_diagonal_mean(matrix),
            stats.defined_interval(stats.weighted_pair_mean(matrix, weights)),
        )
    joint = np.array([joint_counts(sets, drawn > 0) for drawn in weights[:JOINT_RESAMPLES]])
    common, union = joint_counts(sets, np.ones(len(sets), bool))
    found["poster"] = (common / sets.places, stats.defined_interval(joint[:, 0] / sets.places))
    found["joint"] = (
        common / max(union, 1),
        stats.defined_interval(joint[:, 0] / np.maximum(joint[:, 1], 1)),
    )
    return found


def joint_counts(sets: LocatedSets, chosen: np.ndarray) -> tuple[int, int]:
    """How many places all the chosen prompts have, and how many any of them has."""
    times = np.asarray(sets.members[np.flatnonzero(chosen)].sum(0)).ravel()
    return int((times == chosen.sum()).sum()), int((times > 0).sum())


def decay(sets: LocatedSets, seed: int, draws: int = 40) -> dict[str, list[float]]:
    """What n prompts of a task have in common, as a share of a prompt's own neurons, for n = 1, 2, 5, 10, ...

    ``x``: the n; ``mean``, ``low``, ``high``: over random choices of n prompts. Two share what the overlap says, and n
    the less the more they are: a rate that is intersected over all prompts says how many there were.
    """
    sizes = sorted({size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, len(sets)) if size <= len(sets)})

    def share(chosen: np.ndarray) -> float:
        return joint_counts(sets, chosen)[0] / max(float(sets.counts[chosen].mean()), 1.0)

    return stats.subset_curve(len(sets), sizes, share, draws, seed)


def _readings(rates: Mapping[str, Rate]) -> dict[str, Part]:
    return {
        name: Reading(rate, (interval.low, interval.high), method=f"95 %, {interval.kind}")
        for name, (rate, interval) in rates.items()
    }


# ---------------------------------------------------------------------------------------------------- the experiments


def _located(study: Study, cell: Cell, claim: Claim) -> LocatedPairs:
    dataset = cell.dataset or ""
    return replace(study.result(BothTasks(dataset)), controls=study.result(TaskControls(dataset)))


def _completed(located: LocatedPairs, found: Measurement) -> Measurement:
    counts = {
        f"{task}, neurons located, mean": float(sets.counts.mean())
        for task, sets in zip(TASKS, located.sets, strict=True)
    }
    variants = {
        f"{name}: {which}": value
        for name, sets in located.variants.items()
        for which, value in overlaps(*sets).items()
    }
    return replace(
        found,
        asides={**found.asides, **counts, **variants},
        controls=located.controls,
        n=found.n or len(located),
        draws=RESAMPLES,
        basis=[located.facts],
        settings={**located.settings, **found.settings},
        unused=OF_EQUATION_8,
        notes=[SAME_WORDS],
    )


_on_pairs = family(
    lambda study, cell, claim, **options: [TaskControls(cell.dataset or "")], _located, _completed
)


@_on_pairs
def rate_of_two_tasks(located: LocatedPairs, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``decoupling-cr12``: C(1, 2) of the prompts about the same sum; beside it that of different sums."""
    first, second = located.sets
    rates = two_tasks(first, second, study.settings.seed)
    return Measurement(
        "coincidence of two tasks about one sum, as overlap",
        bound(*rates["overlap"], "pairs"),
        _readings(rates),
        chance=stats.defined_mean(np.diagonal(first.chance(second))),
        asides={
            f"different sums, {name}": stats.off_diagonal_mean(matrix(first, second))
            for name, matrix in PAIRWISE.items()
        },
        plots=[_matrix(located)],
    )


@_on_pairs
def rate_of_a_task(located: LocatedPairs, study: Study, cell: Cell, claim: Claim, task: str) -> Measurement:
    """Claims ``decoupling-cr11`` (``task`` "result") and ``decoupling-cr22`` ("program"): C(t, t)."""
    seed = study.settings.seed
    sets = located.sets[TASKS.index(task)]
    rates, curve = one_task(sets, seed), decay(sets, seed)
    return Measurement(
        f"coincidence of different sums under one task ({task}), as overlap",
        bound(*rates["overlap"], "prompts"),
        _readings(rates),
        chance=stats.off_diagonal_mean(sets.chance()),
        asides={
            "eq. (6) as printed, each set with itself": 1.0,
            **{
                f"in common to {size:g} prompts, of a prompt's own": share
                for size, share in zip(curve["x"], curve["mean"], strict=True)
            },
        },
        plots=[_decay(located, seed)] if task == TASKS[0] else (),
    )


@_on_pairs
def individual_low(located: LocatedPairs, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``decoupling-individual-low``: overlap of two tasks about one sum, and how much more that is than of two
    tasks about different sums; only where prompts of one task share more than chance does the locator say anything."""
    seed = study.settings.seed
    first, second = located.sets
    matrix, chance = first.overlap(second), stats.defined_mean(np.diagonal(first.chance(second)))
    same = np.diagonal(matrix)
    alone = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    different = np.array(
        [stats.defined_mean(np.concatenate([alone[one], alone[:, one]])) for one in range(len(matrix))]
    )
    usable = np.isfinite(same) & np.isfinite(different)
    mean, spread = float(same[usable].mean()), stats.bootstrap_mean(same[usable], seed=seed)
    difference_of = same[usable] - different[usable]
    gap = stats.compare_pairs(same[usable], different[usable], seed=seed)
    gap = stats.at_least_adjusted(gap, difference_of)
    weights = stats.cluster_weights(np.arange(len(located)), seed)
    above = min((_above_chance(sets, weights) for sets in located.sets), key=lambda one: one.estimate)
    printed = printed_mark(claim, cell, "rate")
    data = {
        "groups": {"same sum": same[usable].tolist(), "different sums": different[usable].tolist()},
        "chance": chance,
        "axis": "overlap, one dot a sum",
        **({} if printed is None else {"published": {"same sum": printed}}),
    }
    return Measurement(
        "overlap of two tasks about one sum",
        bound(mean, spread, "pairs"),
        {
            "rate": number(mean, spread, "pairs"),
            "more": effect(gap),
            "above chance": difference(above.estimate, above.interval, "sums"),
        },
        chance=chance,
        effect_size=gap.effect_size,
        asides={"different sums": float(different[usable].mean())},
        n=int(usable.sum()),
        plots=[Plot("splits", "Overlap of two tasks, same and different sums", data)],
    )


@_on_pairs
def commonality(located: LocatedPairs, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``decoupling-commonality`` (section 1, poster): do prompts of one task share more than chance, and more
    than prompts of two tasks do?

    Four differences, each task's overlap minus chance, and minus that of two tasks about different sums. The value
    shown is the smallest.
    """
    first, second = located.sets
    seed, count = study.settings.seed, len(located)
    weights = stats.cluster_weights(np.arange(count), seed)
    across = first.overlap(second)
    p_across = stats.swapped_tasks_p(first.overlap(), across, second.overlap(), seed)
    parts: dict[str, stats.Effect] = {}
    for place, (task, sets) in enumerate(zip(TASKS, located.sets, strict=True)):
        within, chance = sets.overlap(), sets.chance()
        parts[f"{task} minus chance"] = stats.effect_of_draws(
            stats.off_diagonal_mean(within - chance),
            stats.weighted_pair_mean(within - chance, weights),
            _random_sets_p(sets, seed + place),
            count,
        )
        parts[f"{task} minus two tasks"] = stats.effect_of_draws(
            stats.off_diagonal_mean(within) - stats.off_diagonal_mean(across),
            stats.weighted_pair_mean(within, weights) - stats.weighted_pair_mean(across, weights),
            p_across[place],
            count,
        )
    least = min(parts.values(), key=lambda one: one.estimate)
    return Measurement(
        "overlap of different sums under one task, minus chance or minus that under two tasks; the smallest",
        difference(least.estimate, least.interval, "sums"),
        effects(parts),
        chance=float(np.mean([stats.off_diagonal_mean(sets.chance()) for sets in located.sets])),
        settings={"random_draws": RANDOM_DRAWS, "permutations": PERMUTATIONS},
    )


def _above_chance(sets: LocatedSets, weights: np.ndarray) -> stats.Change:
    """Overlap of different sums under one task, minus that of random sets as large in every layer."""
    more = sets.overlap() - sets.chance()
    drawn = stats.weighted_pair_mean(more, weights)
    return stats.Change(
        stats.off_diagonal_mean(more), stats.defined_interval(drawn), stats.defined_interval(drawn, 0.90)
    )


def _random_sets_p(sets: LocatedSets, seed: int) -> float:
    """p of the mean overlap against random sets with each prompt's own count in every layer."""

    def overlap(chosen: Sequence[np.ndarray]) -> float:
        return stats.off_diagonal_mean(LocatedSets.of_places(chosen, sets.places, sets.strata).overlap())

    return stats.random_sets_p(
        stats.off_diagonal_mean(sets.overlap()), sets.per_stratum, sets.strata, overlap, seed
    )


def _matrix(located: LocatedPairs) -> Plot:
    first, second = located.sets
    values, chance = overlaps(first, second), stats.off_diagonal_mean(first.chance(second))
    across = values["two tasks, different sums"]
    rows = [
        [values[f"{TASKS[0]}, different sums"], across],
        [across, values[f"{TASKS[1]}, different sums"]],
    ]
    title = f"Overlap of neurons located for different sums (same sum, two tasks: {values['two tasks, same sum']:.3f})"
    return Plot("matrix", title, {"labels": list(TASKS), "values": rows, "chance": chance})


def _decay(located: LocatedPairs, seed: int) -> Plot:
    curves = {task: decay(sets, seed) for task, sets in zip(TASKS, located.sets, strict=True)}
    return Plot(
        "convergence",
        "What n prompts of a task have in common, of a prompt's own",
        {"x": curves[TASKS[0]]["x"], "curves": curves},
    )
