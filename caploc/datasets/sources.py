"""Finds where a dataset's records live: the hub at a pinned commit, a data root, a folder, or one file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

from caploc.datasets.base import Dataset, Row
from caploc.datasets.files import SUFFIXES, read_file
from caploc.errors import DatasetError, UnavailableDatasetError
from caploc.hub import COMMIT, dataset_files

TRAIN, TEST, WHOLE = "train", "test", "whole"
_PREFIX = "hub:"

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
    from caploc.datasets.tables import read_repository  # `datasets` takes a second to import

    readers = read_repository(folder, dataset.config)
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
