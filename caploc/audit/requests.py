"""Which models and datasets were asked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from caploc.model.registry import REGISTRY

EMBEDDED_MODELS = ("tiny-llama", "tiny-gptj")
FACT_DATASETS = ("counterfact", "zsre", "pararel", "known_1000")
"""The registry's datasets of task "fact", named here so that collecting tests need not import them."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelRequest:
    """A model to audit: ``label`` names it in test ids, ``model`` is what ``load_model`` takes."""

    label: str
    model: str
    embedded: bool = False
    gpu: bool = False
    min_gb: int = 0
    gated: bool = False
    network: bool = False

    def marks(self) -> list[pytest.MarkDecorator]:
        """The markers its tests carry."""
        marks = [pytest.mark.gpu, pytest.mark.min_gb(self.min_gb)] if self.gpu else []
        marks += [pytest.mark.gated] if self.gated else []
        return marks + ([pytest.mark.network] if self.network else [])


@dataclass(frozen=True)
class DatasetRequest:
    """A dataset to locate on; ``path`` is the user's own file, None for a dataset of the registry."""

    label: str
    path: str | None = None


def default_models() -> tuple[ModelRequest, ...]:
    """The embedded tiny models, then the paper's own, which need a GPU."""
    paper = [name for name, entry in REGISTRY.items() if entry.paper and not entry.embedded]
    return tuple(_registered(name) for name in (*EMBEDDED_MODELS, *paper))


def request_models(values: Iterable[str]) -> tuple[ModelRequest, ...]:
    """The models of ``--model``. Raises `pytest.UsageError` for what is neither a name, a folder nor a hub id."""
    requests: list[ModelRequest] = []
    for value in values:
        request = _request_model(value)
        taken = {other.label for other in requests}
        label, count = request.label, 1
        while label in taken:
            count += 1
            label = f"{request.label}-{count}"
        requests.append(ModelRequest(**{**vars(request), "label": label}))
    return tuple(requests)


def _request_model(value: str) -> ModelRequest:
    if value in REGISTRY:
        return _registered(value)
    if Path(value).is_dir():
        return ModelRequest(_label(Path(value).resolve().name), value)
    if Path(value).is_file():
        raise pytest.UsageError(f"--model {value}: is a file; give the folder that holds config.json")
    hub_id, _, commit = value.partition("@")
    if _HUB_ID.fullmatch(hub_id):
        if not _COMMIT.fullmatch(commit):
            raise pytest.UsageError(
                f"--model {value}: a hub model needs its commit, or the run could not be repeated; "
                f"give {hub_id}@COMMIT with the 40 digits that its hub page shows"
            )
        return ModelRequest(_label(hub_id.split("/")[1]), value, network=True)
    close = difflib.get_close_matches(value, REGISTRY, 1, 0.5)
    hint = f"did you mean {close[0]}?" if close else f"names are {', '.join(REGISTRY)}"
    raise pytest.UsageError(f"--model {value}: no known name, no folder, no hub id ORG/NAME@COMMIT; {hint}")


def _registered(name: str) -> ModelRequest:
    entry = REGISTRY[name]
    return ModelRequest(
        label=name,
        model=name,
        embedded=entry.embedded,
        gpu=not entry.embedded,
        min_gb=entry.min_gb,
        gated=entry.gated,
        network=not entry.embedded,
    )


def _label(name: str) -> str:
    """An ASCII label, changed if it would pass for a registered model, whose printed numbers are not its own."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return f"{label}-local" if label in REGISTRY else label


def holds_facts(dataset: DatasetRequest) -> bool:
    """Whether a dataset is one of facts: by its name, or in a user's own file by the first record's ``subject``."""
    if dataset.path is None:
        return dataset.label in FACT_DATASETS
    from caploc.datasets.sources import read_file
    from caploc.errors import CaplocError

    try:
        return next(iter(read_file(Path(dataset.path))))[1].get("subject") is not None
    except (CaplocError, StopIteration):
        return False  # the tests that read all of it say what is wrong
