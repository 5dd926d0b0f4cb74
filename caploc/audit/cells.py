"""The cells of claim tests: which there are, which of them a collected test decides, which this machine cannot run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.claims import ClaimTest, experiment_of, trains
from caploc.audit.results import Planned
from caploc.audit.settings import PAPER_SIGMA, AuditSettings, DatasetRequest, ModelRequest, registered_facts
from caploc.findings import PRINTED, TOGETHER, Cell
from caploc.model.registry import REGISTRY

if TYPE_CHECKING:
    from caploc.papers import Paper

GB = 10**9
PLANNED = pytest.StashKey[Planned]()
REQUEST = pytest.StashKey["CellRequest"]()
CLAIM_TEST = pytest.StashKey[ClaimTest]()

NEEDS_OF: Mapping[str, str] = MappingProxyType(
    {
        "completeness": "precise",
        "fidelity": "precise",
        "fidelity.kn_mean_located": "attribution",
        "fidelity.overlap": "attribution",
        "fidelity.rome_granularity": "attribution",
        "premises": "precise",
        "premises.kn_verification": "attribution",
        "reliability_kc": "precise",
        "reliability_rome": "precise",
    }
)
"""A family of experiments, or one of them -> what it needs memory for, one of `caploc.costs.NEEDS`; packed passes with
gradients, ``attribution``, where it is not listed and nothing is trained."""
ITEM_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float64": 8})
"""Of ``--dtype``; all others take two bytes a number."""

Variants = Callable[[str], Iterable[str]]
"""The other readings to try for a model's label, each as ``setting=alternative``."""


@dataclass(frozen=True)
class CellRequest:
    """One cell of a claim test and the model that it asks for, as ``load_model`` takes it.

    A cell that compares models has their requests in ``each`` and no ``model`` of its own; one about what is
    printed has neither.
    """

    cell: Cell
    model: str
    each: tuple[CellRequest, ...] = ()

    @property
    def reading(self) -> dict[str, str]:
        """How this cell reads the paper otherwise than the run does, such as ``{"scope": "layer"}``."""
        setting, equals, alternative = self.cell.variant.partition("=")
        return {setting: alternative} if equals else {}


# --------------------------------------------------------------------------------------------- claims to parameters


def parametrize(
    metafunc: pytest.Metafunc, settings: AuditSettings, paper_of: Callable[[Path], Paper | None]
) -> None:
    """Gives a claim test that ranges over models its cells; with ``--sensitivity``, those under other readings too."""
    declared = declared_claim(metafunc.definition)
    if declared is None or declared.over == "print" or "cell" not in metafunc.fixturenames:
        return
    paper = paper_of(metafunc.definition.path)

    def variants(model: str) -> list[str]:
        return other_readings(declared.claim_of(model), settings, paper)

    reported = paper.claims[declared.claim].sigmas if paper and declared.claim in paper.claims else ()
    metafunc.parametrize("cell", cell_parameters(declared, settings, variants, reported))


def cell_parameters(
    declared: ClaimTest, settings: AuditSettings, variants: Variants, reported: Sequence[float] = ()
) -> list[Any]:
    """One pytest parameter per cell, grouped by model, then by reading and dataset.

    ``reported``: the sigmas at which the paper reports the claim, taken where the run names none.
    Where the claim is about one dataset or sigma that the run leaves out, its cells are skipped, with the reason.
    """
    settings = replace(
        settings, models=tuple(_with_memory(one, declared, settings) for one in settings.models)
    )
    if declared.over == "facts":
        return _fact_cells(declared, settings, variants)
    sigmas_of_run = settings.sigmas or tuple(reported) or (PAPER_SIGMA,)
    if declared.over == "models":
        return _joint_cells(replace(settings, sigmas=sigmas_of_run), variants, declared.all_sigmas)
    left_out = []
    datasets: Sequence[DatasetRequest | None] = [None]
    if declared.over == "datasets":
        only = declared.dataset
        of_run = [dataset for dataset in settings.datasets if only in (None, dataset.label)]
        datasets = [dataset for dataset in of_run if dataset.label in declared.preferred] or of_run
        if not datasets and only is not None:
            datasets = [DatasetRequest(only)]
            left_out.append(f"about {only}; add --dataset {only}")
    if declared.sigma is not None:
        sigma = declared.sigma
        named = not settings.sigmas or sigma in settings.sigmas
        left_out += [] if named else [f"about sigma {sigma:g}; add --sigma {sigma:g}"]
        sigmas_of_run = (sigma,)
    marks = [pytest.mark.skip(reason=f"this claim is {reason}") for reason in left_out[:1]]

    def sigmas(variant: str) -> Sequence[float | None]:
        if declared.all_sigmas:
            return [None]
        return [settings.variant_sigma] if variant and declared.sigma is None else sigmas_of_run

    return [
        _parameter(model, dataset, sigma, marks, variant)
        for model in settings.models
        for variant in ("", *variants(model.label))
        for dataset in datasets
        for sigma in sigmas(variant)
    ]


