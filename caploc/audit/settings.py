"""What an audit run is asked to do, checked as a whole before any work is done."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from caploc.audit.text import visible
from caploc.defaults import DEFAULTS
from caploc.errors import CaplocError, OptionError
from caploc.experiments import FEWEST_DRAWS, FEWEST_SAMPLES
from caploc.experiments.readings import Reading
from caploc.findings import PRINTED, Cell
from caploc.model.registry import REGISTRY

PAPER_SIGMA = 6.0
DEFAULT_DATASETS = ("gsm8k", "meta_math", "code25k", "emotion", "imdb")
EMBEDDED_MODELS = ("tiny-llama", "tiny-gptj")
ENGINES = ("local", "ray")
DTYPES = ("auto", "float32", "float64", "bfloat16")

_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3}(,[0-9]{1,3})*)?")
_DATASET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
# what changes a number: with any of these set, reviewed expectations say nothing
_DECISIVE = ("data_root", "samples", "draws", "device", "dtype", "seed", "steps")
_SAME_AS_DEFAULT = {("device", "cpu"), ("dtype", "float32")}
# more needs more memory than there is; seeds are those that torch takes
_MOST = {"samples": 10**9, "draws": 10**6, "steps": 10**6, "seed": 2**63 - 1}


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
    """A dataset to locate on; ``path`` is the user's own file, None for a dataset of the registry or of the data root.
    ``facts``: whether it is one of facts, by its registration or by the first record's ``subject``."""

    label: str
    path: str | None = None
    facts: bool = False

    @classmethod
    def of(cls, label: str, path: str | None, data_root: str | None = None) -> DatasetRequest:
        """The request for a dataset that exists."""
        file = path or next(map(str, own_files(label, data_root)), None)
        if file is None:
            return cls(label, facts=label not in DEFAULT_DATASETS and registered_facts(label))
        from caploc.datasets.base import read_file

        try:
            first = next(iter(read_file(Path(file))))[1]
        except (CaplocError, StopIteration):
            first = {}  # the tests that read all of it say what is wrong
        return cls(label, path, facts=bool(first.get("subject")))


def own_files(name: str, data_root: str | None) -> list[Path]:
    """The files of a dataset of the user's own in the data root; none of one that is registered."""
    if data_root is None or name in DEFAULT_DATASETS:
        return []
    from caploc.datasets import DATASETS
    from caploc.datasets.sources import files_in_root

    return [] if name in DATASETS else [one for one in files_in_root(name, Path(data_root)) if one.is_file()]


def registered_facts(name: str) -> bool:
    """Whether a dataset of the registry is one of facts."""
    from caploc.datasets import DATASETS  # here: it imports torch

    return name in DATASETS and DATASETS[name].task == "fact"


