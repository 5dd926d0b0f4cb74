"""A model of the zoo as a folder of files, so that an audit takes it as it takes a model and data of one's own.

From the shell, ``python -m caploc.zoo NAME FOLDER``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from caploc.errors import OptionError
from caploc.examples import Example
from caploc.zoo import load_zoo_model, task_examples, zoo_names

ITEMS, FACTS = "items", "facts"
"""The names of the datasets that have the planted task's prompts without groups, and that ask for its facts."""
PARTS = (("train", "examples"), ("test", "evaluation"))
"""Of a data root and of the zoo."""


@dataclass(frozen=True)
class Unpacked:
    """Where a model of the zoo lies.

    ===========  ===================================================================================================
    ``model``    a folder in Hugging Face format
    ``data``     a data root
    ``task``     the dataset of the planted task
    ``beside``   that of the first other task that the model answers; of a ``shared`` model the one that shares M
    ``items``    the planted task once more, without groups: its prompts as draws of their own
    ``facts``    the planted task's facts, a dataset without a part to evaluate on; None of a task about no subjects
    ===========  ===================================================================================================
    """

    model: Path
    data: Path
    task: str
    beside: str
    items: str
    facts: str | None

    @property
    def options(self) -> str:
        """The command line of an audit of it."""
        return f"--model {self.model} --data-root {self.data} --dataset {self.task},{self.beside}"


def unpack_zoo_model(name: str, folder: str | PathLike[str]) -> Unpacked:
    """Write a model of the zoo to ``folder/NAME``, and two of its tasks beside it.

    A task is two files, TASK_train.jsonl with what the zoo locates on, and TASK_test.jsonl with what it measures
    erasure on. Groups are subjects, so that intervals resample facts, and not wordings of them; but for ``items``.

    Raises:
        UnknownNameError: no such model.
        OptionError: the folder already holds something of the model's name.
    """
    planted, root = load_zoo_model(name), Path(folder)
    model = root / name
    if model.exists():
        raise OptionError(f"{model} exists; name another folder to unpack {name} into")
    task = task_of(planted.examples)
    beside = _sharing(name, task) if planted.kind == "shared" else next(iter(planted.others))
    model.mkdir(parents=True)
    planted.lm.model.save_pretrained(model)
    planted.lm.tokenizer.save_pretrained(model)
    for one in (task, beside):
        for part, role in PARTS:
            _write(root / f"{one}_{part}.jsonl", task_examples(one, role))
    for part, role in PARTS:
        alone = (replace(example, group=None) for example in task_examples(task, role))
        _write(root / f"{ITEMS}_{part}.jsonl", alone)
    facts = list(_facts((*planted.examples, *planted.evaluation)))
    if facts:
        _write(root / f"{FACTS}_train.jsonl", facts)
    return Unpacked(model, root, task, beside, ITEMS, FACTS if facts else None)


def task_of(examples: Iterable[Example]) -> str:
    """The task that examples of the zoo belong to."""
    return next(iter(examples)).id.partition(":")[0]


def _sharing(name: str, task: str) -> str:
    others = (task_of(load_zoo_model(one).examples) for one in zoo_names("shared") if one != name)
    return next(other for other in others if other != task)


def _facts(examples: Iterable[Example]) -> Iterator[Example]:
    """The examples, in one group those that are alike from the subject on: a fact and the words that ask for it.

    Facts of one subject stay together where intervals are made (`caploc.experiments.facts.Fact.cluster`), so that a
    subject counts once, however many groups it is in.
    """
    for one in examples:
        if one.subject is not None:
            asked = one.prompt.partition(one.subject)[2]
            yield Example(one.id, one.prompt, one.answer, f"{one.subject}{asked}", one.subject)


def _write(path: Path, examples: Iterable[Example]) -> None:
    names = ("id", "prompt", "answer", "group", "subject")
    records = ({name: getattr(one, name) for name in names} for one in examples)
    lines = (
        json.dumps({name: text for name, text in one.items() if text is not None}) + "\n" for one in records
    )
    path.write_text("".join(lines), encoding="utf-8")
