"""Shares of facts that move, with their intervals, and their differences between located and random neurons."""

from __future__ import annotations

import numpy as np

from caploc.experiments.scaled_facts import LAYER, LOCATED, UNIFORM, Scaled
from caploc.experiments.specs import FloorError
from caploc.statistics import Effect, Interval, binomial_interval, bootstrap_mean, compare_pairs
from caploc.statistics import permutation as mcnemar

Share = tuple[float, Interval]


def located_share(scaled: Scaled, done: int, sign: int) -> Share:
    """The share of facts whose answer moves so under the located neurons, with Wilson's interval."""
    moved = scaled.moved(done, LOCATED, sign)[:, 0]
    return float(moved.mean()), binomial_interval(int(moved.sum()), len(moved), method="wilson")


def random_share(scaled: Scaled, done: int, sign: int, arm: str = UNIFORM, seed: int = 0) -> Share:
    """The same under random neurons, mean over a fact's sets; BCa over facts, those of one subject together.

    Wilson's interval where all sets agree, since a bootstrap of equal values has no width.
    """
    means = np.nanmean(scaled.moved(done, arm, sign), axis=1)
    if np.ptp(means) == 0 and means[0] in (0, 1):
        return float(means[0]), binomial_interval(int(means.sum()), len(means), method="wilson")
    return float(means.mean()), bootstrap_mean(means, seed=seed, clusters=scaled.clusters)


def located_minus_random(scaled: Scaled, done: int, arm: str = LAYER, seed: int = 0) -> Effect:
    """Share that moves as KN predicts, located minus random: paired by fact, against the mean over its random sets."""
    located, random = (
        scaled.as_predicted(done, LOCATED)[:, 0],
        np.nanmean(scaled.as_predicted(done, arm), axis=1),
    )
    return compare_pairs(located, random, clusters=scaled.clusters, seed=seed)


def mcnemar_p(scaled: Scaled, done: int, arm: str) -> float:
    """Exact McNemar p of located against one random set a fact, the first."""
    return mcnemar(scaled.as_predicted(done, LOCATED)[:, 0], scaled.as_predicted(done, arm)[:, 0]).p


def require_change(scaled: Scaled) -> Scaled:
    """``scaled``, if scaling the located neurons changes most answers' probability at all. Raises FloorError."""
    for done, name in enumerate(("doubling", "zeroing")):
        tied = len(scaled) - int(sum(scaled.moved(done, LOCATED, sign).sum() for sign in (1, -1)))
        if tied * 2 > len(scaled):
            raise FloorError(
                f"floor effect: {name} the located neurons changes no probability by more than rounding in {tied} of "
                f"{len(scaled)} facts"
            )
    return scaled
