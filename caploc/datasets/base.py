"""What a dataset is: how files hold its raw records, how one of them becomes examples, and which of them are taken.

JSON is read strictly: UTF-8 with or without a byte-order mark, no key twice in an object, no NaN or Infinity. Lines of
JSON Lines end at "\\n" alone: a text may hold other line separators of Unicode. CSV knows no types: each cell is text.
Parquet brings its own.

Sides of a file and random subsets are decided by hashes of the content: nothing depends on the order of a file, on the
process or on Python's own `hash`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from caploc.errors import DatasetError
from caploc.examples import Example
from caploc.fingerprints import read_pinned

LOCATING_SHARE = 0.7
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
UTF8_MARK = b"\xef\xbb\xbf"
LONGEST_CELL = 2**31 - 1  # what a C long holds everywhere

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
        return self._checked(path, value, blank)

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
        return [self._checked(path, value) for value in values]

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
        return str(value) if isinstance(value, int) else self._checked(path, value)

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

    def _checked(self, path: tuple[str, ...], value: str, blank: bool = False) -> str:
        if not (blank or value.strip()):
            raise DatasetError(
                f"{self.where}: field {_dotted(path)} is empty; fill it in or remove the record"
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DatasetError(
                f"{self.where}: field {_dotted(path)} has a lone surrogate at character {error.start}, which no "
                "tokenizer can read; repair the text's encoding"
            ) from None
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


# ----------------------------------------------------------------------------------------------------- files of records


def read_file(path: Path) -> Iterator[Row]:
    """The records of one file, by its suffix.

    Raises `DatasetError` naming the file, and the line or record, for anything unreadable.
    """
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return read_json_lines(path)
    if suffix == ".json":
        return _read_json(path)
    if suffix == ".csv":
        return _read_csv(path)
    if suffix == ".parquet":
        return _read_parquet(path)
    raise DatasetError(f"{path}: unknown file type; use one of {', '.join(SUFFIXES)}")


def _text(content: bytes, path: Path) -> str:
    """``content`` as text without a byte-order mark."""
    content = content.removeprefix(UTF8_MARK)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        begin = content.rfind(b"\n", 0, error.start) + 1
        line = content.count(b"\n", 0, begin) + 1
        raise DatasetError(
            f"{path}:{line}: not UTF-8 at byte {error.start - begin}; convert the file to UTF-8"
        ) from None


# --------------------------------------------------------------------------------------------------------------- JSON


def read_json_lines(path: Path) -> Iterator[Row]:
    """The objects of a file with one JSON object a line; blank lines are skipped."""
    return _json_lines(path, _text(read_pinned(path), path))


def _read_json(path: Path) -> Iterator[Row]:
    """The objects of a file that is a JSON array, or that has one object a line in spite of its suffix."""
    text = _text(read_pinned(path), path)
    if text.lstrip().startswith("["):
        return _json_array(path, text)
    return _json_lines(path, text)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    empty = True
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(_JSON_SPACE):
            empty = False
            where = f"{path}:{number}"
            with _naming(where):
                value = _DECODER.decode(line)
            yield where, _object(value, where)
    if empty:
        raise DatasetError(f"{path}: the file has no record; one JSON object a line is expected")


def _json_array(path: Path, text: str) -> Iterator[Row]:
    """The items of an array, decoded one by one, so that each error names its own."""
    place, number = text.index("[") + 1, 0
    mark = _ARRAY_END.match(text, place)
    if mark:
        raise DatasetError(f"{path}: the array has no record")
    while mark is None or mark[1] == ",":
        number += 1
        where = f"{path} record {number}"
        with _naming(where):
            value, place = _DECODER.raw_decode(text, _SPACE.match(text, place).end())  # type: ignore[union-attr]
            mark = _ARRAY_MARK.match(text, place)
            if mark is None:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
            place = mark.end()
        yield where, _object(value, where)
    if text[place:].strip(_JSON_SPACE):
        raise DatasetError(f"{path}: something stands behind the array; keep one array of records")


def _single_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: which of two values was meant, nobody can tell."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DatasetError(f"the key {twice!r} stands twice in one object; keep one")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DatasetError(f"{text} is no finite number; write one, or null")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_single_keys, parse_constant=_finite, parse_float=_finite)
_JSON_SPACE = " \t\r\n"
_SPACE = re.compile(f"[{_JSON_SPACE}]*")
_ARRAY_END = re.compile(f"[{_JSON_SPACE}]*(\\])")
_ARRAY_MARK = re.compile(f"[{_JSON_SPACE}]*([,\\]])")


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos}); write one complete JSON object"
        ) from None
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits, thousands of open brackets
        raise DatasetError(f"{where}: not usable JSON ({type(error).__name__}); correct the record") from None


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DatasetError(
            f"{where}: a JSON object with named fields is expected, not a {type(value).__name__}"
        )
    return value


# ------------------------------------------------------------------------------------------------------------- tables


def _read_csv(path: Path) -> Iterator[Row]:
    """The rows of a CSV file whose first row names the fields; empty lines are skipped."""
    reader = csv.reader(io.StringIO(_text(read_pinned(path), path), newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    limit, line = csv.field_size_limit(LONGEST_CELL), 1  # the module's own limit is 131,072 characters
    try:
        for cells in reader:
            rows += [(line, cells)] if cells else []
            line = reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}:{line}: not valid CSV ({error}); correct the quotes") from None
    finally:
        csv.field_size_limit(limit)
    if len(rows) < 2:
        raise DatasetError(f"{path}: the table has no record")
    names = _different(rows[0][1], str(path))
    for line, cells in rows[1:]:
        if len(cells) != len(names):
            raise DatasetError(
                f"{path}:{line}: has {len(cells)} cells, and the header {len(names)}; quote cells that hold commas, "
                "quotes or line breaks"
            )
        yield f"{path}:{line}", dict(zip(names, map(CsvText, cells), strict=True))


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # takes a while
    import pyarrow.parquet as pq

    content = read_pinned(path)
    try:
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(f"{path}: cannot be read as Parquet ({reason}); get a sound copy") from error
    names = _different(table.column_names, str(path))
    if not table.num_rows:
        raise DatasetError(f"{path}: the table has no record")
    columns = [_values(column, name, path) for name, column in zip(names, table.columns, strict=True)]
    for number, values in enumerate(zip(*columns, strict=True), start=1):
        yield f"{path} record {number}", dict(zip(names, values, strict=True))


def _values(column: Any, name: str, path: Path) -> list[Any]:
    if str(column.type).startswith("timestamp"):  # down to nanoseconds, which Python's own do not hold
        column = column.cast("string")
    try:
        found: list[Any] = column.to_pylist()
    except ValueError:  # such as bytes that are not UTF-8; say where
        for number, one in enumerate(column, start=1):
            try:
                one.as_py()
            except ValueError as error:
                reason = str(error).splitlines()[0]
                raise DatasetError(
                    f"{path} record {number}: field {name!r} cannot be read ({reason}); repair the record"
                ) from None
        raise
    return found


def _different(names: list[str], where: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{where}: two columns are called {name!r}; rename or remove one")
    return names
