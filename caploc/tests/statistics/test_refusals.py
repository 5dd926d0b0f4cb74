"""What all statistics share: errors of one line, results of plain numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from caploc import statistics
from caploc.statistics import Interval, StatisticsError
from caploc.tests.statistics.samples import skewed

NARROW, WIDE = Interval(0.0, 1.0, 0.95, "t"), Interval(-1.0, 2.0, 0.99, "t")


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
        (lambda: statistics.bootstrap_mean([1, math.nan]), r"samples\[1\] is nan"),
        (lambda: statistics.bootstrap_mean([1, 2], clusters=[1, 1]), "1 independent unit"),
        (lambda: statistics.bootstrap_mean([1, 2], draws=10), "draws is 10: it must be at least 40"),
        (
            lambda: statistics.bootstrap_mean([1, 2], clusters=[[], []]),
            r"clusters\[0\] is no label: unhashable",
        ),
        (
            lambda: statistics.bootstrap_mean([1, 2], clusters=[1, math.nan]),
            r"clusters\[1\] is nan: label every",
        ),
        (lambda: statistics.bootstrap_mean([1, 2], clusters=3), "clusters has no labels for 2 samples"),
        (lambda: statistics.paired_permutation([]), r"differences has shape \(0,\)"),
        (lambda: statistics.paired_permutation([math.inf]), r"differences\[0\] is inf"),
        (lambda: statistics.paired_permutation([1], [1, 2]), "first has 1 values and second 2"),
        (lambda: statistics.paired_permutation([1, 2], clusters=[1]), "1 labels for 2 samples"),
        (lambda: statistics.paired_permutation([1], draws=0), "draws is 0"),
        (lambda: statistics.paired_permutation([1], alternative="up"), "alternative is 'up'"),
        (lambda: statistics.stratified_permutation([1], [True, False]), "labels has 2 values for 1 values"),
        (
            lambda: statistics.stratified_permutation([1, 2], [0, 2]),
            r"labels\[1\] is 2: it must be true or false",
        ),
        (lambda: statistics.stratified_permutation([1, 2], [1, 0], ["a"]), "strata has 1 labels for 2"),
        (lambda: statistics.stratified_permutation([1, 2], [1, 0], ["a", "b"]), "no stratum holds both"),
        (lambda: statistics.stratified_permutation([1, 2], [1, 0], draws=1.5), "draws is 1.5"),
        (lambda: statistics.mcnemar([], []), r"first has shape \(0,\)"),
        (lambda: statistics.mcnemar([0.5], [1]), r"first\[0\] is 0.5: it must be true or false"),
        (lambda: statistics.mcnemar([1], [1, 0]), "first has 1 values and second 2"),
        (lambda: statistics.mcnemar_from_counts(2, 3, 4), "second_only is 3: it must be between 0 and 2"),
        (lambda: statistics.mcnemar_from_counts(1, 1, 4, level=1), "level is 1"),
        (statistics.minimum_detectable_effect, "give either standard_error, or n and sd"),
        (
            lambda: statistics.minimum_detectable_effect(1, n=3, sd=1),
            "give either standard_error, or n and sd",
        ),
        (lambda: statistics.minimum_detectable_effect(math.nan), "standard_error is nan"),
        (lambda: statistics.minimum_detectable_effect(-1), "standard_error is -1"),
        (lambda: statistics.minimum_detectable_effect(n=1, sd=1), "n is 1"),
        (lambda: statistics.minimum_detectable_effect(1, power=0.01), "power is 0.01: it must exceed"),
        (lambda: statistics.minimum_detectable_effect(1, comparisons=0), "comparisons is 0"),
        (lambda: statistics.minimum_detectable_difference(0, 0.5), "n is 0"),
        (lambda: statistics.minimum_detectable_difference(10, 0), "discordant is 0"),
        (lambda: statistics.three_sided(NARROW, 1, -1), "the margin 1 .. -1 is empty"),
        (lambda: statistics.three_sided(NARROW, math.nan, 1), "the margin nan .. 1 is empty"),
        (lambda: statistics.three_sided(NARROW, -1, 1, WIDE), r"inner has level 0.99: .* 0.9 at least"),
        (lambda: statistics.binomial_interval(1, 0), "n is 0"),
        (lambda: statistics.binomial_interval(3, 2), "k is 3"),
    ],
)
def test_errors_name_the_culprit_in_one_line(call: Callable[[], object], named: str) -> None:
    with pytest.raises(StatisticsError, match=named) as caught:
        call()
    assert "\n" not in str(caught.value)


PAIRS = [1.5, 2.5, -1.0, 0.5] * 6
LABELS = [True, False, False, True] * 6


def test_results_are_plain_numbers() -> None:
    for result in (
        statistics.bootstrap_interval(skewed(), np.mean, draws=40),
        statistics.bootstrap_mean(skewed(), draws=40),
        statistics.percentile_interval(skewed()),
        statistics.tost(skewed(), 1),
        statistics.mann_kendall([1.0, 1, 2]),
        statistics.page_trend([[1, 2, 3], [1, 3, 2]]),
        statistics.binomial_interval(1, 2),
        statistics.paired_permutation(PAIRS[:8]),
        statistics.paired_permutation(PAIRS, draws=20),
        statistics.paired_permutation(LABELS, clusters=np.arange(24) // 4),
        statistics.stratified_permutation(PAIRS[:8], LABELS[:8]),
        statistics.stratified_permutation(PAIRS, LABELS, draws=20),
        statistics.mcnemar(LABELS, np.roll(LABELS, 1)),
    ):
        json.dumps(asdict(result), allow_nan=False)
        assert all(type(value) in (float, int, str, dict) for value in asdict(result).values())
    for number in (
        statistics.permutation_p(1, [2, 3]),
        statistics.hypergeometric_p(1, 2, 3, 9),
        statistics.minimum_detectable_effect(np.float64(1)),
        statistics.minimum_detectable_effect(n=5, sd=np.float64(1)),
        statistics.minimum_detectable_difference(90, 0.5),
    ):
        assert type(number) is float
    assert json.dumps(statistics.three_sided(NARROW, 2, 3)) == '"below"'
