"""The paired permutation test against all flips written out, scipy's and the binomial test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.statistics import permutation
from caploc.tests.statistics.samples import alternatives

thirds = st.integers(-9, 9).map(lambda k: k / 3)
"""Numbers with many ties, most of them only up to rounding."""


def all_flips(differences: np.ndarray, codes: np.ndarray, alternative: str) -> float:
    """By definition, cluster by cluster, in whole thirds."""
    thirds = np.rint(3 * differences)
    observed, labels = thirds.sum(), np.unique(codes)
    totals = np.array(
        [
            sum(sign * thirds[codes == label].sum() for sign, label in zip(signs, labels, strict=True))
            for signs in itertools.product([-1, 1], repeat=len(labels))
        ]
    )
    greater, less = np.mean(totals >= observed), np.mean(totals <= observed)
    return {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}[alternative]


@settings(deadline=None)
@given(st.lists(st.tuples(thirds, st.integers(0, 7)), min_size=1, max_size=16), alternatives)
def test_exact_p_by_definition(rows: list[tuple[float, int]], alternative: str) -> None:
    differences, codes = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    result = statistics.paired_permutation(differences, clusters=codes, alternative=alternative)
    assert result.p == pytest.approx(all_flips(differences, codes, alternative), rel=1e-12)
    assert result.estimate == pytest.approx(differences.mean(), abs=1e-12)
    assert (result.method, result.draws, result.units) == ("exact", 0, len(set(codes)))
    assert 0 < result.least_p <= result.p <= 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9, unique_by=abs), alternatives)
def test_exact_p_is_scipys(differences: list[float], alternative: str) -> None:
    reference = stats.permutation_test(
        (np.array(differences),),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        alternative=alternative,
        vectorized=True,
    )
    # scipy counts as ties what agrees to 1e-14 of the statistic, we what agrees to 1e-12 of the sample
    scale = np.sum(np.abs(differences))
    near = np.abs(reference.null_distribution - reference.statistic) < 1e-9 * scale
    if near.sum() == 1:
        result = statistics.paired_permutation(differences, alternative=alternative)
        assert result.p == pytest.approx(reference.pvalue)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5), alternatives)
def test_right_and_wrong_is_the_binomial_test(b: int, c: int, ties: int, alternative: str) -> None:
    first, second = [1] * b + [0] * c + [1] * ties, [0] * b + [1] * c + [1] * ties
    if first:
        result = statistics.paired_permutation(first, second, alternative=alternative)
        expected = stats.binomtest(b, b + c, alternative=alternative).pvalue if b + c else 1
        assert result.p == pytest.approx(expected, rel=1e-9)
        assert result.method == "exact"
        assert result.p == pytest.approx(statistics.mcnemar(first, second, alternative=alternative).p)


@settings(deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12), alternatives)
def test_convolution_agrees_with_enumeration(differences: list[int], alternative: str) -> None:
    whole = statistics.paired_permutation(differences, alternative=alternative)
    halves = statistics.paired_permutation(np.array(differences) / 2 + 0.0, alternative=alternative)
    assert whole.p == pytest.approx(halves.p, rel=1e-12)
    assert halves.estimate == whole.estimate / 2


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("n", [12, 40])
def test_random_flips_approach_the_exact_p(alternative: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(n).integers(-5, 6, n) + 0.25 * (n < 18)
    exact = statistics.paired_permutation(differences, alternative=alternative)
    assert exact.method == "exact"
    monkeypatch.setattr(permutation, "ENUMERABLE_CLUSTERS", 0)
    monkeypatch.setattr(permutation, "LATTICE_STEPS", 0)
    for seed in range(3):
        drawn = statistics.paired_permutation(differences, alternative=alternative, seed=seed)
        assert (drawn.method, drawn.draws, drawn.least_p) == ("Monte Carlo", 9999, 1 / 10_000)
        extreme = round(drawn.p * 10_000) - 1
        assert stats.binomtest(extreme, 9999, exact.p).pvalue > 0.001
    monkeypatch.setattr(permutation, "BITS_AT_ONCE", 50)
    blocks = statistics.paired_permutation(differences, alternative=alternative, seed=2)
    assert stats.binomtest(round(blocks.p * 10_000) - 1, 9999, exact.p).pvalue > 0.001


def test_random_flips_follow_the_seed() -> None:
    differences = np.random.default_rng(0).normal(0.2, 1, 60)
    first = statistics.paired_permutation(differences, seed=1)
    assert first == statistics.paired_permutation(differences, seed=1)
    assert first.p != statistics.paired_permutation(differences, seed=2).p


def test_random_flips_count_the_observed_one() -> None:
    result = statistics.paired_permutation(np.full(40, 0.3), draws=99)
    assert (result.method, result.p, result.least_p) == ("Monte Carlo", 0.01, 0.01)


def test_pairs_are_their_differences() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 14))
    up = statistics.paired_permutation(a, b, alternative="greater")
    assert up == statistics.paired_permutation(a - b, alternative="greater")
    down = statistics.paired_permutation(b, a, alternative="less")
    assert (down.estimate, down.p) == (-up.estimate, up.p)


def test_ties_count_up_to_rounding_and_nothing_is_not_significant() -> None:
    # in doubles 0.1 + 0.2 - 0.3 is not 0: all four sums of these clusters are ties
    tied = statistics.paired_permutation([0.1, 0.2, -0.3, 1e-17], clusters=[0, 0, 0, 1])
    assert (tied.estimate, tied.p, tied.least_p, tied.units) == (0, 1, 1, 2)
    for alternative in ("greater", "less", "two-sided"):
        assert statistics.paired_permutation([0, 0, 0], alternative=alternative).p == 1


def test_flipping_clusters_cannot_be_more_significant_than_their_number() -> None:
    same = statistics.paired_permutation(np.ones(500), clusters=np.arange(500) // 125)
    assert (same.units, same.p, same.least_p) == (4, 2 / 16, 2 / 16)
    apart = statistics.paired_permutation(np.ones(500))
    assert apart.p == pytest.approx(2 * 0.5**500)


def test_the_least_p_ignores_clusters_that_cancel() -> None:
    result = statistics.paired_permutation([1.5, -1.5, 2.0, 3.0], clusters=["a", "a", "b", "c"])
    assert (result.units, result.p, result.least_p) == (3, 0.5, 0.5)
