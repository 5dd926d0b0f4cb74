"""The stratified permutation test against all arrangements written out and scipy's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.statistics import StatisticsError, permutation
from caploc.tests.statistics.samples import alternatives

sixths = st.integers(-8, 8).map(lambda k: k / 6)
strata_of_few = st.lists(
    st.lists(st.tuples(sixths, st.booleans()), min_size=1, max_size=4), min_size=1, max_size=3
)


def weighted_difference(values: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """By definition; rounded, so that ties are ties."""
    total = weight = 0.0
    for group in np.unique(groups):
        here, chosen = values[groups == group], labels[groups == group]
        if 0 < chosen.sum() < here.size:
            w = chosen.sum() * (~chosen).sum() / here.size
            total += w * (here[chosen].mean() - here[~chosen].mean())
            weight += w
    return round(total / weight, 9)


@settings(deadline=None)
@given(strata_of_few, alternatives)
def test_exact_p_by_definition(table: list[list[tuple[float, bool]]], alternative: str) -> None:
    groups = np.repeat(np.arange(len(table)), [len(rows) for rows in table])
    values = np.array([row[0] for rows in table for row in rows])
    labels = np.array([row[1] for rows in table for row in rows])
    if not any(0 < labels[groups == g].sum() < (groups == g).sum() for g in range(len(table))):
        with pytest.raises(StatisticsError, match="no stratum holds both kinds"):
            statistics.stratified_permutation(values, labels, groups)
        return
    dealt = [set(itertools.permutations(labels[groups == g].tolist())) for g in range(len(table))]
    null = np.array(
        [
            weighted_difference(values, np.concatenate(each).astype(bool), groups)
            for each in itertools.product(*map(sorted, dealt))
        ]
    )
    observed = weighted_difference(values, labels, groups)
    greater, less = np.mean(null >= observed), np.mean(null <= observed)
    expected = {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}[alternative]
    result = statistics.stratified_permutation(values, labels, groups, alternative=alternative)
    assert result.p == pytest.approx(expected)
    assert result.estimate == pytest.approx(observed, abs=1e-8)
    assert (result.method, result.draws) == ("exact", 0)
    assert result.least_p <= result.p <= 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=9, unique=True), st.integers(2, 7), alternatives)
def test_one_stratum_is_scipys(values: list[float], count: int, alternative: str) -> None:
    sample, labels = np.array(values), np.arange(len(values)) < min(count, len(values) - 2)
    reference = stats.permutation_test(
        (sample[labels], sample[~labels]),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        alternative=alternative,
        vectorized=True,
        n_resamples=np.inf,
    )
    result = statistics.stratified_permutation(sample, labels, alternative=alternative)
    assert result.estimate == pytest.approx(reference.statistic, abs=1e-12)
    near = np.abs(reference.null_distribution - reference.statistic) < 1e-9 * np.abs(sample).max()
    if near.sum() == 1:
        assert result.p == pytest.approx(reference.pvalue)


def test_the_estimate_is_the_coefficient_of_least_squares() -> None:
    rng = np.random.default_rng(4)
    values, labels, groups = rng.normal(size=50), rng.random(50) < 0.3, rng.integers(0, 6, 50)
    design = np.column_stack([labels, groups[:, None] == np.arange(6)]).astype(float)
    coefficient = np.linalg.lstsq(design, values, rcond=None)[0][0]
    result = statistics.stratified_permutation(values, labels, groups)
    assert result.estimate == pytest.approx(coefficient)
    shifted = statistics.stratified_permutation(values + 100 * groups, labels, [f"seed {g}" for g in groups])
    assert (shifted.estimate, shifted.p) == pytest.approx((result.estimate, result.p))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_random_arrangements_approach_the_exact_p(alternative: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    values, groups = rng.normal(size=18), np.arange(18) // 6
    labels = np.arange(18) % 6 < 2
    exact = statistics.stratified_permutation(values, labels, groups, alternative=alternative)
    assert (exact.method, exact.units) == ("exact", 18)
    monkeypatch.setattr(permutation, "ENUMERABLE_DEALS", 1)
    monkeypatch.setattr(permutation, "VALUES_AT_ONCE", 5000)
    drawn = statistics.stratified_permutation(values, labels, groups, alternative=alternative)
    assert (drawn.method, drawn.draws) == ("Monte Carlo", 9999)
    sides = 2 if alternative == "two-sided" else 1
    assert drawn.least_p == sides / 10_000
    extreme = round(drawn.p * 10_000 / sides) - 1
    assert stats.binomtest(extreme, 9999, exact.p / sides).pvalue > 0.001
    again = statistics.stratified_permutation(values, labels, groups, alternative=alternative)
    assert again == drawn
    other = statistics.stratified_permutation(values, labels, groups, alternative=alternative, seed=1)
    assert other.p != drawn.p


def test_strata_of_one_kind_weigh_nothing() -> None:
    few = statistics.stratified_permutation([1.0, 2, 3, 5], [True, False, True, False])
    more = statistics.stratified_permutation(
        [1.0, 2, 3, 5, 900, 800], [1, 0, 1, 0, 1, 1], ["a", "a", "a", "a", "b", "b"]
    )
    assert more == few
    assert few.units == 4