def _with_memory(model: ModelRequest, declared: ClaimTest, settings: AuditSettings) -> ModelRequest:
    """With the memory that the claim's own experiment needs for this model, in the run's dtype on a GPU."""
    if not model.gpu or model.model not in REGISTRY:
        return model
    name = experiment_of(declared)
    need = NEEDS_OF.get(name) or NEEDS_OF.get(name.partition(".")[0], "attribution")
    need = "training" if trains(declared) else need
    item = ITEM_BYTES.get(settings.dtype, 2)
    return replace(model, min_gb=REGISTRY[model.model].min_gb(need, item))


def _fact_cells(declared: ClaimTest, settings: AuditSettings, variants: Variants) -> list[Any]:
    """Claims about single facts take the run's datasets of facts where it names any, else their own. A dataset that is
    not registered as facts is the only one that its claims can be about."""
    own = declared.dataset or ""
    named = [entry for entry in settings.datasets if entry.facts and registered_facts(own)]
    return [
        _parameter(model, entry, None, (), variant)
        for model in settings.models
        for variant in ("", *variants(model.label))
        for entry in named
        or [DatasetRequest(declared.embedded if model.embedded and declared.embedded else own)]
    ]


def _joint_cells(settings: AuditSettings, variants: Variants, all_sigmas: bool) -> list[Any]:
    """Models that need a GPU are compared with each other, the rest with each other: one machine may not run both. The
    cell's model is their labels, sorted. A model that is alone is skipped, with the reason."""
    alone = pytest.mark.skip(reason="this claim compares models; add another --model")
    parameters = []
    for gpu in (False, True):
        models = sorted((one for one in settings.models if one.gpu == gpu), key=lambda one: one.label)
        if models:
            joint = ModelRequest(
                label=TOGETHER.join(one.label for one in models),
                model="",
                gpu=gpu,
                min_gb=max(one.min_gb for one in models),  # one of them is held at a time
                gated=any(one.gated for one in models),
                network=any(one.network for one in models),
            )
            parameters += [
                _parameter(joint, None, sigma, [alone] if len(models) == 1 else [], variant, models)
                for variant in ("", *variants(joint.label))
                for sigma in _joint_sigmas(settings, variant, all_sigmas)
            ]
    return parameters


def _joint_sigmas(settings: AuditSettings, variant: str, all_sigmas: bool) -> Sequence[float | None]:
    if all_sigmas:
        return [None]
    return [settings.variant_sigma] if variant else settings.sigmas


def _parameter(
    model: ModelRequest,
    dataset: DatasetRequest | None,
    sigma: float | None,
    marks: Iterable[pytest.MarkDecorator],
    variant: str,
    each: Iterable[ModelRequest] = (),
) -> Any:
    name = dataset.label if dataset else None

    def asked(one: ModelRequest, *own: CellRequest) -> CellRequest:
        return CellRequest(Cell(one.label, name, sigma, variant), one.model, own)

    request = asked(model, *map(asked, each))
    return pytest.param(request, id=request.cell.label, marks=[*model.marks(), *marks])


def other_readings(claim_id: str, settings: AuditSettings, paper: Paper | None) -> list[str]:
    """Each other answer to a question that the claim leaves open, as ``setting=alternative``; none unless the run asks
    for ``--sensitivity``. Questions without a setting can only be recorded."""
    claim = paper.claims.get(claim_id) if settings.sensitivity and paper is not None else None
    if paper is None or claim is None:
        return []
    chosen = settings.reading.settings
    questions = [paper.ambiguities[name] for name in claim.ambiguities]
    return [
        f"{question.setting}={answer}"
        for question in questions
        if question.setting in chosen
        for answer in (question.default, *question.alternatives)
        if answer != chosen[question.setting]
    ]


# --------------------------------------------------------------------------------------------------- tests to cells


