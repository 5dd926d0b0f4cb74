"""The registry of datasets, and `load_examples`: a dataset's name, a place and a seed in, checked examples out."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType

from caploc.datasets.base import Dataset, Record, on_locating_side, subset
from caploc.datasets.fact import COUNTERFACT, KNOWN_1000, PARAREL, ZSRE
from caploc.datasets.language import EMOTION, IMDB
from caploc.datasets.math import DECOUPLING, GSM8K, GSM8K_BACKWARD, META_MATH
from caploc.datasets.program import CODE25K, MBPP
from caploc.datasets.sources import TEST, TRAIN, WHOLE, Source, files_in_root, open_source
from caploc.errors import DatasetError, ExampleError, OptionError, UnknownNameError
from caploc.examples import Example

_ENTRIES = (
    GSM8K,
    META_MATH,
    CODE25K,
    EMOTION,
    IMDB,
    COUNTERFACT,
    ZSRE,
    PARAREL,
    KNOWN_1000,
    DECOUPLING,
    MBPP,
    GSM8K_BACKWARD,
)

DATASETS: Mapping[str, Dataset] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Name -> dataset. The paper's first, then those beyond it. A further dataset is an entry in the file of
its task, and a line above."""

FREE = "free"
_OWN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SPLITS = {"locate": TRAIN, "train": TRAIN, "evaluate": TEST, "test": TEST}


@dataclass(frozen=True)
class Loaded:
    """An example, the key that decides its side of a single file, and how it is asked."""

    example: Example
    key: str
    rendered: Example


@dataclass(frozen=True)
class Part:
    """The examples of one split; ``left_out`` says in sentences what was left out, and why."""

    examples: list[Example]
    left_out: list[str]


def load_examples(
    name: str,
    path: str | PathLike[str] | None = None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    form: str = FREE,
) -> list[Example]:
    """The examples of dataset `name`.

    path   a data root (NAME.jsonl, or NAME_train.jsonl and NAME_test.jsonl, or NAME/ with the hub
           repository's files; .json, .parquet and .csv too), one such file, or "hub:ID@COMMIT"; None: the
           hub, at the registry's commit. A name that is not in `DATASETS` is a dataset of the user's own:
           records with `prompt` and `answer`, and `id` and `group` where useful.
    split  "locate" and "evaluate" (or "train" and "test") are disjoint: the source's own two parts where it
           has them, else a single source divided 70 : 30 by a hash of the dataset's `split_by` field; prompts
           that are located with are left out of the other. None: the training part, or a single source whole.
    limit  a random subset of at most so many, drawn with `seed`; a smaller limit gives a prefix of a larger
           one's. Groups stay together. None: all, in the source's order.
    form   how records are asked: "free", the dataset's own template, or for gsm8k "choice", one of four numbers
           (`caploc.datasets.math.to_multiple_choice`). Which records are taken does not depend on it.

    Of records with the same prompt and answer one is taken, whatever their ids; a `UserWarning` counts what is
    left out.

    Raises `UnknownNameError`, `OptionError` or `DatasetError`, whose one line names the record, field, file
    or repository and the remedy. Every record of the part is checked before anything is returned.
    """
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise OptionError(f"limit must be a whole number of at least 1, got {limit!r}; None takes all")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise OptionError(f"seed must be a whole number, got {seed!r}")
    part = read_part(name, path, split, None if limit is None else seed, form)
    for sentence in part.left_out:
        warnings.warn(sentence, stacklevel=2)
    return part.examples[:limit]


def read_part(
    name: str,
    path: str | PathLike[str] | None = None,
    split: str | None = None,
    seed: int | None = None,
    form: str = FREE,
) -> Part:
    """All that `load_examples` draws from with the same arguments, in the order in which it does: the first n are what
    it gives for the limit n. Without a seed in the source's order."""
    if split is not None and split not in SPLITS:
        raise OptionError(f"split must be one of {', '.join(SPLITS)} or None, got {split!r}")
    dataset = _find(name, path)
    if form != FREE and form not in dataset.forms:
        known = ", ".join([FREE, *dataset.forms])
        raise OptionError(f"{dataset.name} has no form {form!r}; choose {known}")
    source = open_source(dataset, path)
    locating = split is None or SPLITS[split] == TRAIN
    own_part = WHOLE if WHOLE in source.parts else TRAIN if locating else TEST
    parts = {own_part: _read(dataset, source, own_part, form)}
    if own_part == TEST and TRAIN in source.parts:
        parts[TRAIN] = _read(dataset, source, TRAIN, FREE)
    loaded, left_out = _side(dataset, source.label, parts, split)
    examples = [item.example for item in loaded]
    if dataset.task == "own":
        _warn_of_glued_words(name, examples)
    if seed is not None:
        examples = subset(examples, len(examples), seed)
    rendered = {item.example.id: item.rendered for item in loaded}
    return Part([rendered[example.id] for example in examples], left_out)


def _find(name: str, path: str | PathLike[str] | None) -> Dataset:
    if name in DATASETS:
        return DATASETS[name]
    if path is not None and (not Path(path).is_dir() or files_in_root(name, Path(path))):
        return _own_dataset(name)
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UnknownNameError(
        f"no dataset is called {name!r}{hint}; known: {', '.join(DATASETS)}; for one of your own give its "
        "file of records with prompt and answer, NAME=FILE.jsonl"
    )