@dataclass(frozen=True)
class AuditSettings:
    """The options of a run, checked and typed; claim tests hand them to experiments.

    ``sigmas`` empty means those at which the paper reports a claim.
    ``samples`` None means the default numbers, "auto" as many of them as decide (`caploc.rules.looks`); ``store`` None
    the user's cache folder.
    ``device`` and ``dtype`` may be "auto": see `placement`. ``reading`` is how the whole run reads the paper;
    ``sensitivity`` adds cells under other readings.
    ``papers``: names or folders, empty for all that caploc has. ``scorings``: dataset and how it is scored, where that
    is not left to the dataset. ``departures`` lists what may change a number.
    ``engine``: who computes, at ``ray_address``; ``gpus`` whether there are any where that is, None for this machine.
    ``shard``: of how many runs on one store this is which.
    """

    models: tuple[ModelRequest, ...]
    datasets: tuple[DatasetRequest, ...]
    sigmas: tuple[float, ...]
    data_root: str | None
    samples: int | Literal["auto"] | None
    draws: int
    store: str | None
    device: str
    dtype: str
    seed: int
    steps: int
    reading: Reading = field(default_factory=Reading)
    sensitivity: bool = False
    papers: tuple[str, ...] = ()
    scorings: tuple[tuple[str, str], ...] = ()
    departures: tuple[str, ...] = ()
    engine: str = "local"
    ray_address: str | None = None
    gpus: bool | None = None
    shard: tuple[int, int] = (0, 1)

    @property
    def most_samples(self) -> int | None:
        """``samples`` as a number; None for the default numbers, which bound those of "auto"."""
        return None if self.samples == "auto" else self.samples

    @property
    def quadrature(self) -> str:
        """How eq. (7) is summed."""
        return self.reading.quadrature

    @property
    def variant_sigma(self) -> float:
        """The one sigma at which other readings are tried: the paper's, or the first asked for."""
        return PAPER_SIGMA if PAPER_SIGMA in self.sigmas or not self.sigmas else self.sigmas[0]

    def placement(self, model: str) -> tuple[str, str]:
        """Device and dtype for a model: what was asked for, or for "auto" the CPU in float32 for the embedded
        models and machines without a GPU, and CUDA in bfloat16 for others."""
        device = self.device
        if device == "auto":
            embedded = any(request.embedded for request in self.models if request.model == model)
            gpus = _cuda() if self.gpus is None and not embedded else self.gpus
            device = "cuda" if gpus and not embedded else "cpu"
        dtype = self.dtype
        if dtype == "auto":
            dtype = "bfloat16" if device.startswith("cuda") else "float32"
        return device, dtype

    def expectations_cover(self, cell: Cell, across: bool = False, sigmas: Collection[float] = ()) -> bool:
        """Whether fixtures/expected.toml speaks of this cell: what the paper prints, which no setting changes, or an
        embedded model at the default settings and readings, for a claim ``across`` datasets all default ones, at one of
        ``sigmas``, those at which the paper reports the claim, or the paper's own."""
        if cell.model == PRINTED:
            return True
        about_facts = cell.dataset is not None and cell.sigma is None
        if about_facts and any(dataset.facts for dataset in self.datasets):
            return False
        labels = tuple(dataset.label for dataset in self.datasets)
        return (
            not self.departures
            and not (across and labels != DEFAULT_DATASETS)
            and not cell.variant
            and {one.label for one in self.models if one.embedded}.issuperset(cell.models)
            and (
                cell.dataset is None
                or cell.dataset in DEFAULT_DATASETS
                or (about_facts and cell.dataset not in labels)
            )
            and cell.sigma in (None, *(sigmas or (PAPER_SIGMA,)))
        )


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def read_settings(option: Callable[[str], Any]) -> AuditSettings:
    """The settings from pytest's options (``config.getoption``).

    Raises `pytest.UsageError`, one line that names the option and the remedy.
    """
    data_root, store = option("data_root"), option("store")
    if data_root is not None:
        folder = path_of("--data-root", data_root)
        if not folder.is_dir():
            raise _wrong("--data-root", data_root, "no such folder; give the one with the datasets")
        data_root = str(folder)
    if store is not None:
        store = str(_store("--store", store))
    elif named := os.environ.get("CAPLOC_STORE"):
        _store("CAPLOC_STORE", named)
    device = str(option("device"))
    if not _DEVICE.fullmatch(device):
        raise _wrong("--device", device, "must be auto, cpu, cuda, cuda:N or several: cuda:0,1")
    engine, address = _choice("engine", option("engine") or "local", ENGINES), option("ray_address")
    if address is not None and engine != "ray":
        raise _wrong("--ray-address", address, "is for --engine ray; give both, or neither")
    if engine == "ray" and device.startswith("cuda:"):
        raise _wrong("--device", device, "Ray deals the GPUs out; give cuda")
    values = {name: option(name) for name in _DECISIVE}
    datasets = _datasets(option("dataset"), data_root)
    reading = _reading(option("reading") or [], option("quadrature"))
    departures = [
        f"--{name.replace('_', '-')} {visible(value)}"
        for name, value in values.items()
        if str(value) != str(DEFAULTS.get(name)) and (name, value) not in _SAME_AS_DEFAULT
    ]
    departures += [f"--reading {departure}" for departure in reading.departures()]
    departures += [
        f"--dataset {dataset.label}={visible(dataset.path)}" for dataset in datasets if dataset.path
    ]
    scorings = _scorings(option("scoring") or [], [dataset.label for dataset in datasets])
    departures += [f"--scoring {name}={kind}" for name, kind in scorings]
    models = option("model")
    return AuditSettings(
        models=request_models(_split(models, _exists)) if models else default_models(),
        datasets=datasets,
        sigmas=_sigmas(option("sigma")),
        data_root=data_root,
        samples=_samples(values["samples"]),
        draws=_integer("draws", values["draws"], FEWEST_DRAWS),
        store=store,
        device=device,
        dtype=_choice("dtype", values["dtype"], DTYPES),
        seed=_integer("seed", values["seed"], 0),
        steps=_integer("steps", values["steps"], 1),
        reading=reading,
        sensitivity=bool(option("sensitivity")),
        papers=_papers(option("paper")),
        scorings=scorings,
        departures=tuple(departures),
        engine=engine,
        ray_address=address,
        shard=_shard(option("shard")),
    )


def _wrong(option: str, value: object, why: object) -> pytest.UsageError:
    """One line, whatever characters the value holds, and however many."""
    return pytest.UsageError(f"{option} {visible(value, 200)}: {visible(why)}")


