"""One more random draw lies above the bound that a few predict for it as often as it should; what does is told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from caploc.power.halves import GRID, Halves
from caploc.statistics import Bootstrapped, OneMore

EXACT = Bootstrapped(0.5, np.full(40, 0.5))


def shares(rng: np.random.Generator, kinds: int, draws: int, mean: float, spread: float) -> list[np.ndarray]:
    """Draws of the first kind round ``mean``, of the others elsewhere, all about as far apart in log odds."""
    centres = np.r_[mean, rng.normal(0, 1, kinds - 1)]
    return [special.expit(rng.normal(centre, spread, draws)) for centre in centres]


@pytest.mark.parametrize(("kinds", "draws"), [(1, 4), (5, 4)])
def test_one_more_lies_above_in_five_of_a_hundred(kinds: int, draws: int) -> None:
    rng, above = np.random.default_rng(0), 0
    for _ in range(4000):
        found = OneMore.of(shares(rng, kinds, draws, 0.3, 0.4), 0)
        above += special.expit(rng.normal(0.3, 0.4)) > found.bound()
    assert 0.04 < above / 4000 < 0.06


def test_a_share_at_the_bound_is_seldom_shown_to_lie_below() -> None:
    """The least that would be more than twins show: false REFUTED in 5 % at most."""
    rng, below, clear = np.random.default_rng(1), 0, 0
    for _ in range(2000):
        found = OneMore.of(shares(rng, 5, 4, 0.0, 0.4), 0)
        own = float(special.expit(1.645 * 0.4))
        below += found.beyond(Bootstrapped(own, np.full(40, own)), 0.90)[2] <= 0
        clear += found.beyond(EXACT, 0.90)[2] <= 0
    assert below / 2000 < 0.07 and clear / 2000 > 0.85, (below, clear)


def test_what_all_have_is_not_above() -> None:
    """Neither where every share is 1, nor where none of the draws is defined."""
    full = Bootstrapped(1.0, np.ones(40))
    assert OneMore.of([np.ones(4)], 0).beyond(full, 0.90) == (0, 0, 0)
    nothing = OneMore.of([np.full(4, np.nan)], 0)
    assert nothing.bound() < 0.02 and nothing.beyond(full, 0.90)[1] > 0.9


def test_the_error_of_a_bootstrap_is_that_of_fresh_examples() -> None:
    """Which a jackknife over groups of examples overstates by half and more."""
    design, rng = Halves(160), np.random.default_rng(2)
    for size in (GRID[6], GRID[10]):
        found = [design.grown(size, rng).halves.mean() for _ in range(60)]
        true = float(np.std([one.value for one in found], ddof=1))
        assert 0.8 < float(np.mean([one.error for one in found])) / true < 1.35
