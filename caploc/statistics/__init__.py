"""Statistics: arrays in, numbers out, on scipy.

Every function checks what it is given and raises `StatisticsError`, in one line, for an empty, non-finite or wrongly
shaped input: a NaN that slipped into a sample must not become a verdict. What comes back is made of plain Python
numbers, so that it can be written as JSON.
"""

from __future__ import annotations

from caploc.statistics.bootstrap import bootstrap_interval, bootstrap_mean
from caploc.statistics.checks import StatisticsError
from caploc.statistics.counts import binomial_interval, hypergeometric_p
from caploc.statistics.equivalence import Equivalence, tost, tost_from_summary, tost_percentile
from caploc.statistics.intervals import Interval, percentile_interval
from caploc.statistics.mcnemar import McNemar, mcnemar, mcnemar_from_counts
from caploc.statistics.multiplicity import benjamini_yekutieli, holm, minimum_draws
from caploc.statistics.permutation import PermutationTest, permutation_p
from caploc.statistics.power import minimum_detectable_difference, minimum_detectable_effect
from caploc.statistics.sign_flips import paired_permutation
from caploc.statistics.strata import stratified_permutation
from caploc.statistics.three_sided import Side, three_sided
from caploc.statistics.trends import Trend, mann_kendall, page_trend

__all__ = [
    "Equivalence",
    "Interval",
    "McNemar",
    "PermutationTest",
    "Side",
    "StatisticsError",
    "Trend",
    "benjamini_yekutieli",
    "binomial_interval",
    "bootstrap_interval",
    "bootstrap_mean",
    "holm",
    "hypergeometric_p",
    "mann_kendall",
    "mcnemar",
    "mcnemar_from_counts",
    "minimum_detectable_difference",
    "minimum_detectable_effect",
    "minimum_draws",
    "page_trend",
    "paired_permutation",
    "percentile_interval",
    "permutation_p",
    "stratified_permutation",
    "three_sided",
    "tost",
    "tost_from_summary",
    "tost_percentile",
]
