"""What the claim tests share: one study per model and reading of the paper, kept while its tests run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.requests import CellRequest
    from caploc.audit.settings import AuditSettings
    from caploc.experiments.study import Study


@pytest.fixture(scope="session")
def study_of(settings: AuditSettings) -> Callable[[CellRequest], Study]:
    """The study of a cell's model, under the cell's reading of the paper.

    Only the latest is kept: tests come in the order of the models, and for each in the order of the readings.
    """
    # imported here, so that --help, --collect-only and usage errors need not wait for torch
    import torch

    from caploc.attribution.engine import Method
    from caploc.experiments.readings import Reading
    from caploc.experiments.study import Study, StudySettings
    from caploc.rows.sizing import keep_freed_memory
    from caploc.store import Store

    keep_freed_memory()
    torch.set_num_threads(1)  # same numbers whatever the machine; -n gives more workers, which share the work
    kept: dict[tuple[str, str], Study] = {}

    def study(request: CellRequest) -> Study:
        key = (request.model, request.cell.variant)
        if key not in kept:
            # another reading of the paper changes nothing about the model: it is loaded once
            loaded = next((vars(old).get("lm") for old in kept.values() if old.model == request.model), None)
            kept.clear()
            device, dtype = settings.placement(request.model)
            reading = Reading.of({**settings.reading.settings, **request.reading})
            asked = StudySettings(
                samples=settings.samples,
                draws=settings.draws,
                seed=settings.seed,
                device=device,
                dtype=dtype,
                data_root=settings.data_root,
                files={entry.label: entry.path for entry in settings.datasets if entry.path},
                sigmas=settings.sigmas,
                datasets=[entry.label for entry in settings.datasets],
                method=Method(settings.steps, reading.quadrature),
                reading=reading,
                store=Store(settings.store),
            )
            kept[key] = Study(request.model, asked, loaded)
        return kept[key]

    return study


@pytest.fixture
def study(request: pytest.FixtureRequest, study_of: Callable[[CellRequest], Study]) -> Study:
    """The study of the model in this test's ``cell`` or ``model_cell``."""
    name = "cell" if "cell" in request.fixturenames else "model_cell"
    return study_of(request.getfixturevalue(name))


@pytest.fixture
def studies(models_cell: CellRequest, study_of: Callable[[CellRequest], Study]) -> list[Callable[[], Study]]:
    """What makes the study of each model that this test's ``models_cell`` compares, one model in memory at a time."""
    return [partial(study_of, request) for request in models_cell.each]
