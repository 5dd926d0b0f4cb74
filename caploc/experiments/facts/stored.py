"""Measurements that are kept in the study's store, so that a second run, or another worker, reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from caploc.experiments.study import Study
from caploc.store import fingerprint

# Part of every key: raise it when a change of the code changes numbers by more than rounding.
CODE_VERSION = 1


def stored(
    study: Study, what: str, depends_on: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """What ``make`` gave for this model, dtype and device type and for what else the result ``depends_on``."""
    lm = study.lm
    key = fingerprint(
        {
            "what": what,
            "code": CODE_VERSION,
            "model": lm.fingerprint,
            "dtype": study.settings.dtype,
            "device": study.settings.device.partition(":")[0],
            **depends_on,
        }
    )
    (entry,) = study.settings.store.compute_all([(key, lambda: (make(), {}))])
    return entry.arrays
