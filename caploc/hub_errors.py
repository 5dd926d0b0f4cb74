"""What the hub's refusals mean and what to do about them: one line, the same for models and datasets."""

from __future__ import annotations

from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


def explain(what: str, commit: str, page: str, local: str, error: Exception) -> str:
    """Why ``what`` could not be fetched at ``commit``, and the remedy.

    Args:
        what: how to call it, "model 'ORG/NAME'" say.
        page: its address on the hub.
        local: the way around the hub, "or pass ...".
        error: what the hub's client raised; the HTTP library's errors have no common class across its versions.
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
