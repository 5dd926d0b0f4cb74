"""Every statistic against a closed form, an enumeration or scipy called another way."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from caploc import statistics
from caploc.statistics import StatisticsError

floats = st.floats(-1e6, 1e6)
samples = npst.arrays(np.float64, st.integers(2, 30), elements=floats)
tied_samples = npst.arrays(np.float64, st.integers(3, 6), elements=st.integers(0, 3).map(float))
p_values = npst.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1))
levels = st.sampled_from([0.8, 0.9, 0.95])


def skewed(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=n)


# Intervals


@given(samples, levels)
def test_percentile_interval_is_central(values: np.ndarray, level: float) -> None:
    interval = statistics.percentile_interval(values, level)
    tail = (1 - level) / 2 * (values.size - 1)
    ordered = np.sort(values)
    assert ordered[math.floor(tail)] <= interval.low <= ordered[math.ceil(tail)]
    mirrored = statistics.percentile_interval(-values, level)
    assert -mirrored.low == pytest.approx(interval.high, abs=1e-6)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_constant_sample_gives_one_point(method: str) -> None:
    values = np.full(7, 0.1)
    for interval in (
        statistics.percentile_interval(values),
        statistics.bootstrap_interval(values, np.median, draws=50, method=method),
        statistics.tost(values, 0.2).interval,
    ):
        assert (interval.low, interval.high, interval.width) == (0.1, 0.1, 0.0)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_agrees_with_scipy(method: str) -> None:
    values = skewed()
    interval = statistics.bootstrap_interval(values, np.mean, 0.9, 300, seed=4, method=method)
    reference = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=300, method=method, rng=np.random.default_rng(4)
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx(tuple(reference), rel=1e-12)
    assert interval.kind == method
    assert interval == statistics.bootstrap_interval(values, np.mean, 0.9, 300, seed=4, method=method)
    assert interval != statistics.bootstrap_interval(values, np.mean, 0.9, 300, seed=5, method=method)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_copies_in_one_cluster_add_nothing(method: str) -> None:
    values = skewed(15)
    single = statistics.bootstrap_interval(values, np.mean, draws=300, method=method)
    labels = [f"fact {i}" for i in range(15)] * 10
    clustered = statistics.bootstrap_interval(
        np.tile(values, 10), np.mean, draws=300, method=method, clusters=labels
    )
    assert (clustered.low, clustered.high) == pytest.approx((single.low, single.high))
    unclustered = statistics.bootstrap_interval(np.tile(values, 10), np.mean, draws=300, method=method)
    assert unclustered.width < single.width / 2


def test_bootstrap_of_rows() -> None:
    x = skewed()
    table = np.stack([2 * x, x], axis=1)
    interval = statistics.bootstrap_interval(table, lambda t: t[:, 0].sum() / t[:, 1].sum(), draws=50)
    assert (interval.low, interval.high) == pytest.approx((2, 2))


def test_bootstrap_says_where_bca_is_undefined() -> None:
    values = np.array([0.0, 0, 0, 0, 0, 1, 1])
    interval = statistics.bootstrap_interval(values, np.median, draws=400)
    assert interval.kind == "percentile, as BCa is not defined"
    plain = statistics.bootstrap_interval(values, np.median, draws=400, method="percentile")
    assert (interval.low, interval.high) == (plain.low, plain.high)
    assert np.isfinite([interval.low, interval.high]).all()


def test_bootstrap_of_an_estimate_outside_all_draws_is_not_bca() -> None:
    def distinct(values: np.ndarray) -> float:
        return len(set(values)) + 0.001 * values.mean()

    interval = statistics.bootstrap_interval(np.arange(20.0), distinct, draws=200)
    assert interval.kind == "percentile, as BCa is not defined"
    assert interval.width > 1


# Permutation and multiplicity


@given(floats, samples, st.sampled_from(["greater", "less"]))
def test_permutation_p_by_definition(observed: float, null: np.ndarray, alternative: str) -> None:
    k = sum((x >= observed) if alternative == "greater" else (x <= observed) for x in null)
    p = statistics.permutation_p(observed, null, alternative)
    assert p >= (1 + k) / (1 + null.size)
    if not np.isclose(null, observed, rtol=1e-9).any():
        assert p == (1 + k) / (1 + null.size)


@given(tied_samples, st.sampled_from(["greater", "less", "two-sided"]))
def test_permutation_p_is_valid_whichever_value_was_observed(values: np.ndarray, alternative: str) -> None:
    ps = [statistics.permutation_p(values[i], np.delete(values, i), alternative) for i in range(len(values))]
    for level in ps:
        assert sum(p <= level for p in ps) / len(ps) <= level + 1e-12


def test_permutation_p_counts_ties_up_to_rounding() -> None:
    assert statistics.permutation_p(0.3, [0.1 + 0.2, 0.3, 0.2]) == 3 / 4
    assert statistics.permutation_p(0.1 + 0.2, [0.3, 0.2, 0.1]) == 2 / 4


@pytest.mark.parametrize("level", [0.001, 0.01, 0.05, 0.1, 0.3])
def test_minimum_draws_is_the_least_that_works(level: float) -> None:
    for comparisons in [*range(1, 60), 84, 218, 1000]:
        m = statistics.minimum_draws(level, comparisons)

        def reaches(draws: int, comparisons: int = comparisons) -> bool:
            p = statistics.permutation_p(1.0, np.zeros(draws))
            return statistics.holm([p] + [1.0] * (comparisons - 1))[0] <= level

        assert reaches(m)
        assert m == 1 or not reaches(m - 1)
    assert statistics.minimum_draws(0.05) == 19
    assert statistics.minimum_draws(0.05, 5) == 99


@given(p_values, st.floats(0.001, 0.5))
def test_holm_rejects_as_the_stepwise_procedure(p: np.ndarray, level: float) -> None:
    rejected = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (p.size - step) > level:
            break
        rejected.add(index)
    assert set(np.flatnonzero(statistics.holm(p) <= level)) == rejected


@given(p_values)
def test_benjamini_yekutieli_by_definition(p: np.ndarray) -> None:
    n = p.size
    harmonic = sum(1 / i for i in range(1, n + 1))
    rank = np.sort(p)
    expected = [
        min(
            [
                1.0,
                *(rank[j] * n * harmonic / (j + 1) for j in range(np.searchsorted(rank, x, "right") - 1, n)),
            ]
        )
        for x in p
    ]
    np.testing.assert_allclose(statistics.benjamini_yekutieli(p), expected, rtol=1e-9, atol=1e-300)


# Equivalence


@given(st.integers(0, 10**6), st.integers(2, 40), st.floats(0.05, 3), st.sampled_from([0.01, 0.05, 0.1]))
def test_tost_agrees_with_two_t_tests(seed: int, n: int, margin: float, alpha: float) -> None:
    values = np.random.default_rng(seed).normal(0.2, 1, n)
    result = statistics.tost(values, margin, alpha)
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    assert result.p == pytest.approx(max(above, below), rel=1e-9)
    reference = stats.ttest_1samp(values, 0).confidence_interval(1 - 2 * alpha)
    assert (result.interval.low, result.interval.high) == pytest.approx(tuple(reference), rel=1e-9, abs=1e-12)
    assert result.equivalent == (result.p < alpha)


def test_tost_at_its_edges() -> None:
    normal = statistics.tost_from_summary(0.5, 0.25, math.inf, 1.0)
    assert normal.p == pytest.approx(stats.norm.sf(2))
    assert (statistics.tost([0.1] * 3, 0.2).p, statistics.tost([0.1] * 3, 0.2).equivalent) == (0, True)
    assert (statistics.tost([0.2] * 3, 0.2).p, statistics.tost([0.2] * 3, 0.2).equivalent) == (1, False)


def test_tost_percentile() -> None:
    draws = np.linspace(-1, 1, 201)
    result = statistics.tost_percentile(draws, 0.95)
    assert (result.interval.low, result.interval.high) == pytest.approx((-0.9, 0.9))
    assert result.interval.level == pytest.approx(0.9)
    assert result.equivalent
    assert result.p == (1 + 6) / 202
    assert not statistics.tost_percentile(draws, 0.89).equivalent
    assert not statistics.tost_percentile(draws + 0.2, 0.95).equivalent
    with pytest.raises(StatisticsError, match=r"10 draws: alpha 0\.05 needs at least 19"):
        statistics.tost_percentile(draws[:10], 1)


# Trends


@settings(deadline=None)
@given(tied_samples, st.sampled_from(["two-sided", "greater", "less"]))
def test_mann_kendall_by_enumeration(values: np.ndarray, alternative: str) -> None:
    def score(y: tuple[float, ...]) -> int:
        return sum(np.sign(b - a) for a, b in itertools.combinations(y, 2))

    observed = score(tuple(values))
    orders = [score(order) for order in itertools.permutations(values)]
    extreme = {
        "greater": lambda s: s >= observed,
        "less": lambda s: s <= observed,
        "two-sided": lambda s: abs(s) >= abs(observed),
    }[alternative]
    result = statistics.mann_kendall(values, alternative=alternative)
    assert result.p == pytest.approx(np.mean([extreme(s) for s in orders]))
    assert result.method == "exact"
    assert np.sign(result.statistic) == np.sign(observed)


def test_mann_kendall_over_sizes() -> None:
    sizes, values = [10, 20, 40, 80, 160], [0.2, 0.5, 0.4, 0.7, 0.9]
    assert statistics.mann_kendall(values, sizes) == statistics.mann_kendall(values)
    assert statistics.mann_kendall(values[::-1], sizes[::-1]) == statistics.mann_kendall(values)
    rising = statistics.mann_kendall(range(5), alternative="greater")
    assert (rising.statistic, rising.p) == pytest.approx((1, 1 / 120))
    assert statistics.mann_kendall([1.0, 1, 1]).p == 1
    many = np.random.default_rng(0).integers(0, 4, 40).astype(float)
    assert statistics.mann_kendall(many).method == "asymptotic"
    assert statistics.mann_kendall(many).p == stats.kendalltau(range(40), many).pvalue


def test_page_trend_by_enumeration() -> None:
    curves = np.array([[0.1, 0.5, 0.3], [0.2, 0.4, 0.9]])
    weights = np.array([1, 2, 3])
    observed = (stats.rankdata(curves, axis=1) @ weights).sum()
    totals = [
        np.dot(first, weights) + np.dot(second, weights)
        for first in itertools.permutations([1, 2, 3])
        for second in itertools.permutations([1, 2, 3])
    ]
    result = statistics.page_trend(curves)
    assert result.statistic == observed
    assert result.p == pytest.approx(np.mean([total >= observed for total in totals]))
    assert statistics.page_trend(-curves, "decreasing") == result
    assert statistics.page_trend(curves, "decreasing").p > 0.5


# Counts


@given(st.integers(1, 30), st.data())
def test_hypergeometric_p_by_counting(total: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    k = data.draw(st.integers(max(0, a + b - total), min(a, b)))
    ways = sum(math.comb(a, i) * math.comb(total - a, b - i) for i in range(k, min(a, b) + 1))
    assert statistics.hypergeometric_p(k, a, b, total) == pytest.approx(
        float(Fraction(ways, math.comb(total, b)))
    )


@given(st.integers(1, 200), st.data(), levels)
def test_binomial_interval_by_closed_form(n: int, data: st.DataObject, level: float) -> None:
    k = data.draw(st.integers(0, n))
    tail = (1 - level) / 2
    exact = statistics.binomial_interval(k, n, level)
    assert exact.low == pytest.approx(stats.beta.ppf(tail, k, n - k + 1) if k else 0, abs=1e-9)
    assert exact.high == pytest.approx(stats.beta.isf(tail, k + 1, n - k) if k < n else 1, abs=1e-9)
    z = stats.norm.isf(tail)
    wilson = statistics.binomial_interval(k, n, level, "wilson")
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert (wilson.low, wilson.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


# What all share


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: statistics.percentile_interval([]), r"samples has shape \(0,\)"),
        (lambda: statistics.percentile_interval([1, math.nan]), r"samples\[1\] is nan"),
        (lambda: statistics.percentile_interval([[1, 2]]), r"samples has shape \(1, 2\)"),
        (lambda: statistics.percentile_interval(["a", "b"]), "samples is not an array of numbers"),
        (lambda: statistics.percentile_interval([1, 2], 95), "level is 95"),
        (lambda: statistics.bootstrap_interval([1], np.mean), "1 independent unit"),
        (lambda: statistics.bootstrap_interval([1, 2], np.mean, clusters=["a", "a"]), "1 independent unit"),
        (lambda: statistics.bootstrap_interval([1, 2], np.mean, clusters=["a"]), "1 labels for 2 samples"),
        (
            lambda: statistics.bootstrap_interval([1, 2], np.mean, clusters=["a", None]),
            r"clusters\[1\] is None",
        ),
        (
            lambda: statistics.bootstrap_interval([1, 2], np.mean, draws=10),
            "draws is 10: it must be at least 40",
        ),
        (lambda: statistics.bootstrap_interval([1, 2], np.mean, method="basic"), "method is 'basic'"),
        (lambda: statistics.bootstrap_interval([1, 2], lambda x: math.nan), "statistic is nan"),
        (lambda: statistics.permutation_p(1, []), r"null has shape \(0,\)"),
        (lambda: statistics.permutation_p(1, [1, math.nan]), r"null\[1\] is nan"),
        (lambda: statistics.permutation_p(math.nan, [1]), "observed is nan"),
        (lambda: statistics.permutation_p(1, [1], "both"), "alternative is 'both'"),
        (lambda: statistics.minimum_draws(0, 1), "level is 0"),
        (lambda: statistics.minimum_draws(0.05, 0), "comparisons is 0"),
        (lambda: statistics.minimum_draws(0.05, 1.5), "comparisons is 1.5"),
        (lambda: statistics.holm([]), "p_values has shape"),
        (lambda: statistics.holm([0.1, 1.2]), r"p_values\[1\] is 1.2"),
        (lambda: statistics.benjamini_yekutieli([math.nan]), r"p_values\[0\] is nan"),
        (lambda: statistics.tost([1], 1), "at least 2"),
        (lambda: statistics.tost([1, 2], 0), "margin is 0"),
        (lambda: statistics.tost([1, 2], 1, alpha=0.6), "alpha is 0.6"),
        (lambda: statistics.tost_from_summary(0, -1, 5, 1), "standard_error is -1"),
        (lambda: statistics.tost_from_summary(0, 1, 0, 1), "degrees_of_freedom is 0"),
        (lambda: statistics.mann_kendall([1, 2]), "at least 3"),
        (lambda: statistics.mann_kendall([1, 2, 3], [1, 2]), "x has 2 points for 3 values"),
        (lambda: statistics.page_trend([[1, 2, 3]]), "at least 2"),
        (lambda: statistics.page_trend([[1, 2], [1, 2]]), "at least 3 sizes"),
        (lambda: statistics.hypergeometric_p(4, 3, 3, 10), "overlap_count is 4: it must be between 0 and 3"),
        (lambda: statistics.hypergeometric_p(0, 8, 8, 10), "overlap_count is 0: it must be between 6 and 8"),
        (lambda: statistics.binomial_interval(1, 0), "n is 0"),
        (lambda: statistics.binomial_interval(3, 2), "k is 3"),
    ],
)
def test_errors_name_the_culprit_in_one_line(call: Callable[[], object], named: str) -> None:
    with pytest.raises(StatisticsError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_results_are_plain_numbers() -> None:
    for result in (
        statistics.bootstrap_interval(skewed(), np.mean, draws=40),
        statistics.percentile_interval(skewed()),
        statistics.tost(skewed(), 1),
        statistics.tost_percentile(skewed(), 1),
        statistics.mann_kendall([1.0, 1, 2]),
        statistics.page_trend([[1, 2, 3], [1, 3, 2]]),
        statistics.binomial_interval(1, 2),
    ):
        json.dumps(asdict(result), allow_nan=False)
        assert all(type(value) in (float, str, dict) for value in asdict(result).values())
    assert type(statistics.permutation_p(1, [2, 3])) is float
    assert type(statistics.hypergeometric_p(1, 2, 3, 9)) is float
