"""Fetches files of a dataset repository at one pinned commit, and fails at once where there is no network.

`datasets.load_dataset` with a repository's name would retry for half a minute without network, and then take
any revision it finds in its cache; so the files are fetched here and read like local ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub as hub

from caploc.datasets.files import SUFFIXES
from caploc.errors import DatasetError, UnavailableDatasetError
from caploc.hub_errors import explain

COMMIT = re.compile(r"[0-9a-f]{40}")
PREFIX = "hub:"
TIMEOUT_SECONDS = 10


def parse_pin(text: str) -> tuple[str, str]:
    """("ID", "COMMIT") of "hub:ID@COMMIT". Raises `DatasetError` unless the commit is written out in full."""
    repository, _, revision = text.removeprefix(PREFIX).partition("@")
    if not repository or not COMMIT.fullmatch(revision):
        raise DatasetError(
            f"{text!r}: write hub:ID@COMMIT with all 40 digits of the commit; a branch or tag could move"
        )
    return repository, revision


def fetch(repository: str, revision: str, files: Iterable[str] = ()) -> Path:
    """The local folder with `files` (without any: all data files) of `repository` at commit `revision`.

    What is in the Hugging Face cache already is not fetched again, and needs no network. Raises
    `DatasetError` naming the repository, the cause and the way around if it is absent, gated or out of reach.
    """
    wanted = list(files)
    try:
        if not wanted or not all(_cached(repository, revision, name) for name in wanted):
            # one request without retries, so that a machine without network is told at once
            listing = hub.HfApi().dataset_info(repository, revision=revision, timeout=TIMEOUT_SECONDS)
            wanted = wanted or _data_files(repository, [entry.rfilename for entry in listing.siblings or ()])
        paths = [
            hub.hf_hub_download(repository, name, repo_type="dataset", revision=revision) for name in wanted
        ]
    except DatasetError:
        raise
    except (
        Exception
    ) as error:  # the HTTP library's errors are no common class across versions of the hub client
        page = f"https://huggingface.co/datasets/{repository}"
        reason = explain(repository, revision, page, "or pass --data-root with a local copy", error)
        raise UnavailableDatasetError(reason) from error
    return Path(paths[0]).parents[len(Path(wanted[0]).parts) - 1]


def _cached(repository: str, revision: str, name: str) -> bool:
    found = hub.try_to_load_from_cache(repository, name, revision=revision, repo_type="dataset")
    return isinstance(found, str)


def _data_files(repository: str, names: list[str]) -> list[str]:
    data = [name for name in names if name.lower().endswith(SUFFIXES)]
    if not data:
        raise DatasetError(f"{repository} holds no {', '.join(SUFFIXES)} file; name another repository")
    return data + [name for name in names if name == "README.md"]  # it may define configurations and splits
