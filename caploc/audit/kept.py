"""Findings of earlier runs, kept in the store under a hash of all that they follow from.

A finding follows from the files of its models and datasets, the paper, the settings, and the code: caploc's own and
that of the packages it computes with. Where all of these are what they were, so is the finding: a run that asks for
nothing new loads no model and reads no scores. A finding is judged anew every time.

What says that nothing could be measured is not kept, since the reason may be gone tomorrow. Nor is a finding that this
hash does not cover, where an experiment or a locator of the user's own code takes part.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import caploc
from caploc.audit.cells import CLAIM_TEST, PLANNED, REQUEST
from caploc.audit.claims import Reference
from caploc.audit.summary import package_versions
from caploc.errors import CaplocError
from caploc.findings import Finding
from caploc.fingerprints import NO_PART, code_hash, file_hash, fingerprint
from caploc.model.registry import REGISTRY, embedded_folder
from caploc.store import Store, StoreError

if TYPE_CHECKING:
    import pytest

    from caploc.audit.settings import AuditSettings
    from caploc.papers import Paper

_PACKAGE = Path(caploc.__file__).parent


class KeptFindings:
    """The findings that a run may take over from earlier ones, and those that it leaves to later ones.

    ``data``: dataset -> file -> sha256, what the run's processes read and nothing else.
    """

    def __init__(self, settings: AuditSettings, data: Mapping[str, Mapping[str, str]]) -> None:
        self._settings, self._store = settings, Store(settings.store)
        self._data = {name: sorted(files.values()) for name, files in data.items()}
        self._keys: dict[pytest.Item, str | None] = {}

    def has(self, item: pytest.Item, paper: Paper) -> bool:
        """Whether there is one for the cell of a test."""
        key = self._key(item, paper)
        return key is not None and self._store.has(key)

    def get(self, item: pytest.Item, paper: Paper) -> Finding | None:
        """The finding kept for the cell of a test; None where there is none."""
        key = self._key(item, paper)
        entry = self._store.get(key) if key is not None else None
        return None if entry is None else Finding.loads(entry.arrays["finding"].tobytes().decode())

    def put(self, item: pytest.Item, paper: Paper, finding: Finding) -> None:
        """Keeps what was measured in the cell of a test."""
        key = self._key(item, paper)
        if key is not None and finding.measurement.not_run is None:
            text = np.frombuffer(finding.dumps().encode(), np.uint8)
            with suppress(StoreError):  # a full or read-only store must not cost the run its finding
                self._store.put(key, {"finding": text}, {}, f"finding of {item.stash[PLANNED].test}")

    def _key(self, item: pytest.Item, paper: Paper) -> str | None:
        if item not in self._keys:
            try:
                self._keys[item] = self._hash(item, paper)
            except (CaplocError, OSError):  # files that cannot be read, options of no plain type
                self._keys[item] = None
        return self._keys[item]

    def _hash(self, item: pytest.Item, paper: Paper) -> str | None:
        settings, request = self._settings, item.stash[REQUEST]
        experiment = _named(item.stash[CLAIM_TEST].experiment)
        models = [one.model for one in request.each or (request,) if one.model]
        if experiment is None or _extended():
            return None
        return fingerprint(
            {
                "what": "finding",
                "code": code_version(),
                "paper": paper.digest,
                "claim": item.stash[PLANNED].claim,
                "cell": request.cell,
                "experiment": experiment,
                "models": [[_model_content(model), *settings.placement(model)] for model in models],
                "datasets": [one.label for one in settings.datasets],
                "data": self._data,
                "numbers": [settings.samples, settings.draws, settings.seed, settings.steps],
                "sigmas": settings.sigmas,
                "reading": settings.reading.settings,
                "scorings": settings.scorings,
            }
        )


def _named(experiment: Any) -> list[Any] | None:
    """Where an experiment's code is, and its options; None where that is not in this package."""
    if isinstance(experiment, Reference) and _hashed(experiment.module):
        return [experiment.module, experiment.name, experiment.options]
    return None


def _extended() -> bool:
    """Whether a locator is registered whose code is not in this package."""
    locators = getattr(sys.modules.get("caploc.locators"), "LOCATORS", {})
    return any(not _hashed(one.locate.__module__) for one in locators.values())


def _hashed(module: str) -> bool:
    """Whether a module's code is part of `code_version`."""
    package, _, rest = module.partition(".")
    return package == _PACKAGE.name and rest.partition(".")[0] not in NO_PART


@cache
def code_version() -> str:
    """Of all code that a finding follows from: this package's files, and the versions of others and of Python."""
    return fingerprint([code_hash(), package_versions(), platform.python_version()])


@cache
def _model_content(model: str) -> Any:
    """The hashes of a model's files and of its early checkpoint's, or the commit that they are pinned to."""
    entry = REGISTRY.get(model)
    if entry is not None and entry.embedded:
        return [_folder_hashes(embedded_folder(name)) for name in (model, entry.early) if name]
    if entry is not None:
        return f"{entry.hub}@{entry.revision}"
    return _folder_hashes(Path(model)) if Path(model).is_dir() else model  # ORG/NAME@COMMIT


def _folder_hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
