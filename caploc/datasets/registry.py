"""The datasets that have a name: the paper's first, then those beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from caploc.datasets.base import Dataset
from caploc.datasets.code25k import CODE25K
from caploc.datasets.counterfact import COUNTERFACT
from caploc.datasets.decoupling import DECOUPLING
from caploc.datasets.emotion import EMOTION
from caploc.datasets.gsm8k import GSM8K
from caploc.datasets.gsm8k_backward import GSM8K_BACKWARD
from caploc.datasets.imdb import IMDB
from caploc.datasets.known_1000 import KNOWN_1000
from caploc.datasets.mbpp import MBPP
from caploc.datasets.meta_math import META_MATH
from caploc.datasets.pararel import PARAREL
from caploc.datasets.zsre import ZSRE

_ENTRIES = (
    GSM8K,
    META_MATH,
    CODE25K,
    EMOTION,
    IMDB,
    COUNTERFACT,
    ZSRE,
    PARAREL,
    KNOWN_1000,
    DECOUPLING,
    MBPP,
    GSM8K_BACKWARD,
)

DATASETS: Mapping[str, Dataset] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> dataset. A further dataset is a further file and a line above."""
