"""Whether prompts of one task share more than chance, and more than prompts of two tasks do (section 1, poster)."""

from __future__ import annotations

import numpy as np

from caploc.comparisons import Effect, holm_parts, part_quantities
from caploc.experiments.decoupling.rates import decoupling_finding
from caploc.experiments.decoupling.readings import off_diagonal_mean
from caploc.experiments.decoupling.tasks import TASKS, located_of
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts.agreement import percentile, resampled_weights, weighted_pair_mean
from caploc.experiments.facts.sets import LocatedSets
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import permutation_p
from caploc.streams import Stream, stream

RANDOM_DRAWS = 199
PERMUTATIONS = 999


@ends_in_a_finding
def commonality(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``decoupling-commonality``: four differences, each task's overlap minus chance, and minus that of two tasks
    about different sums. The estimate is the smallest.
    """
    located = located_of(study, cell.dataset or "")
    first, second = located.sets
    seed, count = study.settings.seed, len(located)
    weights = resampled_weights(np.arange(count), seed)
    across = first.overlap(second)
    p_across = _swapped_tasks_p(first, second, seed)
    parts: dict[str, Effect] = {}
    for number, (task, sets) in enumerate(zip(TASKS, located.sets, strict=True)):
        within, chance = sets.overlap(), sets.chance()
        p_chance = _random_sets_p(sets, seed + number)
        parts[f"effect:{task} minus chance"] = _effect(
            off_diagonal_mean(within - chance), weighted_pair_mean(within - chance, weights), p_chance, count
        )
        parts[f"effect:{task} minus two tasks"] = _effect(
            off_diagonal_mean(within) - off_diagonal_mean(across),
            weighted_pair_mean(within, weights) - weighted_pair_mean(across, weights),
            p_across[number],
            count,
        )
    least = min(parts.values(), key=lambda effect: effect.estimate)
    return decoupling_finding(
        study,
        located,
        cell,
        claim,
        "overlap of different sums under one task, minus chance or minus that under two tasks; the smallest",
        estimate=least.estimate,
        interval=(least.interval.low, least.interval.high),
        interval_kind="95 %, bootstrap over sums",
        chance=float(np.mean([off_diagonal_mean(sets.chance()) for sets in located.sets])),
        p_values=holm_parts(parts),
        quantities=part_quantities(parts),
        settings={"random_draws": RANDOM_DRAWS, "permutations": PERMUTATIONS},
    )


def _effect(estimate: float, draws: np.ndarray, p: float, items: int) -> Effect:
    return Effect(estimate, percentile(draws), percentile(draws, 0.90), p, None, None, items, 0)


def _random_sets_p(sets: LocatedSets, seed: int) -> float:
    """p of the mean overlap against random sets with each prompt's own count in every layer."""
    generator = stream(Stream.TASK_SETS, seed)
    places = [np.flatnonzero(sets.strata == stratum) for stratum in range(int(sets.strata.max()) + 1)]
    counts = sets.per_stratum.astype(int)

    def drawn() -> float:
        chosen = [
            np.concatenate(
                [
                    among[generator.choice(len(among), count, replace=False, shuffle=False)]
                    for among, count in zip(places, row, strict=True)
                ]
            )
            for row in counts
        ]
        return off_diagonal_mean(LocatedSets.of_places(chosen, sets.places, sets.strata).overlap())

    return permutation_p(off_diagonal_mean(sets.overlap()), [drawn() for _ in range(RANDOM_DRAWS)])


def _swapped_tasks_p(first: LocatedSets, second: LocatedSets, seed: int) -> tuple[float, float]:
    """p of each task's overlap minus that of two tasks, different sums, by swapping the tasks within random sums."""
    count = len(first)
    whole = np.block([[first.overlap(), first.overlap(second)], [second.overlap(first), second.overlap()]])
    same_sum = np.tile(np.eye(count, dtype=bool), (2, 2))
    defined = np.where(same_sum, 0.0, np.isfinite(whole).astype(float))
    filled = np.where(defined > 0, np.nan_to_num(whole), 0.0)
    swap = stream(Stream.SWAPPED_TASKS, seed).random((1 + PERMUTATIONS, count)) < 0.5
    swap[0] = False
    labelled = np.concatenate([~swap, swap], axis=1).astype(
        float
    )  # which prompts are called the first task's

    def mean(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.asarray(((one @ filled) * other).sum(1) / ((one @ defined) * other).sum(1))

    across = mean(labelled, 1 - labelled)
    gains = [mean(one, one) - across for one in (labelled, 1 - labelled)]
    first_p, second_p = (permutation_p(float(gain[0]), gain[1:]) for gain in gains)
    return first_p, second_p
