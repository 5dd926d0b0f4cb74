"""One file's records, read as they were written: JSON, JSON Lines, CSV or Parquet.

JSON is read strictly: UTF-8 with or without a byte-order mark, no key twice in an object, no NaN or Infinity. Lines of
JSON Lines end at "\\n" alone: a text may hold other line separators of Unicode. CSV knows no types: each cell is text.
Parquet brings its own.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from caploc.datasets.base import CsvText, Row
from caploc.errors import DatasetError

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
UTF8_MARK = b"\xef\xbb\xbf"
LONGEST_CELL = 2**31 - 1  # what a C long holds everywhere

_pinned: dict[Path, str] = {}


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


@contextmanager
def pinned(hashes: Mapping[str, str]) -> Iterator[None]:
    """Within, a file of ``hashes`` (path -> sha256) whose content has another hash is refused: several processes, or
    several readings of one, would speak of different data by one name."""
    before = dict(_pinned)
    _pinned.update({Path(path): known for path, known in hashes.items()})
    try:
        yield
    finally:
        _pinned.clear()
        _pinned.update(before)


def content_hashes(files: Iterable[Path]) -> dict[str, str]:
    """Path -> sha256, for `pinned`. What cannot be read is left to whoever reads it."""
    found = {}
    for file in files:
        try:
            found[str(file.resolve())] = sha256(file.read_bytes()).hexdigest()
        except OSError:
            continue
    return found


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the path"
        ) from error
    known = _pinned.get(path.resolve()) if _pinned else None
    if known is not None and sha256(content).hexdigest() != known:
        raise DatasetError(
            f"{path}: its content has changed since this run began; start again when nothing writes to it any more"
        )
    return content


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
    return _json_lines(path, _text(_content(path), path))


def _read_json(path: Path) -> Iterator[Row]:
    """The objects of a file that is a JSON array, or that has one object a line in spite of its suffix."""
    text = _text(_content(path), path)
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
    reader = csv.reader(io.StringIO(_text(_content(path), path), newline=""), strict=True)
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

    content = _content(path)
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
