"""Raw records: where they live (the hub at a pinned commit, a data root, a folder, or one file), and reading them.

JSON is read strictly, line by line; Parquet, CSV and whole folders of a hub repository through the `datasets` library.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from caploc.datasets.base import Dataset, Row
from caploc.errors import DatasetError, UnavailableDatasetError
from caploc.hub import COMMIT, dataset_files

TRAIN, TEST, WHOLE = "train", "test", "whole"
_PREFIX = "hub:"
JSON_SUFFIXES = (".jsonl", ".json")
TABLE_SUFFIXES = (".parquet", ".csv")
SUFFIXES = JSON_SUFFIXES + TABLE_SUFFIXES
UTF8_MARK = b"\xef\xbb\xbf"

Reader = Callable[[], Iterable[Row]]


@dataclass(frozen=True)
class Source:
    """The parts a dataset is stored in, unread: `TRAIN` and `TEST`, or the `WHOLE` in one."""

    label: str
    parts: Mapping[str, Reader]


def open_source(dataset: Dataset, path: str | PathLike[str] | None) -> Source:
    """The source of `dataset` at `path`: a file, a data root, the dataset's own folder, or "hub:ID@COMMIT".

    None is the registry's repository at its pinned commit. Raises `DatasetError` if the source is not there,
    saying what was looked for.
    """
    if path is None:
        return _pinned_source(dataset)
    if str(path).startswith(_PREFIX):
        return _hub_source(dataset, *_parse_pin(str(path)))
    path = Path(path)
    if path.is_file():
        return Source(str(path), {WHOLE: partial(read_file, path)})
    if path.is_dir():
        return _root_source(dataset, path)
    raise DatasetError(f"{dataset.name}: {path} does not exist; give a file, a data root or hub:ID@COMMIT")


def _parse_pin(text: str) -> tuple[str, str]:
    """("ID", "COMMIT") of "hub:ID@COMMIT". Raises `DatasetError` unless the commit is written out in full."""
    repository, _, revision = text.removeprefix(_PREFIX).partition("@")
    if not repository or not COMMIT.fullmatch(revision):
        raise DatasetError(
            f"{text!r}: write hub:ID@COMMIT with all 40 digits of the commit; a branch or tag could move"
        )
    return repository, revision


def files_in_root(name: str, root: Path) -> list[Path]:
    """What a data root holds under `name`: NAME, NAME_train and NAME_test with a known suffix, and NAME/."""
    stems = (name, f"{name}_train", f"{name}_test")
    files = [root / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
    return [file for file in files if file.is_file()] + [root / name] * (root / name).is_dir()


def _pinned_source(dataset: Dataset) -> Source:
    by_hand = f"pass --data-root DIR with {dataset.name}.jsonl or {dataset.name}/ in it"
    if dataset.home:
        by_hand += f", from {dataset.home}"
    if dataset.hub is None:
        raise UnavailableDatasetError(
            f"{dataset.name}: no hub repository holds its original records; {by_hand}"
        )
    if dataset.revision is None:
        raise UnavailableDatasetError(
            f"{dataset.name}: no commit of {dataset.hub} has been verified; pin one with "
            f"path='hub:{dataset.hub}@COMMIT', or {by_hand}"
        )
    return _hub_source(dataset, dataset.hub, dataset.revision)


def _hub_source(dataset: Dataset, repository: str, revision: str) -> Source:
    label = f"{repository}@{revision}"
    if repository != dataset.hub or not dataset.hub_files:
        return _folder_source(dataset, dataset_files(repository, revision, suffixes=SUFFIXES), label)

    def read(name: str) -> Iterable[Row]:
        return read_file(dataset_files(repository, revision, [name]) / name)

    readers: dict[str, Reader] = {split: partial(read, name) for split, name in dataset.hub_files.items()}
    return Source(label, _parts(dataset, readers, label))


def _root_source(dataset: Dataset, root: Path) -> Source:
    found = files_in_root(dataset.name, root)
    parts = {TRAIN: f"{dataset.name}_train", TEST: f"{dataset.name}_test", WHOLE: dataset.name}
    named = {
        part: [file for file in found if file.is_file() and file.stem == stem] for part, stem in parts.items()
    }
    folders = [entry for entry in found if entry.is_dir()]
    ways = [named[TRAIN] + named[TEST], named[WHOLE], folders]
    if sum(map(bool, ways)) > 1 or any(len(files) > 1 for files in named.values()):
        names = ", ".join(entry.name for entry in found)
        raise DatasetError(f"{dataset.name}: {root} holds it more than once ({names}); keep one")
    if folders:
        return _folder_source(dataset, folders[0], str(folders[0]))
    if found:
        return Source(
            str(root), {part: partial(read_file, files[0]) for part, files in named.items() if files}
        )
    if root.name == dataset.name or _known_parts(dataset, root):
        return _folder_source(dataset, root, str(root))
    raise UnavailableDatasetError(
        f"{dataset.name}: {root} holds none of {dataset.name}.jsonl, {dataset.name}_train.jsonl with "
        f"{dataset.name}_test.jsonl (or .json, .parquet, .csv) and {dataset.name}/; put one there"
        + (f", from {dataset.home}" if dataset.home else "")
    )


def _folder_source(dataset: Dataset, folder: Path, label: str) -> Source:
    known = _known_parts(dataset, folder)
    if known:
        return Source(label, known)
    if not any(file.suffix.lower() in SUFFIXES for file in folder.rglob("*")):
        raise DatasetError(
            f"{dataset.name}: {folder} holds no {', '.join(SUFFIXES)} file; put the dataset's there"
        )
    readers = _read_repository(folder, dataset.config)
    if len(readers) == 1:
        (reader,) = readers.values()
        return Source(label, {WHOLE: reader})
    return Source(label, _parts(dataset, readers, label))


def _known_parts(dataset: Dataset, folder: Path) -> dict[str, Reader]:
    """The parts of a folder in the dataset's own layout or with its repository's very files; else none."""
    layout = dataset.read_folder
    if layout is not None and layout(folder) is not None:
        return {WHOLE: lambda: layout(folder) or ()}
    files = {split: folder / name for split, name in dataset.hub_files.items() if (folder / name).is_file()}
    readers: dict[str, Reader] = {split: partial(read_file, file) for split, file in files.items()}
    return _parts(dataset, readers, str(folder)) if readers else {}


def _parts(dataset: Dataset, readers: Mapping[str, Reader], label: str) -> dict[str, Reader]:
    """Split -> reader, as part -> reader: the splits that the dataset locates and evaluates on."""
    names = dataset.split_names
    kinds = (WHOLE,) if len(names) == 1 else (TRAIN, TEST)
    parts = {kind: readers[name] for kind, name in zip(kinds, names, strict=True) if name in readers}
    if not parts:
        raise DatasetError(
            f"{dataset.name}: {label} has the splits {', '.join(readers)}, but {' or '.join(names)} is "
            "needed; take another copy"
        )
    return parts


def read_file(path: Path) -> Iterator[Row]:
    """The records of one file, by its suffix.

    Raises `DatasetError` naming the file, and the line or record, for anything unreadable.
    """
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        return _read_table(path)
    if suffix == ".jsonl":
        return read_json_lines(path)
    if suffix == ".json":
        return _read_json(path)
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


def _read_json(path: Path) -> Iterator[Row]:
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


def _read_table(path: Path) -> Iterator[Row]:
    """The rows of one Parquet or CSV file; a value a row lacks is None."""
    with _datasets_library(path) as (hf_datasets, cache):
        if path.suffix.lower() == ".csv":
            # keep_default_na: "None" and "NA" are answers, not gaps
            table = hf_datasets.Dataset.from_csv(
                str(path), cache_dir=cache, keep_in_memory=True, keep_default_na=False
            )
        else:
            table = hf_datasets.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
    yield from _rows(table, str(path))


def _read_repository(folder: Path, config: str | None) -> dict[str, Callable[[], Iterator[Row]]]:
    """Split -> reader of a folder with a hub repository's files, by the rules of `datasets.load_dataset`.

    `config` is taken if the folder defines it, else its only one.
    """
    with _datasets_library(folder) as (hf_datasets, cache):
        configs = hf_datasets.get_dataset_config_names(str(folder))
        if config not in configs and len(configs) > 1:
            raise DatasetError(
                f"{folder}: holds the configurations {', '.join(configs)} but not {config!r}; keep one"
            )
        splits = hf_datasets.load_dataset(
            str(folder),
            config if config in configs else configs[0],
            cache_dir=cache,
            keep_in_memory=True,
        )
    return {name: partial(_rows, table, f"{folder} ({name})") for name, table in splits.items()}


def _rows(table: Any, where: str) -> Iterator[Row]:
    if not table.num_rows:
        raise DatasetError(f"{where}: the table has no record")
    for number, row in enumerate(table.to_list(), start=1):
        yield f"{where} record {number}", row


@contextmanager
def _datasets_library(path: Path) -> Iterator[tuple[Any, str]]:
    """The library, and a cache folder for it that is gone afterwards; no bars, no download counts; failures as
    `DatasetError`. It runs no code of a repository: it has had no loading scripts since version 4."""
    import datasets as hf_datasets  # takes a second

    bars = not hf_datasets.are_progress_bars_disabled()
    counts = hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    hf_datasets.disable_progress_bars()
    hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it asks the network about local files too
    try:
        with tempfile.TemporaryDirectory(prefix="caploc-") as cache:
            yield hf_datasets, cache
    except DatasetError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(
            f"{path}: the datasets library cannot read it ({reason}); check the files"
        ) from error
    finally:
        hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        if bars:
            hf_datasets.enable_progress_bars()
