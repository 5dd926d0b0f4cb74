"""Measurements that are kept in the study's store, so that a second run, or another worker, reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from caploc.experiments.study import Study
from caploc.fingerprints import fingerprint
from caploc.store import Compute

# Part of every key: raise it when a change of the code changes numbers by more than rounding.
CODE_VERSION = 1

Make = Callable[[], Mapping[str, np.ndarray]]


def stored(study: Study, what: str, depends_on: Mapping[str, Any], make: Make) -> Mapping[str, np.ndarray]:
    """What ``make`` gave for this model, dtype and device type and for what else the result ``depends_on``."""
    (arrays,) = stored_all(study, what, [(depends_on, make)])
    return arrays


def stored_all(
    study: Study, what: str, tasks: Iterable[tuple[Mapping[str, Any], Make]], progress: str | None = None
) -> list[Mapping[str, np.ndarray]]:
    """As `stored`, for many at once: workers that ask for the same share the work (`Store.compute_all`)."""
    common = {
        "what": what,
        "code": CODE_VERSION,
        "model": study.lm.fingerprint,
        "dtype": study.settings.dtype,
        "device": study.settings.device.partition(":")[0],
    }
    keyed = [(fingerprint({**common, **depends_on}), _entry(make)) for depends_on, make in tasks]
    return [entry.arrays for entry in study.settings.store.compute_all(keyed, progress=progress)]


def _entry(make: Make) -> Compute:
    return lambda: (make(), {})
