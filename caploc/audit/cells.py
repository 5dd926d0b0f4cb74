"""The cells of claim tests: pytest parameters made from the models, datasets and sigmas of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.requests import FACT_DATASETS, CellRequest, DatasetRequest, ModelRequest, holds_facts
from caploc.findings import TOGETHER, Cell

if TYPE_CHECKING:
    from caploc.audit.settings import AuditSettings

Variants = Callable[[str], Iterable[str]]
"""The other readings to try for a model's label, each as ``setting=alternative``."""


def no_variants(model: str) -> Iterable[str]:
    """The run's own reading and no other."""
    return ()


def cell_parameters(
    settings: AuditSettings,
    only: str | None = None,
    variants: Variants = no_variants,
    sigma: float | None = None,
    over_sigmas: bool = False,
) -> list[Any]:
    """One pytest parameter per model x dataset x sigma, grouped by model, then dataset; and for each of the model's
    variants one per dataset, at one sigma.

    With ``only``, cells of that dataset alone, and with ``sigma``, of that sigma; they are skipped, with the reason,
    where the run leaves it out. Claims ``over_sigmas`` have one cell for all of them, without a sigma.
    """
    datasets = [dataset for dataset in settings.datasets if only in (None, dataset.label)]
    left_out = []
    if not datasets and only is not None:
        datasets = [DatasetRequest(only)]
        left_out.append(f"about {only}; add --dataset {only}")
    if sigma is not None:
        left_out += [] if sigma in settings.sigmas else [f"about sigma {sigma:g}; add --sigma {sigma:g}"]
        settings = replace(settings, sigmas=(sigma,))
    marks = [pytest.mark.skip(reason=f"this claim is {reason}") for reason in left_out[:1]]
    return _parameters(settings, datasets, marks, variants, over_sigmas)


def fact_cell_parameters(
    settings: AuditSettings, dataset: str, embedded: str | None = None, variants: Variants = no_variants
) -> list[Any]:
    """One pytest parameter per model, without a sigma, for claims about single facts.

    The run's datasets of facts are taken where it names any, else ``dataset``, and for embedded models ``embedded`` in
    its place if given. A ``dataset`` that is none of ``FACT_DATASETS`` is the only one that its claims can be about.
    """
    named = [entry for entry in settings.datasets if dataset in FACT_DATASETS and holds_facts(entry)]
    return [
        _parameter(model, entry, None, (), variant)
        for model in settings.models
        for variant in ("", *variants(model.label))
        for entry in named or [DatasetRequest(embedded if model.embedded and embedded else dataset)]
    ]


def model_cell_parameters(
    settings: AuditSettings, variants: Variants = no_variants, over_sigmas: bool = False
) -> list[Any]:
    """One pytest parameter per model x sigma, and one for each of the model's variants; see ``cell_parameters``."""
    return _parameters(settings, [None], [], variants, over_sigmas)


def models_cell_parameters(settings: AuditSettings, variants: Variants = no_variants) -> list[Any]:
    """One pytest parameter per sigma, and one for each variant, for claims that compare the run's models.

    Those that need a GPU are compared with each other, the rest with each other: one machine may not run both. The
    cell's model is their labels, sorted. A model that is alone is skipped, with the reason.
    """
    alone = pytest.mark.skip(reason="this claim compares models; add another --model")
    parameters = []
    for gpu in (False, True):
        models = sorted((one for one in settings.models if one.gpu == gpu), key=lambda one: one.label)
        if models:
            joint = _joint(models)
            parameters += [
                _parameter(joint, None, sigma, [alone] if len(models) == 1 else [], variant, models)
                for variant in ("", *variants(joint.label))
                for sigma in ([settings.variant_sigma] if variant else settings.sigmas)
            ]
    return parameters


def _joint(models: Sequence[ModelRequest]) -> ModelRequest:
    """What several models need together."""
    return ModelRequest(
        label=TOGETHER.join(one.label for one in models),
        model="",
        gpu=any(one.gpu for one in models),
        min_gb=max(one.min_gb for one in models),  # one of them is held at a time
        gated=any(one.gated for one in models),
        network=any(one.network for one in models),
    )


def _parameters(
    settings: AuditSettings,
    datasets: Iterable[DatasetRequest | None],
    marks: Iterable[pytest.MarkDecorator],
    variants: Variants,
    over_sigmas: bool = False,
) -> list[Any]:
    def sigmas(variant: str) -> Sequence[float | None]:
        if over_sigmas:
            return [None]
        return [settings.variant_sigma] if variant else settings.sigmas

    return [
        _parameter(model, dataset, sigma, marks, variant)
        for model in settings.models
        for variant in ("", *variants(model.label))
        for dataset in datasets
        for sigma in sigmas(variant)
    ]


def _parameter(
    model: ModelRequest,
    dataset: DatasetRequest | None,
    sigma: float | None,
    marks: Iterable[pytest.MarkDecorator],
    variant: str,
    each: Iterable[ModelRequest] = (),
) -> Any:
    name = dataset.label if dataset else None
    path = dataset.path if dataset else None

    def asked(one: ModelRequest, *own: CellRequest) -> CellRequest:
        return CellRequest(Cell(one.label, name, sigma, variant), one.model, name, path, sigma, own)

    request = asked(model, *map(asked, each))
    return pytest.param(request, id=request.cell.label, marks=[*model.marks(), *marks])
