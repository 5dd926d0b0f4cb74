"""Whether prompts of one task share more than chance, and more than prompts of two tasks do (section 1, poster)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caploc.experiments.decoupling.rates import decoupling_finding
from caploc.experiments.decoupling.tasks import TASKS, located_of
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import (
    Effect,
    cluster_weights,
    effect_of_draws,
    holm_parts,
    off_diagonal_mean,
    part_quantities,
    random_sets_p,
    swapped_tasks_p,
    weighted_pair_mean,
)
from caploc.statistics.sets import PERMUTATIONS, RANDOM_DRAWS


@ends_in_a_finding
def commonality(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``decoupling-commonality``: four differences, each task's overlap minus chance, and minus that of two tasks
    about different sums. The estimate is the smallest.
    """
    located = located_of(study, cell.dataset or "")
    first, second = located.sets
    seed, count = study.settings.seed, len(located)
    weights = cluster_weights(np.arange(count), seed)
    across = first.overlap(second)
    p_across = swapped_tasks_p(first.overlap(), across, second.overlap(), seed)
    parts: dict[str, Effect] = {}
    for number, (task, sets) in enumerate(zip(TASKS, located.sets, strict=True)):
        within, chance = sets.overlap(), sets.chance()
        p_chance = _random_sets_p(sets, seed + number)
        parts[f"effect:{task} minus chance"] = effect_of_draws(
            off_diagonal_mean(within - chance), weighted_pair_mean(within - chance, weights), p_chance, count
        )
        parts[f"effect:{task} minus two tasks"] = effect_of_draws(
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


def _random_sets_p(sets: LocatedSets, seed: int) -> float:
    """p of the mean overlap against random sets with each prompt's own count in every layer."""

    def overlap(chosen: Sequence[np.ndarray]) -> float:
        return off_diagonal_mean(LocatedSets.of_places(chosen, sets.places, sets.strata).overlap())

    return random_sets_p(off_diagonal_mean(sets.overlap()), sets.per_stratum, sets.strata, overlap, seed)
