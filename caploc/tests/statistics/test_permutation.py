"""Permutation tests and McNemar's against their definition, all arrangements written out, and scipy's."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.statistics import StatisticsError, permutation
from caploc.tests.statistics.samples import alternatives, floats, levels, samples, tied_samples


@settings(deadline=None)
@given(floats, samples, st.sampled_from(["greater", "less"]))
def test_permutation_p_by_definition(observed: float, null: np.ndarray, alternative: str) -> None:
    k = sum((x >= observed) if alternative == "greater" else (x <= observed) for x in null)
    p = statistics.permutation_p(observed, null, alternative)
    assert p >= (1 + k) / (1 + null.size)
    if not np.isclose(null, observed, rtol=1e-9).any():
        assert p == (1 + k) / (1 + null.size)


@settings(deadline=None)
@given(tied_samples, st.sampled_from(["greater", "less", "two-sided"]))
def test_permutation_p_is_valid_whichever_value_was_observed(values: np.ndarray, alternative: str) -> None:
    ps = [statistics.permutation_p(values[i], np.delete(values, i), alternative) for i in range(len(values))]
    for level in ps:
        assert sum(p <= level for p in ps) / len(ps) <= level + 1e-12


def test_permutation_p_counts_ties_up_to_rounding() -> None:
    assert statistics.permutation_p(0.3, [0.1 + 0.2, 0.3, 0.2]) == 3 / 4
    assert statistics.permutation_p(0.1 + 0.2, [0.3, 0.2, 0.1]) == 2 / 4


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
def test_exact_sign_flips_by_definition(rows: list[tuple[float, int]], alternative: str) -> None:
    differences, codes = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    result = statistics.paired_permutation(differences, clusters=codes, alternative=alternative)
    assert result.p == pytest.approx(all_flips(differences, codes, alternative), rel=1e-12)
    assert result.estimate == pytest.approx(differences.mean(), abs=1e-12)
    assert (result.method, result.draws, result.units) == ("exact", 0, len(set(codes)))
    assert 0 < result.least_p <= result.p <= 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9, unique_by=abs), alternatives)
def test_exact_sign_flips_are_scipys(differences: list[float], alternative: str) -> None:
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
def test_exact_strata_by_definition(table: list[list[tuple[float, bool]]], alternative: str) -> None:
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


def test_the_estimate_over_strata_is_the_coefficient_of_least_squares() -> None:
    rng = np.random.default_rng(4)
    values, labels, groups = rng.normal(size=50), rng.random(50) < 0.3, rng.integers(0, 6, 50)
    design = np.column_stack([labels, groups[:, None] == np.arange(6)]).astype(float)
    coefficient = np.linalg.lstsq(design, values, rcond=None)[0][0]
    result = statistics.stratified_permutation(values, labels, groups)
    assert result.estimate == pytest.approx(coefficient)
    shifted = statistics.stratified_permutation(values + 100 * groups, labels, [f"seed {g}" for g in groups])
    assert (shifted.estimate, shifted.p) == pytest.approx((result.estimate, result.p))


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
def test_random_arrangements_of_strata_approach_the_exact_p(
    alternative: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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


counts = st.integers(0, 40)


@settings(deadline=None)
@given(counts, counts, alternatives)
def test_mcnemar_by_counting(b: int, c: int, alternative: str) -> None:
    m = b + c
    greater = sum(math.comb(m, k) for k in range(b, m + 1)) / 2**m
    less = sum(math.comb(m, k) for k in range(b + 1)) / 2**m
    expected = {"greater": greater, "less": less, "two-sided": min(1, 2 * min(greater, less))}[alternative]
    result = statistics.mcnemar_from_counts(b, c, m + 3, alternative=alternative)
    assert result.p == pytest.approx(expected, rel=1e-9)


@settings(deadline=None)
@given(counts, counts, counts, levels)
def test_mcnemars_interval_holds_the_estimate_and_is_symmetric(
    b: int, c: int, rest: int, level: float
) -> None:
    n = b + c + rest + 1
    result = statistics.mcnemar_from_counts(b, c, n, level=level)
    assert result.estimate == (b - c) / n
    assert result.interval.contains(result.estimate)
    assert -1 <= result.interval.low < result.interval.high <= 1
    other = statistics.mcnemar_from_counts(c, b, n, level=level).interval
    assert (other.low, other.high) == pytest.approx((-result.interval.high, -result.interval.low))


def test_mcnemar_of_a_published_example() -> None:
    """Airway reactivity before and after stem cell transplantation (Fagerland, Lydersen & Laake 2014)."""
    result = statistics.mcnemar_from_counts(1, 7, 21)
    assert (result.interval.low, result.interval.high) == pytest.approx((-0.508, -0.013), abs=5e-4)
    assert result.p == pytest.approx(0.0703, abs=5e-5)


def test_mcnemar_counts_vectors() -> None:
    first = [True, True, True, False, False, True]
    second = np.array([1, 0, 0, 1, 0, 0])
    result = statistics.mcnemar(first, second)
    assert (result.first_only, result.second_only, result.n) == (3, 1, 6)
    assert result == statistics.mcnemar_from_counts(3, 1, 6)
    assert statistics.mcnemar([1, 0], [1, 0]).p == 1


@pytest.mark.parametrize(("n", "least", "mean"), [(10, 0.890, 0.966), (20, 0.928, 0.960), (40, 0.930, 0.955)])
def test_mcnemars_coverage_enumerated(n: int, least: float, mean: float) -> None:
    """The docstring's figures, over every pair of discordant counts and a grid of proportions."""
    pairs = np.array([(b, c) for b in range(n + 1) for c in range(n + 1 - b)])
    intervals = [statistics.mcnemar_from_counts(int(b), int(c), n).interval for b, c in pairs]
    low, high = (np.array([getattr(interval, end) for interval in intervals]) for end in ("low", "high"))
    outcomes = np.column_stack([pairs, n - pairs.sum(axis=1)])
    covered = []
    for p in range(41):
        for q in range(min(p, 40 - p) + 1):
            chances = stats.multinomial.pmf(outcomes, n, [p / 40, q / 40, (40 - p - q) / 40])
            truth = (p - q) / 40
            covered.append(chances[(low <= truth + 1e-12) & (truth - 1e-12 <= high)].sum())
    assert len(covered) == 441
    assert min(covered) == pytest.approx(least, abs=0.001)
    assert np.mean(covered) == pytest.approx(mean, abs=0.001)
