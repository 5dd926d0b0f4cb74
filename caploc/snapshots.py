"""A hub repository of a model, at one commit, as a local folder: configuration, tokenizer and safetensors only."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub as hub
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from caploc.errors import UnavailableModelError

TIMEOUT_SECONDS = 10
# no pickles, no code; a repository's subfolders and "consolidated" files hold the same weights in other formats
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]


def snapshot(repository: str, commit: str) -> Path:
    """The local folder with the model files of ``repository`` at ``commit`` (40 hexadecimal digits).

    What is in the Hugging Face cache already is not fetched again, and is enough where there is no network.

    Raises:
        UnavailableModelError: gated, absent, no such commit, or out of reach; with the remedy.
    """
    try:
        # one request without retries: the client's other calls retry for half a minute where there is no network
        hub.HfApi().model_info(repository, revision=commit, timeout=TIMEOUT_SECONDS)
        return _download(repository, commit)
    except Exception as error:  # the HTTP library's errors have no common class across versions of the client
        cached = _cached(repository, commit)
        if cached is None:
            raise UnavailableModelError(_explain(repository, commit, error)) from error
        return cached


def _cached(repository: str, commit: str) -> Path | None:
    try:
        return _download(repository, commit, local_files_only=True)
    except LocalEntryNotFoundError:
        return None


def _download(repository: str, commit: str, local_files_only: bool = False) -> Path:
    folder = hub.snapshot_download(
        repository,
        revision=commit,
        allow_patterns=_WANTED,
        ignore_patterns=_UNWANTED,
        local_files_only=local_files_only,
    )
    return Path(folder)


def _explain(repository: str, commit: str, error: Exception) -> str:
    page = f"https://huggingface.co/{repository}"
    local = "or pass a folder with a local copy"
    match error:  # a gated repository is also a kind of one that is not found
        case GatedRepoError():
            return f"model {repository!r} is gated: accept its licence at {page}, log in with `hf auth login`, {local}"
        case RepositoryNotFoundError():
            return f"model {repository!r} is not on the hub, or private: check the name, `hf auth login`, {local}"
        case RevisionNotFoundError():
            return (
                f"model {repository!r} has no commit {commit} on the hub: pin one that {page} shows, {local}"
            )
        case OfflineModeIsEnabled():
            return f"model {repository!r} is not in the cache and HF_HUB_OFFLINE is set: unset it, {local}"
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"model {repository!r} cannot be fetched ({type(error).__name__}: {reason}): check the network, {local}"
