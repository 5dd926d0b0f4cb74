"""Section 5.4, Table 3: does erasing the located neurons cost the ability that they were located with?

``erasures(study, located_on, sigma)`` gives the outcomes of every set on every dataset, from which all findings follow.
"""

from __future__ import annotations

from caploc.experiments.erasure.harm import located_hurts_more
from caploc.experiments.erasure.measured import Erasures, erasures
from caploc.experiments.erasure.table3 import base, erase, random
from caploc.experiments.erasure.trend import sigma_trend

__all__ = [
    "Erasures",
    "base",
    "erase",
    "erasures",
    "located_hurts_more",
    "random",
    "sigma_trend",
]