def declared_claim(item: Any) -> ClaimTest | None:
    """What the decorator `caploc.audit.claims.claim` was given for a test; None for a test that decides no claim."""
    marker = item.get_closest_marker("claim")
    found = marker.args[0] if marker is not None and marker.args else None
    return found if isinstance(found, ClaimTest) else None


def plan_item(item: pytest.Item, paper: Paper | None) -> None:
    """Notes on a claim test which claim it decides in which cell. Raises `pytest.UsageError`."""
    declared = declared_claim(item)
    if declared is None and item.get_closest_marker("claim") is not None:
        raise pytest.UsageError(
            f"{item.nodeid}: the marker claim is set by the decorator caploc.audit.claims.claim; use that"
        )
    if declared is None or not isinstance(item, pytest.Function):
        return
    if paper is None:
        raise pytest.UsageError(
            f"{item.nodeid}: no paper has the name of its folder, {item.path.parent.name!r}; claims of a paper NAME "
            "stand in a folder NAME, and --paper names the paper or the folder with its TOML files"
        )
    request = item.callspec.params.get("cell") if hasattr(item, "callspec") else None
    if not isinstance(request, CellRequest):
        request = CellRequest(Cell(model=PRINTED), "")
    claim_id = declared.claim_of(request.cell.model)
    item.stash[CLAIM_TEST], item.stash[REQUEST] = declared, request
    test = _test_id(item, request.cell)
    classes = [node.name for node in item.listchain() if isinstance(node, pytest.Class)]
    nodeid = "::".join(["/".join(item.path.parts[-3:]), *classes, test])
    item.stash[PLANNED] = Planned(nodeid, test, claim_id, request.cell, declared.across, paper.key)


def _test_id(item: pytest.Function, cell: Cell) -> str:
    """The test's id without its file; where another plugin repeats tests, that of all repeats of the cell."""
    parameters = item.callspec.params.keys() if hasattr(item, "callspec") else set()
    if parameters <= {"cell"} or parameters <= signature(item.function).parameters.keys():
        return item.name
    return f"{item.originalname}[{cell.label}]" if "cell" in parameters else item.originalname


def group_by_model(items: list[pytest.Item]) -> None:
    """Sorts claim tests by model, in the order asked for, then by reading of the paper, so that each model is loaded
    once; checks of printed numbers come first, and other tests keep their places before them."""
    models = {PRINTED: 0}
    variants = {"": 0}
    places: dict[pytest.Item, tuple[int, int]] = {}
    for item in items:
        planned = item.stash.get(PLANNED, None)
        if planned is None:
            places[item] = (-1, 0)
        else:
            model = models.setdefault(planned.cell.model, len(models))
            places[item] = (model, variants.setdefault(planned.cell.variant, len(variants)))
    items.sort(key=places.__getitem__)


def skip_without_gpu(
    items: Iterable[pytest.Item], device: str, gpu_gb: Callable[[], float | None] | None = None
) -> None:
    """Marks tests with the marker ``gpu`` as skipped, in one sentence, where there is no GPU large enough: ``gpu_gb``
    tells the size of the smallest, by default of this machine's that is asked for.

    A device that is not CUDA, named on the command line, is taken at its word: nothing is skipped then.
    """
    gated = [item for item in items if item.get_closest_marker("gpu")]
    if not gated or not (device == "auto" or device.startswith("cuda")):
        return
    found = _gpu_gb(device) if gpu_gb is None else gpu_gb()
    for item in gated:
        marker = item.get_closest_marker("min_gb")
        least = marker.args[0] if marker else 0
        need = f"needs a CUDA GPU with at least {least:g} GB" if least else "needs a CUDA GPU"
        if found is None:
            item.add_marker(pytest.mark.skip(reason=f"{need}; none found"))
        elif found < least:
            item.add_marker(pytest.mark.skip(reason=f"{need}; the one found has {found:.0f} GB"))


def will_run(item: pytest.Item) -> bool:
    """Whether the test is not skipped by a marker."""
    return item.get_closest_marker("skip") is None


def _gpu_gb(device: str) -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    indices = [int(index) for index in device.partition(":")[2].split(",") if index] or [0]
    if max(indices) >= torch.cuda.device_count():
        return None
    # layers are spread evenly, and the first GPU has the embeddings, the head and what is being run, too
    smallest = min(torch.cuda.get_device_properties(index).total_memory for index in indices)
    return float(len(indices) * smallest / GB)
