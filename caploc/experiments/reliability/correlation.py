"""How closely what is attributed to a set of neurons goes with what changing the set does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from caploc.experiments.endings import FloorError
from caploc.experiments.facts.scaling import ARMS, FACTORS, Scaled
from caploc.statistics import Interval, bootstrap_interval

RESAMPLES = 1000


def correlations(scaled: Scaled, arms: Sequence[str]) -> list[float]:
    """Spearman's rho of attribution with the change of log P over all sets of these arms, doubled and zeroed."""
    return _rhos(_rows(scaled, arms))


def correlation_of(scaled: Scaled, arms: Sequence[str], seed: int) -> tuple[float, Interval]:
    """The larger of the two in size, with a bootstrap interval over facts, those of one subject together.

    Raises:
        FloorError: all sets have the same attribution or change nothing.
    """
    rows = _rows(scaled, arms)
    estimate = _largest(rows)
    if not np.isfinite(estimate):
        raise FloorError("floor effect: the sets do not differ in attribution, or change nothing")
    return estimate, bootstrap_interval(rows, _largest, draws=RESAMPLES, seed=seed, clusters=scaled.clusters)


def _rows(scaled: Scaled, arms: Sequence[str]) -> np.ndarray:
    """``[F, 3, sets]`` attribution, change if doubled, change if zeroed."""
    own = np.concatenate([scaled.attribution[:, ARMS[arm]] for arm in arms], axis=1)
    change = np.concatenate([scaled.change[..., ARMS[arm]] for arm in arms], axis=2)
    return np.concatenate([own[:, None], change], axis=1)


def _largest(rows: np.ndarray) -> float:
    return float(np.max(np.abs(_rhos(rows))))


def _rhos(rows: np.ndarray) -> list[float]:
    attribution, *changes = (rankdata(rows[:, part].ravel()) for part in range(1 + len(FACTORS)))
    with np.errstate(invalid="ignore", divide="ignore"):
        return [float(np.corrcoef(attribution, change)[0, 1]) for change in changes]
