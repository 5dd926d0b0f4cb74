"""Small models of which it is known what their neurons carry: the truth that locators and claims are tried against.

::

    zoo_names("trained")                             # ('trained-llama-16-s0', ...)
    planted = load_zoo_model("trained-llama-64-s0")
    planted.lm, planted.examples, planted.neurons    # a model, a task, and the neurons M that carry it

===============  =====================================================================================================
``trained``      a task trained into M and nothing else: every other weight is the base's, which does not know it
``written``      facts written into M by hand, each r times: detectors of the fact's prompts whose output is its answer
``split``        a written model, each neuron of it now several copies that share its output: the same function
``rescaled``     a trained model, M's weights out divided by what the weights in gained, others' the other way: likewise
``decoys``       a written model, with neurons of the same inputs and norms whose outputs move no logit: loud and inert
``shared``       two tasks in two sets with half of their neurons in common; one model under two names, a task each
``last-token``   one table of facts in two disjoint sets: which of them answers depends on the prompt's last token
``spread``       a base's own task, learned while half of all neurons were dropped: no small set carries it
``untrained``    fresh weights: nothing is anywhere
===============  =====================================================================================================

All are Llamas and GPT-Js, but for ``rescaled`` (an ungated neuron has no scale of its own), ``shared`` and
``last-token`` (a GPT-J's few rows, at the base's lengths, did not learn two tasks). A GPT-J's smaller M has 32 neurons,
where a Llama's has 16. ``written``: a fact's neurons lie in one layer.

Each is a base (a folder in Hugging Face format) with the rows of some neurons replaced; `fixtures/planting` makes them,
and a wheel holds them as ``caploc/zoo/data``. What counts as a planting is measured and kept as its `Gate`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor

from caploc.errors import ModelError, UnknownNameError
from caploc.examples import Example
from caploc.fingerprints import file_hash
from caploc.interventions.weights import neuron_weights
from caploc.model.loading import LanguageModel, load_model, untrained_twin, wrap

__all__ = [
    "KINDS",
    "Gate",
    "ZooModel",
    "load_zoo_model",
    "task_examples",
    "zoo_entries",
    "zoo_folder",
    "zoo_names",
]

KINDS = (
    "trained", "written", "split", "rescaled", "decoys", "shared", "last-token", "spread", "untrained",
)  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """What was measured of a model when it was made, on its evaluation examples, as fractions of right answers.

    ===============  =================================================================================================
    ``accuracy``     of the planted task
    ``without``      of it with M erased; where M is empty, with those 64 neurons erased whose own erasure costs most
    ``chance``       of the task: one over its labels
    ``others``       task that M does not carry -> its accuracy with M, and without
    ``weights_auc``  how well weights alone tell M: of the norms of neurons' weights (in each projection in, and the one
                     out), the AUC that is furthest from one half, as max(AUC, 1 - AUC); None where M is empty
    ===============  =================================================================================================
    """

    accuracy: float
    without: float
    chance: float
    others: Mapping[str, tuple[float, float]]
    weights_auc: float | None


@dataclass(frozen=True, eq=False)
class ZooModel:
    """A model and what is true of it.

    ===============  =================================================================================================
    ``examples``     of the planted task: to locate on
    ``evaluation``   of it, with prompts disjoint from those: to judge erasure on
    ``others``       tasks that M does not carry -> examples that the model answers
    ``neurons``      M; all False for ``spread`` and ``untrained``
    ``decoys``       neurons that are active and change nothing; None where there are none
    ===============  =================================================================================================
    """

    name: str
    kind: str
    lm: LanguageModel
    examples: tuple[Example, ...]
    evaluation: tuple[Example, ...]
    others: Mapping[str, tuple[Example, ...]]
    neurons: Bool[Tensor, "layers neurons"]
    decoys: Bool[Tensor, "layers neurons"] | None
    gate: Gate


def zoo_names(kind: str | None = None) -> tuple[str, ...]:
    """The models' names, or those of one kind.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(f"the zoo has no kind {kind!r}; it has {', '.join(KINDS)}")
    return tuple(name for name, entry in _index()["models"].items() if kind is None or entry["kind"] == kind)


