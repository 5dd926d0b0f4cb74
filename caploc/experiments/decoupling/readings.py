"""The readings of eq. (6), the coincidence rate C_r, which is printed as a mean of sets, without a denominator.

============ ==========================================================================================================
``overlap``  eq. (9)'s overlap of two sets, the mean over pairs of prompts: our first choice
``iou``      their intersection over their union, likewise
``smaller``  their intersection over the smaller of them, likewise
``poster``   the poster's formula: the intersection over all neurons of the model; for two tasks of the pair of prompts,
             mean over pairs; for one task of all its prompts at once
``joint``    one task only: the intersection of all its prompts over their union
``paper``    one task only: eq. (6) as printed compares each set with itself, which is 100 %
============ ==========================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from caploc.experiments.located_sets import LocatedSets
from caploc.statistics import (
    Interval,
    bootstrap_mean,
    cluster_weights,
    defined_interval,
    off_diagonal_mean,
    subset_curve,
    weighted_pair_mean,
)

Reading = tuple[float, Interval]
JOINT_RESAMPLES = 500

PAIRWISE: Mapping[str, Callable[[LocatedSets, LocatedSets], np.ndarray]] = {
    "overlap": lambda a, b: a.overlap(b),
    "iou": lambda a, b: a.iou(b),
    "smaller": lambda a, b: a.smaller(b),
    "poster": lambda a, b: a.common(b) / a.places,
}


def two_tasks(first: LocatedSets, second: LocatedSets, seed: int) -> dict[str, Reading]:
    """C(1, 2) under every reading: of the prompts about the same sum; pairs are resampled."""
    found = {}
    for name, matrix in PAIRWISE.items():
        rates = np.diagonal(matrix(first, second))
        rates = rates[np.isfinite(rates)]
        found[name] = (float(rates.mean()), bootstrap_mean(rates, seed=seed))
    return found


def one_task(sets: LocatedSets, seed: int) -> dict[str, Reading]:
    """C(t, t) under every reading; prompts are resampled, and never paired with themselves."""
    weights = cluster_weights(np.arange(len(sets)), seed)
    found: dict[str, Reading] = {"paper": (1.0, Interval(1.0, 1.0, 0.95, "by definition"))}
    for name in ("overlap", "iou", "smaller"):
        matrix = PAIRWISE[name](sets, sets)
        found[name] = (off_diagonal_mean(matrix), defined_interval(weighted_pair_mean(matrix, weights)))
    joint = np.array([joint_counts(sets, drawn > 0) for drawn in weights[:JOINT_RESAMPLES]])
    common, union = joint_counts(sets, np.ones(len(sets), bool))
    found["poster"] = (common / sets.places, defined_interval(joint[:, 0] / sets.places))
    found["joint"] = (common / max(union, 1), defined_interval(joint[:, 0] / np.maximum(joint[:, 1], 1)))
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

    return subset_curve(len(sets), sizes, share, draws, seed)
