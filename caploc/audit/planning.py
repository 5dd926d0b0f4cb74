"""Which collected tests are claim cells, which of them this machine cannot run, and how claims become parameters."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from caploc.audit.cells import (
    cell_parameters,
    fact_cell_parameters,
    model_cell_parameters,
    models_cell_parameters,
)
from caploc.audit.requests import CellRequest
from caploc.audit.results import Planned
from caploc.audit.settings import PAPER, AuditSettings
from caploc.findings import PRINTED, Cell
from caploc.papers import load_paper

GB = 10**9


def plan_of(item: pytest.Item) -> Planned | None:
    """The claim cell that a test decides; None for a test that decides none (it lacks the marker ``claim``).

    A claim test without a cell among its parameters needs no model: it checks what the paper prints, in the cell
    ``Cell(model=PRINTED)``. Raises `pytest.UsageError` for a marker without a claim id.
    """
    marker = item.get_closest_marker("claim")
    if marker is None or not isinstance(item, pytest.Function):
        return None
    if not _is_complete(marker):
        raise pytest.UsageError(
            f"{item.nodeid}: the marker claim needs one claim id, as in claim('table1-overlap')"
        )
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    requests = (value for value in parameters.values() if isinstance(value, CellRequest))
    request = next(requests, None)
    cell = request.cell if request is not None else Cell(model=PRINTED)
    across = bool(marker.kwargs.get("across", False))
    return Planned(item.nodeid, item.name, claim_of(marker, cell.model), cell, across)


def _is_complete(marker: pytest.Mark) -> bool:
    return len(marker.args) == 1 and isinstance(marker.args[0], str)


def claim_of(marker: pytest.Mark, model: str) -> str:
    """The claim that a test with this marker decides for a model."""
    claim: str = marker.kwargs.get("by_model", {}).get(model, marker.args[0])
    return claim


def other_readings(claim_id: str, settings: AuditSettings) -> list[str]:
    """Each other answer to a question that the claim leaves open, as ``setting=alternative``; none unless the run asks
    for ``--sensitivity``. Questions without a setting can only be recorded."""
    claim = load_paper(PAPER).claims.get(claim_id) if settings.sensitivity else None
    if claim is None:
        return []
    chosen = settings.reading.settings
    questions = [load_paper(PAPER).ambiguities[name] for name in claim.ambiguities]
    return [
        f"{question.setting}={answer}"
        for question in questions
        if question.setting in chosen
        for answer in (question.default, *question.alternatives)
        if answer != chosen[question.setting]
    ]


def parametrize(metafunc: pytest.Metafunc, settings: AuditSettings) -> None:
    """Gives a claim test with the argument ``cell``, ``model_cell`` or ``models_cell`` its cells.

    ``claim(id, dataset=NAME)`` keeps to one dataset, ``claim(id, sigma=6)`` to one sigma; ``claim(id, by_model={NAME:
    other id})`` is about another claim where the paper words one per model. ``claim(id, facts=NAME)`` is about single
    facts, ``embedded_facts=NAME`` about others for embedded models (`cells.fact_cell_parameters`).
    ``over_sigmas=True``: one cell for all sigmas of the run, or for those that the claim names.
    ``across=True`` marks a claim whose numbers depend on all datasets of the run. With ``--sensitivity`` there are
    cells under other readings too.
    """
    marker = metafunc.definition.get_closest_marker("claim")
    if marker is None or not _is_complete(
        marker
    ):  # `plan_of` refuses it, when a usage error still can be one line
        return

    def variants(model: str) -> list[str]:
        return other_readings(claim_of(marker, model), settings)

    facts, over_sigmas = marker.kwargs.get("facts"), bool(marker.kwargs.get("over_sigmas", False))
    if "cell" in metafunc.fixturenames and facts is not None:
        embedded = marker.kwargs.get("embedded_facts")
        metafunc.parametrize("cell", fact_cell_parameters(settings, facts, embedded, variants))
    elif "cell" in metafunc.fixturenames:
        only, sigma = marker.kwargs.get("dataset"), marker.kwargs.get("sigma")
        metafunc.parametrize("cell", cell_parameters(settings, only, variants, sigma, over_sigmas))
    if "model_cell" in metafunc.fixturenames:
        metafunc.parametrize("model_cell", model_cell_parameters(settings, variants, over_sigmas))
    if "models_cell" in metafunc.fixturenames:
        metafunc.parametrize("models_cell", models_cell_parameters(settings, variants))


def group_by_model(items: list[pytest.Item]) -> None:
    """Sorts claim tests by model, in the order asked for, then by reading of the paper, so that each model is loaded
    once; checks of printed numbers come first, and other tests keep their places before them."""
    models = {PRINTED: 0}
    variants = {"": 0}
    places: dict[str, tuple[int, int]] = {}
    for item in items:
        planned = plan_of(item)
        if planned is None:
            places[item.nodeid] = (-1, 0)
        else:
            model = models.setdefault(planned.cell.model, len(models))
            places[item.nodeid] = (model, variants.setdefault(planned.cell.variant, len(variants)))
    items.sort(key=lambda item: places[item.nodeid])


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