def zoo_entries() -> Mapping[str, Mapping[str, Any]]:
    """Name -> what the zoo's index says of a model: its ``kind``, ``task``, ``seed`` and ``gate`` among it."""
    return MappingProxyType(_index()["models"])


def load_zoo_model(name: str) -> ZooModel:
    """Load one model, its tasks and its truth; each call gives a model of its own.

    Raises:
        UnknownNameError: no such model.
        ModelError: the zoo's files are absent or damaged.
    """
    models, tasks = _index()["models"], _index()["tasks"]
    if name not in models:
        near = difflib.get_close_matches(str(name), models, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see caploc.zoo.zoo_names()"
        raise UnknownNameError(f"the zoo has no model {name!r}; {hint}")
    entry = models[name]
    base = load_model(zoo_folder() / entry["base"])
    if entry["kind"] == "untrained":
        base = untrained_twin(base, entry["seed"])
    lm = wrap(name, base.model, base.tokenizer, base.architecture)
    marks = {role: torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool) for role in "md"}
    if entry["rows"] is not None:
        _write(lm, _rows(entry), entry["roles"], marks)
    gate = entry["gate"]
    return ZooModel(
        name,
        entry["kind"],
        lm,
        _examples(entry["task"], "examples", tasks),
        _examples(entry["task"], "evaluation", tasks),
        MappingProxyType({other: _examples(other, "examples", tasks) for other in gate["others"]}),
        marks["m"],
        marks["d"] if entry["kind"] == "decoys" else None,
        Gate(
            **gate | {"others": {other: (before, after) for other, (before, after) in gate["others"].items()}}
        ),
    )


def task_examples(task: str, part: str = "examples") -> tuple[Example, ...]:
    """The ``examples`` of a task of the zoo, or those of ``evaluation``, whose prompts are others.

    Raises:
        UnknownNameError: no such task.
    """
    tasks = _index()["tasks"]
    if task not in tasks:
        raise UnknownNameError(f"the zoo has no task {task!r}; it has {', '.join(tasks)}")
    return _examples(task, part, tasks)


def _rows(entry: Mapping[str, Any]) -> dict[str, Tensor]:
    path = zoo_folder() / entry["rows"]
    if not path.is_file() or file_hash(path) != entry["sha256"]:
        raise ModelError(
            f"{path} is absent or not the file that zoo.json describes; get a sound copy of caploc"
        )
    rows: dict[str, Tensor] = load_file(path)
    return rows


def _write(lm: LanguageModel, rows: Mapping[str, Tensor], roles: str, marks: Mapping[str, Tensor]) -> None:
    """Put a planting's rows into ``lm``, and its sets into ``marks``."""
    layers, indices = rows["places"].long().unbind(1)
    for layer in layers.unique().tolist():
        here = layers == layer
        for part in neuron_weights(lm, layer):
            new = rows[part.path.removeprefix("mlp.")][here].to(part.parameter.dtype)
            part.parameter.data.index_copy_(part.dim, indices[here], new.movedim(0, part.dim))
    for role, mask in marks.items():
        mask[layers, indices] = torch.tensor([one == role for one in roles])


def _examples(task: str, part: str, tasks: Mapping[str, Any]) -> tuple[Example, ...]:
    return tuple(
        Example(f"{task}:{part}:{number}", prompt, answer, group=subject, subject=subject)
        for number, (prompt, answer, subject) in enumerate(tasks[task][part])
    )


@cache
def zoo_folder() -> Path:
    """Where the zoo lies: in an installed wheel beside this file, else in the repository."""
    here = Path(__file__).resolve()
    places = (here.parent / "data", here.parents[2] / "fixtures" / "zoo")
    for place in places:
        if (place / "zoo.json").is_file():
            return place
    raise ModelError(
        f"the zoo's files are neither in {places[0]} nor in {places[1]}; reinstall caploc, or make them in a clone: "
        "python -m fixtures.make zoo"
    )


@cache
def _index() -> Any:
    """zoo.json: the models, and the tasks with their texts."""
    return json.loads((zoo_folder() / "zoo.json").read_text(encoding="utf-8"))