def path_of(option: str, value: str) -> Path:
    """A path as all options take it: ``~`` and ``$NAME`` are expanded, behind an equals sign too, where shells do not.

    Raises `pytest.UsageError` for what cannot be one.
    """
    if not value.strip() or "\0" in value:
        raise _wrong(option, repr(value), "names nothing; give a path, such as . for this folder")
    try:
        path = _expanded(value)
        path.exists()
    except RuntimeError:
        user = value.partition("/")[0]
        raise _wrong(
            option, value, f"there is no user {user[1:]}; ./{user} is a folder of that name"
        ) from None
    except OSError as error:
        raise _wrong(option, value, f"cannot be read ({error.strerror}); give another path") from None
    return path


def _expanded(value: str) -> Path:
    return Path(os.path.expandvars(value)).expanduser()


def _exists(value: str) -> bool:
    with suppress(OSError, RuntimeError):
        return _expanded(value).exists()
    return False


def _store(option: str, value: str) -> Path:
    path = path_of(option, value)
    own = path.absolute()
    nearest = next(one for one in (own, *own.parents) if os.path.lexists(one))
    if not nearest.is_dir():
        kind = "is a file" if nearest.is_file() else "is no folder"
        raise _wrong(option, value, f"{kind if nearest == own else f'{nearest} {kind}'}; give a folder")
    return path


def _integer(name: str, value: Any, least: int) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = least - 1
    if number < least:
        raise _wrong(f"--{name}", value, f"must be a whole number of at least {least}")
    if number > _MOST[name]:
        raise _wrong(f"--{name}", value, f"must be a whole number of at most {_MOST[name]:,}")
    return number


def _samples(value: Any) -> int | Literal["auto"] | None:
    if value is None:
        return None
    return "auto" if value == "auto" else _integer("samples", value, FEWEST_SAMPLES)


def _shard(value: Any) -> tuple[int, int]:
    """Which of how many, from 0: ``--shard``, or else the place in Slurm's job array and among its job's tasks."""
    if value is not None:
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", str(value))
        if match is None or not int(match[1]) < int(match[2]):
            raise _wrong("--shard", value, "must be I/N, with I from 0 to N - 1, as in 0/8")
        return int(match[1]), int(match[2])

    def known(name: str, least: int, otherwise: int) -> int:
        text = os.environ.get(name, "")
        return int(text) if re.fullmatch("[0-9]{1,6}", text) and int(text) >= least else otherwise

    arrays, tasks = known("SLURM_ARRAY_TASK_COUNT", 1, 1), known("SLURM_NTASKS", 1, 1)
    array = known("SLURM_ARRAY_TASK_ID", 0, 0) - known("SLURM_ARRAY_TASK_MIN", 0, 0)
    return array % arrays * tasks + known("SLURM_PROCID", 0, 0) % tasks, arrays * tasks


def _choice(name: str, value: Any, choices: Iterable[str]) -> str:
    if value not in choices:
        raise _wrong(f"--{name}", value, f"unknown; choose one of {', '.join(choices)}")
    return str(value)


def _reading(values: list[str], quadrature: str | None) -> Reading:
    """The readings of ``--reading SETTING=ALTERNATIVE``, and of ``--quadrature``, which is short for one of them."""
    given = [("--quadrature", "quadrature", quadrature)] if quadrature is not None else []
    for value in values:
        setting, equals, alternative = value.partition("=")
        if not equals:
            raise _wrong("--reading", value, "must be SETTING=ALTERNATIVE, as in scope=layer")
        given.append(("--reading", setting, alternative))
    chosen: dict[str, str] = {}
    for name, setting, alternative in given:
        shown = alternative if name == "--quadrature" else f"{setting}={alternative}"
        if chosen.setdefault(setting, alternative) != alternative:
            raise _wrong(name, shown, f"{setting} is given as {chosen[setting]} too; give it once")
        try:
            Reading.of({setting: alternative})
        except OptionError as error:
            raise _wrong(name, shown, error) from None
    return Reading.of(chosen)


def _split(values: Iterable[str], whole: Callable[[str], bool]) -> list[str]:
    """Repeated options and comma lists as one list without repeats; a ``whole`` value keeps its commas."""
    parts = [part for value in values for part in ([value] if whole(value) else value.split(","))]
    return list(dict.fromkeys(part.strip() for part in parts))


def _papers(values: list[str] | None) -> tuple[str, ...]:
    if not values:
        return ()
    from caploc.papers import load_paper

    found: dict[str, str] = {}
    for value in _split(values, _exists):
        name = str(path_of("--paper", value))
        try:
            key = load_paper(name).key
        except CaplocError as error:
            raise _wrong("--paper", value, error) from None
        if found.setdefault(key, name) != name:
            raise _wrong(
                "--paper", value, f"the paper {key} is given twice, as {found[key]} too; give one of them"
            )
    return tuple(found.values())


