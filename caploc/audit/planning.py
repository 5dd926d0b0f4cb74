"""Which collected tests are claim cells, which of them this machine cannot run, and how claims become parameters."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from caploc.audit.requests import CellRequest, cell_parameters, model_cell_parameters
from caploc.audit.results import Planned
from caploc.audit.settings import AuditSettings
from caploc.findings import Cell

GB = 10**9


def plan_of(item: pytest.Item) -> Planned | None:
    """The claim cell that a test decides; None for a test that decides none (it lacks the marker ``claim``).

    Raises `pytest.UsageError` for a claim test that has no cell to decide.
    """
    marker = item.get_closest_marker("claim")
    if marker is None or not isinstance(item, pytest.Function):
        return None
    if len(marker.args) != 1 or not isinstance(marker.args[0], str):
        raise pytest.UsageError(
            f"{item.nodeid}: the marker claim needs one claim id, as in claim('table1-overlap')"
        )
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    request = parameters.get("cell") or parameters.get("model_cell")
    cell = request.cell if isinstance(request, CellRequest) else Cell(model="-")
    return Planned(item.nodeid, item.name, marker.args[0], cell)


def parametrize(metafunc: pytest.Metafunc, settings: AuditSettings) -> None:
    """Gives a claim test with the argument ``cell`` or ``model_cell`` its cells."""
    if metafunc.definition.get_closest_marker("claim") is None:
        return
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize("cell", cell_parameters(settings))
    if "model_cell" in metafunc.fixturenames:
        metafunc.parametrize("model_cell", model_cell_parameters(settings))


def skip_without_gpu(items: Iterable[pytest.Item], device: str) -> None:
    """Marks tests with the marker ``gpu`` as skipped, in one sentence, where there is no GPU large enough.

    A device that is not CUDA, named on the command line, is taken at its word: nothing is skipped then.
    """
    gated = [item for item in items if item.get_closest_marker("gpu")]
    if not gated or not (device == "auto" or device.startswith("cuda")):
        return
    found = _gpu_gb(device)
    for item in gated:
        marker = item.get_closest_marker("min_gb")
        least = marker.args[0] if marker else 0
        need = f"needs a CUDA GPU with at least {least:g} GB" if least else "needs a CUDA GPU"
        if found is None:
            item.add_marker(pytest.mark.skip(reason=f"{need}; none found"))
        elif found < least:
            item.add_marker(pytest.mark.skip(reason=f"{need}; the one found has {found:.0f} GB"))


def _gpu_gb(device: str) -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        return None
    return float(torch.cuda.get_device_properties(index).total_memory / GB)
