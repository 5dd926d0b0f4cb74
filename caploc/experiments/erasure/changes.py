"""Scores and their changes, with intervals over items, and over random sets where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from caploc.comparisons import Change
from caploc.statistics import Interval, binomial_interval, bootstrap_mean, percentile_interval
from caploc.statistics.clusters import cluster_codes
from caploc.streams import Stream, stream

RESAMPLES = 2000


AnyChange = TypeVar("AnyChange", bound=Change)


def if_nothing_changed(change: AnyChange, units: int) -> AnyChange:
    """``change``, or where no item shows any difference of score, with the intervals `no_change` of ``units``."""
    if not change.estimate == change.interval.low == change.interval.high == 0:
        return change
    return replace(change, interval=no_change(units, 0.95), interval90=no_change(units, 0.90))


def no_change(units: int, level: float) -> Interval:
    """The interval of a change of score that none of ``units`` items shows.

    A bootstrap of equal numbers is a point, as if 40 items could prove that no item changes. Exact (Clopper & Pearson
    1934): none of n changed leaves a share of up to 1 - (alpha / 2)^(1 / n) that does, in either direction.
    """
    most = binomial_interval(0, units, level).high
    return Interval(-most, most, level, "exact, as no item changes,")


def score_interval(score: np.ndarray, clusters: Sequence[str], seed: int = 0) -> Interval:
    """95 % interval of the mean of ``score [items]``: exact binomial where items are independent and right or wrong,
    else a bootstrap over items or clusters."""
    if len(set(clusters)) == score.size and np.isin(score, (0, 1)).all():
        return binomial_interval(int(score.sum()), score.size)
    return bootstrap_mean(score, seed=seed, clusters=list(clusters))


def average_interval(scores: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """95 % bootstrap interval of the mean over datasets of their mean scores ``[items]``, items drawn within each."""
    generator = stream(Stream.AVERAGE_SCORE, seed)
    means = [_weights(generator, score.size) @ score for score in scores]
    return percentile_interval(np.mean(means, axis=0), 0.95)


def change_of_random(base: np.ndarray, random: np.ndarray, clusters: Sequence[str], seed: int = 0) -> Change:
    """Mean over sets of ``random [sets, items]`` minus ``base [items]``.

    The estimand is the mean over all random sets and items, so intervals come from a two-way bootstrap: sets and
    items (whole clusters) are drawn, each with replacement, and crossed (McCullagh 2000, "pigeonhole"; conservative);
    where no set changes any item, from `if_nothing_changed`.
    """
    differences = random - base
    codes = cluster_codes(base.size, list(clusters))
    generator = stream(Stream.TWO_WAY, seed)
    sets = _weights(generator, len(random))
    units = _weights(generator, int(codes.max()) + 1)[:, codes]
    items = units / units.sum(1, keepdims=True)
    drawn = np.einsum("rs,si,ri->r", sets, differences, items, optimize=True)
    found = Change(
        float(differences.mean()), percentile_interval(drawn, 0.95), percentile_interval(drawn, 0.90)
    )
    return if_nothing_changed(found, int(codes.max()) + 1)


def _weights(generator: np.random.Generator, units: int) -> np.ndarray:
    """``[RESAMPLES, units]`` how much each unit weighs in a bootstrap sample; rows sum to 1."""
    return generator.multinomial(units, np.full(units, 1 / units), RESAMPLES) / units
