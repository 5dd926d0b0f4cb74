"""Where a dataset's raw records live: the hub at a pinned commit, a data root, a folder, or one file.

A folder may hold more than the dataset. What is read of it is, in this order: the dataset's own layout; the files of
its hub repository, at their paths there; the files that the README's ``configs`` name; the only data file; else those
that are named for a split (``train.jsonl``, ``data/test-00000-of-00001.parquet``). Where there are several families of
such names (``train.jsonl``, ``train_socratic.jsonl``), the one below a folder called like the dataset's configuration
is taken, then the one called like split or dataset and nothing more; if that leaves more than one, none is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import huggingface_hub

from caploc.datasets.base import SUFFIXES, Dataset, Row, read_file
from caploc.errors import DatasetError, UnavailableDatasetError
from caploc.hub import COMMIT, dataset_files

TRAIN, TEST, WHOLE = "train", "test", "whole"
_PREFIX = "hub:"
_CARD = "README.md"
_METADATA = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")
_SPLIT_WORDS = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}
_SPLIT = "{split}"
_SHARD = re.compile(r"-\d{5}(?:-of-(\d{5}))?(?:-[0-9a-f]{16})?$")

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


def local_files(dataset: Dataset, path: str | PathLike[str]) -> list[Path]:
    """The files of data root ``path`` that may hold ``dataset``, whichever of them are read in the end."""
    root = Path(path)
    entries = files_in_root(dataset.name, root)
    if not entries and (root.name == dataset.name or _known_parts(dataset, root)):
        entries = [root]
    return [file for entry in entries for file in ([entry] if entry.is_file() else data_files(entry))]


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
    splits = _card_splits(dataset, folder)
    if splits is None:
        splits = _named_splits(dataset, folder)
    readers: dict[str, Reader] = {name: partial(_read_all, files) for name, files in splits.items()}
    return Source(label, readers if WHOLE in readers else _parts(dataset, readers, label))


def _read_all(files: Iterable[Path]) -> Iterator[Row]:
    return chain.from_iterable(map(read_file, files))


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
        raise _lacks_splits(dataset, label, ", ".join(readers))
    return parts


def _lacks_splits(dataset: Dataset, label: str, found: str) -> DatasetError:
    return DatasetError(
        f"{dataset.name}: {label} has the splits {found}, but {' or '.join(dataset.split_names)} is needed; take "
        "another copy"
    )


def _card_splits(dataset: Dataset, folder: Path) -> dict[str, list[Path]] | None:
    """Split -> files of the dataset's configuration, or the only one, in the README's header; None without any."""
    card = folder / _CARD
    try:
        header = huggingface_hub.metadata_load(card) if card.is_file() else None
        configs = {str(one["config_name"]): one for one in (header or {}).get("configs") or ()}
        if not configs:
            return None
        if dataset.config not in configs and len(configs) > 1:
            raise DatasetError(
                f"{folder}: holds the configurations {', '.join(configs)} but not {dataset.config!r}; keep one"
            )
        chosen = configs[str(dataset.config)] if dataset.config in configs else next(iter(configs.values()))
        home = folder / str(chosen.get("data_dir") or "")
        if "data_files" not in chosen:
            return _named_splits(dataset, home)
        patterns = _patterns(chosen["data_files"])
        found = {
            split: sorted({file for one in globs for file in _below(home, one)})
            for split, globs in patterns.items()
        }
    except DatasetError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DatasetError(
            f"{card}: its header's configs cannot be read ({reason}); correct or remove it"
        ) from error
    for split, files in found.items():
        if not files:
            raise DatasetError(
                f"{card}: names {', '.join(patterns[split])} for the {split} split, and {folder} holds no such file; "
                "get a complete copy"
            )
    return {WHOLE: next(iter(found.values()))} if len(found) == 1 else found


def _patterns(data_files: Any) -> dict[str, list[str]]:
    """Split -> patterns, of the ways to write them: one, a list, a list of ``split`` and ``path``, or a table."""
    if isinstance(data_files, str):
        return {TRAIN: [data_files]}
    if isinstance(data_files, Mapping):
        paths = data_files
    elif all(isinstance(one, str) for one in data_files):
        return {TRAIN: list(data_files)}
    else:
        paths = {str(one["split"]): one["path"] for one in data_files}
    return {split: [path] if isinstance(path, str) else list(path) for split, path in paths.items()}


def _below(folder: Path, pattern: str) -> Iterator[Path]:
    if ".." in Path(pattern).parts:
        raise ValueError(f"{pattern} leads out of the folder")
    return (file for file in folder.glob(pattern) if file.is_file())


def _named_splits(dataset: Dataset, folder: Path) -> dict[str, list[Path]]:
    """Split -> files, by the names of the files and of the folders they lie in."""
    tables: dict[Path, list[Path]] = {}  # the shards of one table under their common name
    for file in data_files(folder):
        name = file.relative_to(folder)
        tables.setdefault(name.with_name(_SHARD.sub("", name.stem) + name.suffix), []).append(file)
    if not tables:
        raise DatasetError(
            f"{dataset.name}: {folder} holds no {', '.join(SUFFIXES)} file; put the dataset's there"
        )
    if len(tables) == 1:
        return {WHOLE: _shards(dataset, folder, next(iter(tables.values())))}
    configured = [table for table in tables if dataset.config in table.parts[:-1]] or list(tables)
    families: dict[Path, list[tuple[str, Path]]] = {}
    for table in configured:
        split, family = _split_of(table)
        families.setdefault(family, []).append((split, table))
    named = {family: found for family, found in families.items() if found[0][0] != WHOLE} or families
    if len(named) > 1:
        wanted = {
            dataset.name,
            _SPLIT,
            f"{dataset.name}_{_SPLIT}",
            *map(_hub_family, dataset.hub_files.values()),
        }
        named = {family: found for family, found in named.items() if family.name in wanted} or named
    chosen = [one for found in named.values() for one in found if one[0] in (WHOLE, *dataset.split_names)]
    if not chosen:
        known = {split for found in named.values() for split, _ in found}
        raise _lacks_splits(dataset, str(folder), ", ".join(name for name in _SPLIT_WORDS if name in known))
    splits = dict(chosen)
    if len(named) > 1 or len(splits) < len(chosen):
        names = ", ".join(str(table) for _, table in chosen)
        raise DatasetError(
            f"{dataset.name}: {folder} holds several files that may be meant ({names}); "
            f"keep one for each split, or call those {', '.join(dataset.split_names)}"
        )
    if [*splits] == [dataset.split_names[0]]:
        splits = {WHOLE: splits.pop(dataset.split_names[0])}
    return {name: _shards(dataset, folder, tables[table]) for name, table in splits.items()}


def data_files(folder: Path) -> list[Path]:
    """The files below ``folder`` that may hold records: of a known type, not hidden, not the hub's own metadata."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.name not in _METADATA
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _split_of(table: Path) -> tuple[str, Path]:
    """The one split that the file's name holds as a word, or else the nearest folder's; `WHOLE` where none does. And
    the path without suffix and with `_SPLIT` for that word, which the files of one table's splits share."""
    parts = [*table.parts[:-1], table.stem]
    for place in reversed(range(len(parts))):
        words = re.split("([a-z]+)", parts[place].lower())
        named = [(split, word) for split, known in _SPLIT_WORDS.items() for word in known.intersection(words)]
        if len(named) == 1:
            split, word = named[0]
            parts[place] = "".join(_SPLIT if one == word else one for one in words)
            return split, Path(*parts)
    return WHOLE, Path(*parts)


def _hub_family(name: str) -> str:
    return _split_of(Path(Path(name).name))[1].name


def _shards(dataset: Dataset, folder: Path, files: list[Path]) -> list[Path]:
    """``files`` in order, if they are one file or the shards 00000 to N of N. Raises `DatasetError`."""
    marks = [_SHARD.search(file.stem) for file in files]
    totals = {mark and mark[1] for mark in marks}
    if totals - {None} and totals != {f"{len(files):05d}"}:
        names = ", ".join(file.name for file in files)
        raise DatasetError(
            f"{dataset.name}: {folder} holds some of several shards ({names}); get a complete copy"
        )
    return files
