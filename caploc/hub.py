"""The Hugging Face hub: a model's or dataset's files at one pinned commit, and what the hub's refusals mean.

Files are fetched by name and then read like local ones. Neither ``from_pretrained`` nor ``datasets.load_dataset`` is
given a repository: both retry for half a minute where there is no network, and ``load_dataset`` then takes any revision
that it finds in its cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from caploc.errors import DatasetError, UnavailableDatasetError, UnavailableModelError

COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_SECONDS = 10
# no pickles, no code; a repository's subfolders and "consolidated" files hold the same weights in other formats
_OF_A_MODEL = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_NOT_OF_A_MODEL = ["*/*", "consolidated*"]


def model_snapshot(repository: str, commit: str) -> Path:
    """The local folder with configuration, tokenizer and safetensors of model ``repository`` at ``commit``.

    What is in the Hugging Face cache already is not fetched again, and is enough where there is no network.

    Args:
        commit: 40 hexadecimal digits.

    Raises:
        UnavailableModelError: gated, absent, no such commit, or out of reach; with the remedy.
    """
    try:
        # one request without retries, so that a machine without network is told at once
        huggingface_hub.HfApi().model_info(repository, revision=commit, timeout=TIMEOUT_SECONDS)
        return _download(repository, commit)
    except Exception as error:  # the HTTP library's errors have no common class across versions of the client
        cached = _cached_snapshot(repository, commit)
        if cached is None:
            page = f"https://huggingface.co/{repository}"
            local = "or pass a folder with a local copy"
            raise UnavailableModelError(
                _explain(f"model {repository!r}", commit, page, local, error)
            ) from error
        return cached


def dataset_files(
    repository: str, commit: str, names: Iterable[str] = (), suffixes: tuple[str, ...] = ()
) -> Path:
    """The local folder with the files ``names`` of dataset ``repository`` at ``commit``; without names, all files that
    end in one of ``suffixes``, and the README, which may define configurations and splits.

    What is in the Hugging Face cache already is not fetched again, and needs no network.

    Raises:
        DatasetError: the repository holds no such file.
        UnavailableDatasetError: gated, absent, no such commit, or out of reach; with the remedy.
    """
    wanted = list(names)
    try:
        if not wanted or not all(_is_cached(repository, commit, name) for name in wanted):
            # one request without retries, so that a machine without network is told at once
            listing = huggingface_hub.HfApi().dataset_info(
                repository, revision=commit, timeout=TIMEOUT_SECONDS
            )
            found = [entry.rfilename for entry in listing.siblings or ()]
            wanted = wanted or _data_files(repository, found, suffixes)
        paths = [
            huggingface_hub.hf_hub_download(repository, name, repo_type="dataset", revision=commit)
            for name in wanted
        ]
    except DatasetError:
        raise
    except Exception as error:  # the HTTP library's errors have no common class across versions of the client
        page = f"https://huggingface.co/datasets/{repository}"
        local = "or pass --data-root with a local copy"
        raise UnavailableDatasetError(_explain(repository, commit, page, local, error)) from error
    return Path(paths[0]).parents[len(Path(wanted[0]).parts) - 1]


def _explain(what: str, commit: str, page: str, local: str, error: Exception) -> str:
    """Why ``what`` could not be fetched at ``commit``, and the remedy.

    Args:
        what: how to call it, "model 'ORG/NAME'" say.
        page: its address on the hub.
        local: the way around the hub, "or pass ...".
        error: what the hub's client raised.
    """
    match error:  # a gated repository is also a kind of one that is not found
        case GatedRepoError():
            return f"{what} is gated: accept its licence at {page}, log in with `hf auth login`, {local}"
        case RepositoryNotFoundError():
            return f"{what} is not on the hub, or private: check the name, `hf auth login`, {local}"
        case RevisionNotFoundError():
            return f"{what} has no commit {commit} on the hub: pin one that {page} shows, {local}"
        case OfflineModeIsEnabled():
            return f"{what} is not in the cache and HF_HUB_OFFLINE is set: unset it, {local}"
        case EntryNotFoundError():
            return f"{what}@{commit[:7]} lacks a file that is needed: pin another commit, {local}"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"{what} cannot be fetched ({type(error).__name__}: {reason}): check the network, {local}"


def _cached_snapshot(repository: str, commit: str) -> Path | None:
    try:
        return _download(repository, commit, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _download(repository: str, commit: str, local_files_only: bool = False) -> Path:
    folder = huggingface_hub.snapshot_download(
        repository,
        revision=commit,
        allow_patterns=_OF_A_MODEL,
        ignore_patterns=_NOT_OF_A_MODEL,
        local_files_only=local_files_only,
    )
    return Path(folder)


def _is_cached(repository: str, commit: str, name: str) -> bool:
    found = huggingface_hub.try_to_load_from_cache(repository, name, revision=commit, repo_type="dataset")
    return isinstance(found, str)


def _data_files(repository: str, names: list[str], suffixes: tuple[str, ...]) -> list[str]:
    data = [name for name in names if name.lower().endswith(suffixes)]
    if not data:
        raise DatasetError(f"{repository} holds no {', '.join(suffixes)} file; name another repository")
    return data + [name for name in names if name == "README.md"]
