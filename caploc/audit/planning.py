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
    requests = (value for value in parameters.values() if isinstance(value, CellRequest))
    request = next(requests, None)
    cell = request.cell if request is not None else Cell(model="-")
    claim = marker.kwargs.get("by_model", {}).get(cell.model, marker.args[0])
    return Planned(item.nodeid, item.name, claim, cell)


def parametrize(metafunc: pytest.Metafunc, settings: AuditSettings) -> None:
    """Gives a claim test with the argument ``cell`` or ``model_cell`` its cells.

    ``claim(id, dataset=NAME)`` keeps to one dataset; ``claim(id, by_model={NAME: other id})`` is about another claim
    where the paper words one per model.
    """
    marker = metafunc.definition.get_closest_marker("claim")
    if marker is None:
        return
    if "cell" in metafunc.fixturenames:
        metafunc.parametrize("cell", cell_parameters(settings, marker.kwargs.get("dataset")))
    if "model_cell" in metafunc.fixturenames:
        metafunc.parametrize("model_cell", model_cell_parameters(settings))


def group_by_model(items: list[pytest.Item]) -> None:
    """Sorts claim tests by model, in the order asked for, so that each model is loaded once; other tests keep their
    places at the front."""
    order: dict[str, int] = {}
    for item in items:
        if (planned := plan_of(item)) is not None:
            order.setdefault(planned.cell.model, len(order))

    def place(item: pytest.Item) -> int:
        planned = plan_of(item)
        return -1 if planned is None else order[planned.cell.model]

    items.sort(key=place)


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
