"""Samples that hypothesis draws for these tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

floats = st.floats(-1e6, 1e6)
samples = npst.arrays(np.float64, st.integers(2, 30), elements=floats)
tied_samples = npst.arrays(np.float64, st.integers(3, 6), elements=st.integers(0, 3).map(float))
p_values = npst.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1))
levels = st.sampled_from([0.8, 0.9, 0.95])
alternatives = st.sampled_from(["greater", "less", "two-sided"])


def skewed(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).exponential(size=n)
