"""Statistics: arrays in, numbers out, on scipy.

Every function checks what it is given and raises `StatisticsError`, in one line, for an empty, non-finite or wrongly
shaped input: a NaN that slipped into a sample must not become a verdict. What comes back is made of plain Python
numbers, so that it can be written as JSON.
"""

from __future__ import annotations

from caploc.statistics.checks import StatisticsError
from caploc.statistics.counts import binomial_interval, hypergeometric_p
from caploc.statistics.equivalence import Equivalence, tost, tost_from_summary, tost_percentile
from caploc.statistics.intervals import Interval, bootstrap_interval, percentile_interval
from caploc.statistics.permutation import benjamini_yekutieli, holm, minimum_draws, permutation_p
from caploc.statistics.trends import Trend, mann_kendall, page_trend

__all__ = [
    "Equivalence",
    "Interval",
    "StatisticsError",
    "Trend",
    "benjamini_yekutieli",
    "binomial_interval",
    "bootstrap_interval",
    "holm",
    "hypergeometric_p",
    "mann_kendall",
    "minimum_draws",
    "page_trend",
    "percentile_interval",
    "permutation_p",
    "tost",
    "tost_from_summary",
    "tost_percentile",
]
