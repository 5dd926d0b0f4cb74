"""Looking at data while they come in: alpha spending, and the boundaries that follow from it.

A test that is made at several looks, each at level .05, errs more often than that. Lan and DeMets (Biometrika 70, 1983)
spend the level over the looks instead, here by the function that resembles O'Brien and Fleming's boundaries: next to
nothing early, so that the last look is nearly the test that would have been made without the others.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy import optimize
from scipy.stats import norm

from caploc.statistics.checks import StatisticsError, fraction

NODES, FARTHEST = 160, 8.0
"""Of the quadrature between a boundary and so many standard deviations below 0: errors are below 1e-9."""


def spent(share: float, level: float) -> float:
    """How much of a one-sided ``level`` may be spent once a ``share`` of the data is in."""
    return float(2 * norm.sf(norm.isf(level / 2) / math.sqrt(share)))


@lru_cache
def boundaries(shares: tuple[float, ...], level: float) -> tuple[float, ...]:
    """The z at each look beyond which a one-sided test rejects, so that all looks together err with ``level``.

    Sums are followed from look to look (Armitage, McPherson and Rowe 1969): with a ``share`` t of the data a sum is
    normal with variance t, and its density among tests that went on is integrated up to the boundary.

    Args:
        shares: of the data at each look, rising; the last is 1.

    Raises:
        StatisticsError: shares that do not rise to 1, or a level outside 0 to 1.
    """
    fraction("level", level)
    if not shares or shares[-1] != 1 or not all(a < b for a, b in pairwise((0.0, *shares))):
        raise StatisticsError(f"the shares of the looks must rise from above 0 to 1, got {list(shares)}")
    found: list[float] = []
    at, weights, before = np.zeros(1), np.ones(1), 0.0
    for share in shares:
        alpha = spent(share, level) - (spent(before, level) if before else 0.0)
        step = math.sqrt(share - before)

        def beyond(
            bound: float, at: np.ndarray = at, weights: np.ndarray = weights, step: float = step
        ) -> float:
            return float(weights @ norm.sf((bound - at) / step))

        bound = optimize.brentq(
            lambda x, alpha=alpha, beyond=beyond: beyond(x) - alpha, -FARTHEST, 2 * FARTHEST, xtol=1e-12
        )
        found.append(bound / math.sqrt(share))
        low = -FARTHEST * math.sqrt(share)
        nodes, node_weights = np.polynomial.legendre.leggauss(NODES)
        grid = low + (nodes + 1) * (bound - low) / 2
        density = norm.pdf((grid[:, None] - at) / step) @ weights / step
        at, weights, before = grid, density * node_weights * (bound - low) / 2, share
    return tuple(found)
