"""How closely what is attributed to a set of neurons goes with what changing the set does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caploc.experiments.scaled_facts import ARMS, Scaled
from caploc.experiments.specs import FloorError
from caploc.statistics import Interval, largest_rank_correlation, rank_correlations


def correlations(scaled: Scaled, arms: Sequence[str]) -> list[float]:
    """Spearman's rho of attribution with the change of log P over all sets of these arms, doubled and zeroed."""
    return rank_correlations(_rows(scaled, arms))


def correlation_of(scaled: Scaled, arms: Sequence[str], seed: int) -> tuple[float, Interval]:
    """The larger of the two in size, with a bootstrap interval over facts, those of one subject together.

    Raises:
        FloorError: all sets have the same attribution or change nothing.
    """
    estimate, interval = largest_rank_correlation(_rows(scaled, arms), scaled.clusters, seed)
    if interval is None:
        raise FloorError("floor effect: the sets do not differ in attribution, or change nothing")
    return estimate, interval


def _rows(scaled: Scaled, arms: Sequence[str]) -> np.ndarray:
    """``[F, 3, sets]`` attribution, change if doubled, change if zeroed."""
    own = np.concatenate([scaled.attribution[:, ARMS[arm]] for arm in arms], axis=1)
    change = np.concatenate([scaled.change[..., ARMS[arm]] for arm in arms], axis=2)
    return np.concatenate([own[:, None], change], axis=1)
