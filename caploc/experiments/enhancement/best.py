"""Located against the better of two rivals, column by column (Table 2, columns "Avg.")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caploc.comparisons import FLIPS, RESAMPLES
from caploc.statistics import Interval, percentile_interval, permutation_p
from caploc.streams import Stream, stream

AT_ONCE = 500


@dataclass(frozen=True)
class Best:
    """By how much the first arm is ahead of the best other one: in each column with its intervals, and p over all."""

    estimates: Sequence[float]
    intervals: Sequence[Interval]
    intervals90: Sequence[Interval]
    p: float

    def quantities(self, columns: Sequence[str]) -> dict[str, float]:
        """The numbers that the rule ``best_of`` reads, with those of the 90 % interval beside them."""
        found: dict[str, float] = {}
        for index, column in enumerate(columns):
            wide, narrow = self.intervals[index], self.intervals90[index]
            ends = {"low": wide.low, "high": wide.high, "low90": narrow.low, "high90": narrow.high}
            for name, value in {"estimate": self.estimates[index], **ends}.items():
                found[f"effect:{column}:{name}"] = value
        return found


def best_of(
    arms: Mapping[str, Sequence[np.ndarray]], seed: int = 0, resamples: int = RESAMPLES, flips: int = FLIPS
) -> Best:
    """The first arm against the better of the others, in every column.

    ``arms``: name -> for each dataset outcomes ``[runs, columns, items]``; a column's score is the mean over datasets
    of the mean over runs and items. Intervals: percentiles of the bootstrap over items, within datasets and the same
    for all arms, and over each arm's runs (one fewer is drawn than there are, which makes the variance of their mean
    right; Rao & Wu 1988); the better rival is chosen anew in every resample. p: the arms of an item are exchanged,
    whole rows of columns, and the statistic is the lead averaged over the columns, since columns are the same runs at
    different times, so that their number says little.
    """
    means = [np.stack(column) for column in zip(*(_means(arm) for arm in arms.values()), strict=True)]
    observed = _lead(sum(one.mean(-1) for one in means)[None] / len(means))[0]
    generator = stream(Stream.BEST_RIVAL, seed)
    drawn = np.concatenate(
        [
            _lead(_resampled(list(arms.values()), generator, min(AT_ONCE, resamples - begin)))
            for begin in range(0, resamples, AT_ONCE)
        ]
    )
    null = np.concatenate(
        [
            _lead(_exchanged(means, generator, min(AT_ONCE, flips - begin))).mean(-1)
            for begin in range(0, flips, AT_ONCE)
        ]
    )
    return Best(
        observed.tolist(),
        [percentile_interval(column, 0.95) for column in drawn.T],
        [percentile_interval(column, 0.90) for column in drawn.T],
        permutation_p(float(observed.mean()), null),
    )


def _means(arm: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each dataset ``[columns, items]``, averaged over runs."""
    return [outcomes.mean(0) for outcomes in arm]


def _lead(scores: np.ndarray) -> np.ndarray:
    """``[draws, columns]`` the first arm's lead, from ``scores [draws, arms, columns]``."""
    return np.asarray(scores[:, 0] - scores[:, 1:].max(1))


def _resampled(
    arms: Sequence[Sequence[np.ndarray]], generator: np.random.Generator, draws: int
) -> np.ndarray:
    """``[draws, arms, columns]`` scores of bootstrap samples of items and runs."""
    datasets = len(arms[0])
    total = np.zeros((draws, len(arms), arms[0][0].shape[1]))
    for dataset in range(datasets):
        items = arms[0][dataset].shape[-1]
        weights = generator.multinomial(items, np.full(items, 1 / items), draws) / items
        for index, arm in enumerate(arms):
            outcomes = arm[dataset]
            runs = len(outcomes)
            taken = max(1, runs - 1)
            often = generator.multinomial(taken, np.full(runs, 1 / runs), draws) / taken
            total[:, index] += np.einsum("dr,rci,di->dc", often, outcomes, weights, optimize=True)
    return total / datasets


def _exchanged(means: Sequence[np.ndarray], generator: np.random.Generator, draws: int) -> np.ndarray:
    """``[draws, arms, columns]`` scores with the arms of every item permuted; ``means``: ``[arms, columns, items]``."""
    total = np.zeros((draws, *means[0].shape[:2]))
    for one in means:
        arms, _, items = one.shape
        order = generator.permuted(
            np.broadcast_to(np.arange(arms), (draws, items, arms)), axis=-1
        )  # (draws, items, arms)
        for arm in range(arms):
            chosen = order == arm  # which place of each item gets this arm
            total += np.einsum("dip,ci->dpc", chosen, one[arm], optimize=True) / items
    return total / len(means)
