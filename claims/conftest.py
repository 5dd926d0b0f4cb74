"""What the claim tests share: one study per model, kept for the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.requests import CellRequest
    from caploc.audit.settings import AuditSettings
    from caploc.experiments.study import Study


@pytest.fixture(scope="session")
def study_of(settings: AuditSettings) -> Callable[[CellRequest], Study]:
    """The study of a cell's model. Only the latest is kept: tests come in the order of the models."""
    # imported here, so that --help, --collect-only and usage errors need not wait for torch
    import torch

    from caploc.attribution.allocator import keep_freed_memory
    from caploc.attribution.engine import Method
    from caploc.experiments.study import Study, StudySettings
    from caploc.store import Store

    keep_freed_memory()
    torch.set_num_threads(1)  # same numbers whatever the machine; -n gives more workers, which share the work
    kept: dict[str, Study] = {}

    def study(request: CellRequest) -> Study:
        if request.model not in kept:
            kept.clear()
            device, dtype = settings.placement(request.model)
            kept[request.model] = Study(
                request.model,
                StudySettings(
                    samples=settings.samples,
                    draws=settings.draws,
                    seed=settings.seed,
                    device=device,
                    dtype=dtype,
                    data_root=settings.data_root,
                    files={entry.label: entry.path for entry in settings.datasets if entry.path},
                    sigmas=settings.sigmas,
                    datasets=[entry.label for entry in settings.datasets],
                    method=Method(settings.steps, settings.quadrature),
                    store=Store(settings.store),
                ),
            )
        return kept[request.model]

    return study


@pytest.fixture
def study(request: pytest.FixtureRequest, study_of: Callable[[CellRequest], Study]) -> Study:
    """The study of the model in this test's ``cell`` or ``model_cell``."""
    name = "cell" if "cell" in request.fixturenames else "model_cell"
    return study_of(request.getfixturevalue(name))
