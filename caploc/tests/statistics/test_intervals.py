"""Intervals and counts against closed forms, counting, and scipy called another way."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from caploc import statistics
from caploc.statistics import intervals
from caploc.tests.statistics.samples import levels, samples, skewed


@settings(deadline=None)
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


eighths = st.lists(st.integers(-8, 8).map(lambda k: k / 8), min_size=2, max_size=24)
"""Numbers whose sums are exact, so that ties are ties in every order of summation."""


@settings(max_examples=60, deadline=None)
@given(eighths, st.data(), levels, st.sampled_from(["BCa", "percentile"]), st.integers(0, 99))
def test_bootstrap_mean_is_scipys(
    values: list[float], data: st.DataObject, level: float, method: str, seed: int
) -> None:
    labels = data.draw(st.lists(st.integers(0, 6), min_size=len(values), max_size=len(values)))
    clusters = data.draw(st.sampled_from([None, labels])) if len(set(labels)) > 1 else None
    expand = data.draw(st.booleans())
    fast = statistics.bootstrap_mean(values, level, 60, seed, method, clusters, expand)
    slow = statistics.bootstrap_interval(values, np.mean, level, 60, seed, method, clusters, expand)
    assert (fast.low, fast.high) == pytest.approx((slow.low, slow.high), rel=1e-9, abs=1e-9)
    assert (fast.level, fast.kind) == (slow.level, slow.kind)


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_mean_of_equal_clusters_is_one_point(method: str, expand: bool) -> None:
    interval = statistics.bootstrap_mean([0, 1, 1, 0], clusters="aabb", method=method, expand=expand)
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_bootstrap_mean_outside_all_draws_is_not_bca() -> None:
    few = [statistics.bootstrap_mean([0.0, 1.0, 5.0], 0.5, draws=4, seed=seed) for seed in range(100)]
    undefined = [interval for interval in few if interval.kind == "percentile, as BCa is not defined"]
    assert 0 < len(undefined) < 50
    assert all(interval.high < 2 or interval.low > 2 for interval in undefined)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_mean_of_many_units_comes_in_blocks(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values, facts = skewed(90), np.arange(90) // 3
    whole = statistics.bootstrap_mean(values, method=method, clusters=facts)
    monkeypatch.setattr(intervals, "RESAMPLED_VALUES_AT_ONCE", 1000)
    assert statistics.bootstrap_mean(values, method=method, clusters=facts) == whole
    assert statistics.bootstrap_mean(values, method=method, clusters=[f"f{i}" for i in facts]) == whole
    assert statistics.bootstrap_mean(values, method=method, clusters=facts, seed=1) != whole
    constant = statistics.bootstrap_mean(np.full(9, 0.1), method=method, clusters=np.arange(9) // 2)
    assert (constant.low, constant.high) == (0.1, 0.1)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_expanding_is_asking_for_students_level(method: str) -> None:
    values = skewed(12)
    z = stats.t.ppf(0.975, 11) * math.sqrt(12 / 11)
    expanded = statistics.bootstrap_mean(values, method=method, expand=True)
    asked = statistics.bootstrap_mean(values, level=2 * stats.norm.cdf(z) - 1, method=method)
    assert (expanded.low, expanded.high) == pytest.approx((asked.low, asked.high))
    assert (expanded.level, expanded.kind) == (0.95, f"{method}, expanded")
    assert expanded.width > statistics.bootstrap_mean(values, method=method).width
    two = statistics.bootstrap_mean([1.0, 2.0], method=method, expand=True)
    assert (two.low, two.high) == (1, 2)


def test_an_expanded_percentile_interval_is_about_students() -> None:
    values = np.random.default_rng(1).normal(size=10)
    expanded = statistics.bootstrap_mean(values, draws=20_000, method="percentile", expand=True)
    student = statistics.tost(values, 1, alpha=0.025).interval
    assert expanded.width == pytest.approx(student.width, rel=0.05)


@settings(deadline=None)
@given(st.integers(1, 30), st.data())
def test_hypergeometric_p_by_counting(total: int, data: st.DataObject) -> None:
    a, b = data.draw(st.integers(0, total)), data.draw(st.integers(0, total))
    k = data.draw(st.integers(max(0, a + b - total), min(a, b)))
    ways = sum(math.comb(a, i) * math.comb(total - a, b - i) for i in range(k, min(a, b) + 1))
    assert statistics.hypergeometric_p(k, a, b, total) == pytest.approx(
        float(Fraction(ways, math.comb(total, b)))
    )


@settings(deadline=None)
@given(st.integers(1, 200), st.data(), levels)
def test_binomial_interval_by_closed_form(n: int, data: st.DataObject, level: float) -> None:
    k = data.draw(st.integers(0, n))
    tail = (1 - level) / 2
    exact = statistics.binomial_interval(k, n, level)
    assert exact.low == pytest.approx(stats.beta.ppf(tail, k, n - k + 1) if k else 0, abs=1e-9)
    assert exact.high == pytest.approx(stats.beta.isf(tail, k + 1, n - k) if k < n else 1, abs=1e-9)
    z = stats.norm.isf(tail)
    as_share = statistics.share_interval(k / n, n, level)
    assert (as_share.low, as_share.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    wilson = statistics.binomial_interval(k, n, level, "wilson")
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert (wilson.low, wilson.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


def test_the_interval_of_a_mean_share_lies_between_those_of_whole_counts() -> None:
    below, between, above = (statistics.share_interval(k / 20, 20) for k in (3, 3.5, 4))
    assert below.low < between.low < above.low and below.high < between.high < above.high
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(statistics.StatisticsError, match="must lie between 0 and 1"):
            statistics.share_interval(share, 20)
