"""Firth's regression: the estimates that are known in closed form, finite ones under separation, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit

from caploc.statistics import StatisticsError, firth


def test_a_property_of_two_values_gives_the_odds_with_half_a_count_added() -> None:
    """With one yes-or-no property Firth's penalty adds a half to each of the four counts."""
    yes = np.repeat([True, False], [40, 60])
    members = np.zeros(100, dtype=bool)
    members[:30] = members[40:46] = True
    found = firth(yes[:, None].astype(float), members)
    expected = logit(30.5 / 41) - logit(6.5 / 61)
    assert found.coefficients == pytest.approx([expected], abs=1e-3)
    assert found.probability[0] == pytest.approx(30.5 / 41, abs=1e-4)
    assert found.probability[-1] == pytest.approx(6.5 / 61, abs=1e-4)


def test_perfect_separation_has_a_finite_maximum_that_explains_nearly_all() -> None:
    values = np.linspace(-2, 2, 400)
    found = firth(values[:, None], values > 1.95)
    assert np.isfinite(found.coefficients).all() and 0.7 < found.explained < 1
    assert found.probability[values > 1.95].min() > found.probability[values <= 1.95].max()


def test_overlap_is_that_of_two_independent_sets_of_the_fitted_probabilities() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000)
    members = rng.random(3000) < 1 / (1 + np.exp(-(3 * values - 4)))
    found = firth(values[:, None], members)
    assert found.coefficients[0] == pytest.approx(3, abs=0.5)
    first, second = (rng.random((300, 3000)) < found.probability for _ in range(2))
    drawn = (first & second).sum(1) / ((first.sum(1) + second.sum(1)) / 2)
    assert found.overlap == pytest.approx(drawn.mean(), abs=0.01)


def test_properties_of_no_use_explain_nothing_and_give_the_overlap_of_chance() -> None:
    rng = np.random.default_rng(1)
    members = np.zeros(4000, dtype=bool)
    members[:40] = True
    found = firth(rng.normal(size=(4000, 2)), members)
    assert found.explained < 0.02 and found.overlap == pytest.approx(0.01, abs=0.003)


@pytest.mark.parametrize(
    ("values", "members", "message"),
    [
        (np.zeros((4, 1)), [True] * 4, "4 of 4 are members"),
        (np.zeros((4, 1)), [False] * 4, "0 of 4 are members"),
        (np.array([[0.0], [np.nan], [1], [2]]), [True, False, True, False], "must be finite"),
        (np.zeros((3, 1)), [True, False, True, False], "a row for each"),
    ],
)
def test_refuses_what_has_no_answer(values: np.ndarray, members: list[bool], message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        firth(values, np.array(members))
