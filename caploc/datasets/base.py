"""What a dataset is: where its records live, how one of them becomes examples, and which of them are taken.

Sides of a file and random subsets are decided by hashes of the content: nothing depends on the order of a file, on the
process or on Python's own `hash`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from caploc.errors import DatasetError
from caploc.examples import Example, lone_surrogate

LOCATING_SHARE = 0.7

Row = tuple[str, Mapping[str, object]]
"""A raw record, and in front of it where it stands ("gsm8k.jsonl:17"), for error messages."""


class CsvText(str):
    """A cell of a CSV file, which has no types: it may stand for a whole number."""

    __slots__ = ()


@dataclass(frozen=True)
class Record:
    """One raw record; its accessors return a field of the asked type, or raise naming record and field.

    where  where it stands, for error messages
    stem   how ids of its source begin, "gsm8k-train"
    index  its place in the source, from 0
    """

    fields: Mapping[str, object]
    where: str
    stem: str
    index: int

    @property
    def id(self) -> str:
        """An id for a dataset that has none of its own: the place in the source, "gsm8k-train-00017"."""
        return f"{self.stem}-{self.index:05d}"

    def named(self, own_id: str) -> str:
        """An id from the dataset's own, "counterfact-256"."""
        return f"{self.stem}-{own_id}"

    def text(self, *path: str, blank: bool = False) -> str:
        """The string at `path`, verbatim; a blank one is an error unless `blank`."""
        value = self._value(path)
        if not isinstance(value, str):
            raise self._wrong_type(path, value, "a string")
        return self._readable(path, value) if blank else self._filled(path, value)

    def texts(self, *path: str) -> list[str]:
        """The non-empty list of non-blank strings at `path`."""
        values = self._value(path)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self._wrong_type(path, values, "a list of strings")
        if not values or not all(value.strip() for value in values):
            raise DatasetError(
                f"{self.where}: field {_dotted(path)} is an empty list or holds an empty string; "
                "fill it in or remove the record"
            )
        return [self._readable(path, value) for value in values]

    def label(self, *path: str, names: tuple[str, ...]) -> str:
        """The name of the class whose number stands at `path`."""
        value = self._value(path)
        if isinstance(value, CsvText) and re.fullmatch("-?[0-9]{1,9}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong_type(path, value, "an integer label")
        if not 0 <= value < len(names):
            raise DatasetError(
                f"{self.where}: field {_dotted(path)} is {value}; it must lie in 0..{len(names) - 1} "
                f"({', '.join(names)})"
            )
        return names[value]

    def key(self, *path: str) -> str:
        """The integer or non-blank string at `path`, as a string: what a record is called."""
        value = self._value(path)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self._wrong_type(path, value, "an integer or a string")
        return str(value) if isinstance(value, int) else self._filled(path, value)

    def has(self, *path: str) -> bool:
        """Whether there is a field at `path`; None and blank texts, with which tables fill gaps, count as absent."""
        value: object = self.fields
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return bool(value.strip()) if isinstance(value, str) else value is not None

    def _value(self, path: tuple[str, ...]) -> object:
        value: object = self.fields
        for depth, name in enumerate(path):
            if not isinstance(value, Mapping):
                raise self._wrong_type(path[:depth], value, "an object")
            if value.get(name) is None:
                found = ", ".join(map(str, value)) or "none"
                raise DatasetError(
                    f"{self.where}: field {_dotted(path[: depth + 1])} is missing or null "
                    f"(fields there: {found}); add it, or check that this file belongs to this dataset"
                )
            value = value[name]
        return value

    def _filled(self, path: tuple[str, ...], value: str) -> str:
        if not value.strip():
            raise DatasetError(
                f"{self.where}: field {_dotted(path)} is empty; fill it in or remove the record"
            )
        return self._readable(path, value)

    def _readable(self, path: tuple[str, ...], value: str) -> str:
        if (place := lone_surrogate(value)) is not None:
            raise DatasetError(
                f"{self.where}: field {_dotted(path)} has a lone surrogate at character {place}, which no tokenizer "
                "can read; repair the text's encoding"
            )
        return str(value)

    def _wrong_type(self, path: tuple[str, ...], value: object, wanted: str) -> DatasetError:
        return DatasetError(
            f"{self.where}: field {_dotted(path)} is of type {type(value).__name__}; it must be {wanted}"
        )


@dataclass(frozen=True)
class Dataset:
    """One dataset: a registry entry, frozen.

    name           what `load_examples` and the command line call it
    display        what the paper's tables call it
    task           "math", "program", "language", "fact"; "own" for a dataset of the user's
    fields         the record's fields that are read
    to_examples    record -> its examples, in the prompt template that every model sees: the form "free"
    forms          name -> another template: record -> its examples, one for each of to_examples, of the same id
    split_by       path of the field whose equal values must fall on one side when a single file is split in
                   two: rephrasings of a question, facts of a subject; where it is absent, the prompt
    home           where a copy can be had by hand
    hub            Hugging Face repository; None: none is known that holds the original records
    revision       the full commit that is read; None: none was verified, so the user must pin one
    config         the repository's configuration
    split_names    the source's own locating and evaluation splits; one name: a single part, split by hash
    hub_files      split -> file in the repository
    read_folder    for a layout of its own: the rows of a folder, or None if the folder is laid out otherwise
    labels         the answers to choose from, where the task is to classify
    scoring        how answers are scored (`caploc.evaluation.SCORINGS`); None: as the task is
    paper_samples  how many examples the paper locates with (section 5.3); None where it names no number
    """

    name: str
    display: str
    task: str
    fields: tuple[str, ...]
    to_examples: Callable[[Record], list[Example]]
    split_by: tuple[str, ...] = ()
    home: str = ""
    hub: str | None = None
    revision: str | None = None
    config: str | None = None
    split_names: tuple[str, ...] = ("train", "test")
    hub_files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    read_folder: Callable[[Path], Iterable[Row] | None] | None = None
    labels: tuple[str, ...] = ()
    scoring: str | None = None
    paper_samples: int | None = None
    forms: Mapping[str, Callable[[Record], list[Example]]] = field(
        default_factory=lambda: MappingProxyType({})
    )


def _dotted(path: tuple[str, ...]) -> str:
    return repr(".".join(path)) if path else "'(record)'"


def on_locating_side(key: str) -> bool:
    """Whether records with this key are located with (about 70 % of keys) rather than evaluated on.

    The dataset's name does not enter: a subject or question that two datasets share falls on one side.
    """
    return int.from_bytes(digest(key)[:8]) < LOCATING_SHARE * 2**64


def subset(examples: Sequence[Example], limit: int, seed: int) -> list[Example]:
    """A random choice of at most `limit` of the examples, without replacement, in random order.

    A smaller limit gives a prefix of what a larger one gives. Examples of one group follow each other, so
    that no group but the last is torn; without a group, prompt and answer decide an example's place.
    """

    def rank(example: Example) -> bytes:
        own = (
            ("group", example.group)
            if example.group is not None
            else ("text", example.prompt, example.answer)
        )
        return digest(str(seed), *own)

    return sorted(examples, key=rank)[:limit]


def digest(*parts: str) -> bytes:
    """A hash of some texts and of where one ends and the next begins."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode()
        digest.update(len(content).to_bytes(8))  # ("ab", "c") is not ("a", "bc")
        digest.update(content)
    return digest.digest()
