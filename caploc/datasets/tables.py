"""Reads Parquet, CSV and whole folders of a hub repository through the `datasets` library.

It runs no code of a repository: `datasets` has had no loading scripts since version 4.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets as hf_datasets

from caploc.datasets.base import Row
from caploc.errors import DatasetError


def read_table(path: Path) -> Iterator[Row]:
    """The rows of one Parquet or CSV file; a value a row lacks is None."""
    with _scratch(path) as cache:
        if path.suffix.lower() == ".csv":
            # keep_default_na: "None" and "NA" are answers, not gaps
            table = hf_datasets.Dataset.from_csv(
                str(path), cache_dir=cache, keep_in_memory=True, keep_default_na=False
            )
        else:
            table = hf_datasets.Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
    yield from _rows(table, str(path))


def read_repository(folder: Path, config: str | None) -> dict[str, Callable[[], Iterator[Row]]]:
    """Split -> reader of a folder with a hub repository's files, by the rules of `datasets.load_dataset`.

    `config` is taken if the folder defines it, else its only one.
    """
    with _scratch(folder) as cache:
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
def _scratch(path: Path) -> Iterator[str]:
    """A cache folder that is gone afterwards; no bars, no download counts; failures as `DatasetError`."""
    bars = not hf_datasets.are_progress_bars_disabled()
    counts = hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    hf_datasets.disable_progress_bars()
    hf_datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # it asks the network about local files too
    try:
        with tempfile.TemporaryDirectory(prefix="caploc-") as cache:
            yield cache
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
