"""Boundaries of several looks: as published, as a multivariate normal has it, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from caploc.statistics import StatisticsError, boundaries, spent

PUBLISHED = {
    (0.5, 1.0): (2.963, 1.969),
    (0.25, 0.5, 0.75, 1.0): (4.333, 2.963, 2.359, 2.014),
    (0.2, 0.4, 0.6, 0.8, 1.0): (4.877, 3.357, 2.680, 2.290, 2.031),
}
"""Lan and DeMets' function that resembles O'Brien and Fleming's, one-sided .025, as programs print them."""


@pytest.mark.parametrize("shares", PUBLISHED)
def test_boundaries_are_the_published_ones(shares: tuple[float, ...]) -> None:
    assert boundaries(shares, 0.025) == pytest.approx(PUBLISHED[shares], abs=6e-4)


def test_one_look_is_the_plain_test() -> None:
    assert boundaries((1.0,), 0.05)[0] == pytest.approx(norm.isf(0.05), abs=1e-9)
    assert spent(1.0, 0.05) == pytest.approx(0.05)


@pytest.mark.parametrize("level", [0.01, 0.025, 0.05, 0.2])
@pytest.mark.parametrize("shares", [(0.25, 0.5, 1.0), (0.1, 0.95, 1.0), (0.8, 1.0)])
def test_all_looks_together_spend_the_level(shares: tuple[float, ...], level: float) -> None:
    """Whoever stays below all boundaries, by scipy's multivariate normal of correlated looks."""
    t = np.array(shares)
    correlated = np.sqrt(np.minimum.outer(t, t) / np.maximum.outer(t, t))
    bounds = np.array(boundaries(shares, level))
    below = multivariate_normal.cdf(bounds, np.zeros(len(t)), correlated, maxpts=2_000_000, abseps=1e-7)
    assert 1 - below == pytest.approx(level, abs=2e-5)


@pytest.mark.parametrize(
    "shares", [(), (0.5,), (0.5, 0.5, 1.0), (0.7, 0.3, 1.0), (0.0, 1.0), (float("nan"), 1.0)]
)
def test_shares_that_do_not_rise_to_all_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(StatisticsError, match="must rise from above 0 to 1"):
        boundaries(shares, 0.05)


@pytest.mark.parametrize("level", [0.0, 1.0, float("nan")])
def test_a_level_outside_0_to_1_is_refused(level: float) -> None:
    with pytest.raises(StatisticsError, match="level"):
        boundaries((0.5, 1.0), level)