def _own_examples(record: Record) -> list[Example]:
    """Records with `prompt` and `answer`, and, where useful, `id`, `group` and `subject`.

    Both texts are taken as they are: an answer that follows a word carries its own leading space, " Paris".
    """
    example_id = record.named(record.key("id")) if record.has("id") else record.id
    group = record.key("group") if record.has("group") else None
    subject = record.text("subject") if record.has("subject") else None
    return [Example(example_id, record.text("prompt"), record.text("answer"), group, subject)]


def _own_dataset(name: str) -> Dataset:
    """A dataset that is not in the registry. Raises `OptionError` for a name unfit for test ids."""
    if not _OWN_NAME.fullmatch(name):
        raise OptionError(
            f"dataset name {name!r} may hold only ASCII letters, digits, '_', '-' and '.'; rename it, as in "
            "mytask=FILE.jsonl"
        )
    return Dataset(
        name=name,
        display=name,
        task="own",
        fields=("prompt", "answer"),
        to_examples=_own_examples,
        split_by=("group",),
    )


def _side(
    dataset: Dataset, label: str, parts: Mapping[str, list[Loaded]], split: str | None
) -> tuple[list[Loaded], list[str]]:
    """One side of a source, and what was left out of it."""
    locating = split is None or SPLITS[split] == TRAIN
    if split is None or WHOLE not in parts:
        sides = {True: parts.get(WHOLE) or parts.get(TRAIN, []), False: parts.get(TEST, [])}
    else:
        sides = {
            side: [item for item in parts[WHOLE] if on_locating_side(item.key) == side]
            for side in (True, False)
        }
        if not sides[locating]:
            raise DatasetError(
                f"{dataset.name}: none of the {len(parts[WHOLE])} examples of {label} falls on the {split} side; give "
                f"more records, or two files, {dataset.name}_train and {dataset.name}_test"
            )
    distinct, left_out = _distinct(dataset, sides[locating])
    if locating:
        return distinct, left_out
    located = {item.example.prompt for item in sides[True]}
    held_out = [item for item in distinct if item.example.prompt not in located]
    if not held_out:
        raise DatasetError(
            f"{dataset.name}: every prompt of the test part of {label} also stands in its training part; separate the "
            "two, or give more records"
        )
    if len(held_out) < len(distinct):
        left_out.append(
            f"{len(distinct) - len(held_out)} of {len(distinct)} examples of {dataset.name} left out of the "
            "evaluation: their prompts are located with"
        )
    return held_out, left_out


def _distinct(dataset: Dataset, loaded: list[Loaded]) -> tuple[list[Loaded], list[str]]:
    """One of all examples with the same prompt and answer: copies would agree with each other in any two halves. Which
    one does not depend on the order of the file, unless they differ in nothing but their ids."""
    copies: dict[tuple[str, str], list[Loaded]] = {}
    for item in loaded:
        copies.setdefault((item.example.prompt, item.example.answer), []).append(item)
    if len(copies) == len(loaded):
        return loaded, []
    kept = [min(ones, key=lambda one: (one.example.group or "", one.key)) for ones in copies.values()]
    first = next(ones for ones in copies.values() if len(ones) > 1)
    return kept, [
        f"{len(loaded) - len(kept)} of {len(loaded)} examples of {dataset.name} left out: copies of another, with its "
        f"prompt and answer ({', '.join(repr(one.example.id) for one in first[:2])} first)"
    ]


def _read(dataset: Dataset, source: Source, part: str, form: str) -> list[Loaded]:
    if part not in source.parts:
        raise DatasetError(
            f"{dataset.name}: {source.label} has no {part} part; add {dataset.name}_{part}.jsonl, or keep "
            f"all records in {dataset.name}.jsonl to have them divided"
        )
    stem = dataset.name if part == WHOLE else f"{dataset.name}-{part}"
    loaded: list[Loaded] = []
    places: dict[str, str] = {}
    for index, (where, fields) in enumerate(source.parts[part]()):
        record = Record(fields, where, stem, index)
        examples = dataset.to_examples(record)
        others = examples if form == FREE else dataset.forms[form](record)
        for example, rendered in zip(examples, others, strict=True):
            try:
                example.validate()
            except ExampleError as error:
                raise DatasetError(f"{where}: {error}") from None
            if example.id in places:
                raise DatasetError(
                    f"{where}: id {example.id!r} also belongs to {places[example.id]}; make ids unique"
                )
            places[example.id] = where
            own_key = dataset.split_by and record.has(*dataset.split_by)
            key = record.key(*dataset.split_by) if own_key else example.prompt
            loaded.append(Loaded(example, key, rendered))
    if not loaded:
        raise DatasetError(f"{dataset.name}: no record of {source.label} yields an example; check the file")
    return loaded


def _warn_of_glued_words(name: str, examples: list[Example]) -> None:
    glued = [e for e in examples if e.prompt[-1].isalpha() and e.answer[0].isalpha()]
    if glued:
        warnings.warn(
            f"{name}: in {len(glued)} of {len(examples)} examples, {glued[0].id!r} first, the answer "
            "continues the prompt's last word; begin the answer with a space if it is a word of its own",
            stacklevel=4,
        )
