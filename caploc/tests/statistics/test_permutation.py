"""Permutation tests against their definition, enumerations and scipy's."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc import statistics
from caploc.tests.statistics.samples import floats, samples, tied_samples


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
