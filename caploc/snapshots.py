"""A hub repository of a model, at one commit, as a local folder: configuration, tokenizer and safetensors only."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub as hub
from huggingface_hub.errors import LocalEntryNotFoundError

from caploc.errors import UnavailableModelError
from caploc.hub_errors import explain

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
            page = f"https://huggingface.co/{repository}"
            reason = explain(
                f"model {repository!r}", commit, page, "or pass a folder with a local copy", error
            )
            raise UnavailableModelError(reason) from error
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