def _scorings(values: list[str], datasets: Collection[str]) -> tuple[tuple[str, str], ...]:
    """Dataset and scoring of ``--scoring NAME=KIND``."""
    if not values:
        return ()
    from caploc.evaluation import SCORINGS  # here: it imports torch

    found: dict[str, str] = {}
    for value in _split(values, lambda _: False):
        name, equals, kind = value.partition("=")
        if not equals:
            raise _wrong("--scoring", value, "must be NAME=KIND, as in sums=tokens")
        if name not in datasets:
            raise _wrong(
                "--scoring", value, f"{name} is not among the run's datasets ({', '.join(datasets)})"
            )
        if kind not in SCORINGS:
            raise _wrong("--scoring", value, f"unknown kind; choose one of {', '.join(SCORINGS)}")
        if found.setdefault(name, kind) != kind:
            raise _wrong("--scoring", value, f"{name} is given {found[name]} too; give it once")
    return tuple(found.items())


def _sigmas(values: list[str] | None) -> tuple[float, ...]:
    if not values:
        return ()
    sigmas = []
    for text in _split(values, lambda _: False):
        try:
            sigma = float(text)
        except ValueError:
            sigma = math.nan
        if not (math.isfinite(sigma) and sigma > 0):
            raise _wrong("--sigma", text, "must be a number above 0, such as 6")
        sigmas.append(sigma)
    return tuple(dict.fromkeys(sigmas))


def _datasets(values: list[str] | None, data_root: str | None) -> tuple[DatasetRequest, ...]:
    if not values:
        return tuple(DatasetRequest(name) for name in DEFAULT_DATASETS)
    requests: dict[str, DatasetRequest] = {}
    for value in _split(values, lambda value: "=" in value):
        name, _, path = value.partition("=")
        if "=" in value:
            path = _own_file(value, name, path)
        elif name not in DEFAULT_DATASETS and not own_files(name, data_root):
            _check_known(name)
        if requests.setdefault(name, DatasetRequest.of(name, path or None, data_root)).path != (path or None):
            raise _wrong("--dataset", value, f"the name {name} is given twice; choose another name")
    return tuple(requests.values())


def _own_file(value: str, name: str, path: str) -> str:
    if not _DATASET_NAME.fullmatch(name):
        why = "the name may hold only ASCII letters, digits, '_', '-' and '.', as in mytask=FILE.jsonl"
        raise _wrong("--dataset", value, why)
    file = path_of(f"--dataset {name}=", path)
    if not file.is_file():
        raise _wrong("--dataset", value, "no such file; give a JSON Lines file with prompt and answer")
    return str(file)


def _check_known(name: str) -> None:
    from caploc.datasets import DATASETS

    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(DATASETS)};"
        raise _wrong(
            "--dataset",
            name,
            f"unknown; {hint} or give your own as {name or 'NAME'}=FILE.jsonl, or in --data-root",
        )


# ------------------------------------------------------------------------------------------------- models and datasets


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
    path = path_of("--model", value)
    if path.is_dir():
        return ModelRequest(_label(path.resolve().name), str(path))
    if path.is_file():
        raise _wrong("--model", value, "is a file; give the folder that holds config.json")
    hub_id, _, commit = value.partition("@")
    if _HUB_ID.fullmatch(hub_id):
        if not _COMMIT.fullmatch(commit):
            why = (
                f"a hub model needs its commit, or the run could not be repeated; give {hub_id}@COMMIT with the 40 "
                "digits that its hub page shows"
            )
            raise _wrong("--model", value, why)
        return ModelRequest(_label(hub_id.split("/")[1]), value, network=True)
    close = difflib.get_close_matches(value, REGISTRY, 1, 0.5)
    hint = f"did you mean {close[0]}?" if close else f"names are {', '.join(REGISTRY)}"
    raise _wrong("--model", value, f"no known name, no folder, no hub id ORG/NAME@COMMIT; {hint}")


def _registered(name: str) -> ModelRequest:
    entry = REGISTRY[name]
    return ModelRequest(
        label=name,
        model=name,
        embedded=entry.embedded,
        gpu=not entry.embedded,
        min_gb=0 if entry.embedded else entry.min_gb("attribution"),
        gated=entry.gated,
        network=not entry.embedded,
    )


def _label(name: str) -> str:
    """An ASCII label, changed if it would pass for a registered model, whose printed numbers are not its own."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return f"{label}-local" if label in REGISTRY else label
