"""Reads raw records from files: JSON strictly, line by line; tables through the `datasets` library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caploc.datasets.base import Row
from caploc.errors import DatasetError

JSON_SUFFIXES = (".jsonl", ".json")
TABLE_SUFFIXES = (".parquet", ".csv")
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES
UTF8_MARK = b"\xef\xbb\xbf"


def read_file(path: Path) -> Iterator[Row]:
    """The records of one file, by its suffix.

    Raises `DatasetError` naming the file, and the line or record, for anything unreadable.
    """
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        from caploc.datasets.tables import read_table  # `datasets` takes a second to import

        return read_table(path)
    if suffix == ".jsonl":
        return read_json_lines(path)
    if suffix == ".json":
        return read_json(path)
    raise DatasetError(f"{path}: unknown file type; use one of {', '.join(SUFFIXES)}")


def read_json_lines(path: Path) -> Iterator[Row]:
    """The objects of a file with one JSON object a line; blank lines are skipped."""
    empty = True
    try:
        with path.open("rb") as lines:
            # split at b"\n" only: a text may hold other line separators of Unicode
            for number, line in enumerate(lines, start=1):
                content = line.removeprefix(UTF8_MARK) if number == 1 else line
                if content.strip():
                    empty = False
                    where = f"{path}:{number}"
                    yield where, _object(_parse(content, where), where)
    except OSError as error:
        raise _unreadable(path, error) from error
    if empty:
        raise DatasetError(f"{path}: the file has no record; one JSON object a line is expected")


def read_json(path: Path) -> Iterator[Row]:
    """The objects of a file that is a JSON array, or that has one object a line in spite of its suffix."""
    try:
        content = path.read_bytes().removeprefix(UTF8_MARK)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not content.lstrip().startswith(b"["):
        yield from read_json_lines(path)
        return
    records = _parse(content, str(path))
    if not records:
        raise DatasetError(f"{path}: the array has no record")
    for number, record in enumerate(records, start=1):
        where = f"{path} record {number}"
        yield where, _object(record, where)


def _parse(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where}: not UTF-8 at byte {error.start}; convert the file to UTF-8") from None
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{where}: not valid JSON ({error.msg} at character {error.pos}); write one complete JSON object"
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # a number of thousands of digits, thousands of open brackets
        raise DatasetError(f"{where}: not usable JSON ({type(error).__name__}); correct the record") from None


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise DatasetError(
            f"{where}: a JSON object with named fields is expected, not a {type(value).__name__}"
        )
    return value


def _unreadable(path: Path, error: OSError) -> DatasetError:
    return DatasetError(f"{path}: cannot be read ({error.strerror or type(error).__name__}); check the path")
