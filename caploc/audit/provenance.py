"""Where a run's numbers come from: code, packages, machine, settings, the paper's rules."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import caploc
from caploc.audit.results import Result
from caploc.audit.settings import AuditSettings
from caploc.papers import Paper

PACKAGES = (
    "caploc",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "safetensors",
    "pytest",
)
SCHEMA = 2
"""Of the ledger and of the summary. 1: a finding's numbers lay in flat quantities and p values, and there was one paper.
2: they are typed parts and asides, and every cell names its paper."""
FINGERPRINTS = ("model_fingerprint", "data_fingerprint")


def provenance(settings: AuditSettings, papers: Iterable[Paper], root: Path, command: Iterable[str]) -> dict[str, Any]:
    """What is known when a run begins. The machine is named by system and processor, never by its host name."""
    commit, dirty = _git(root)
    return {
        "schema": SCHEMA,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in PACKAGES},
        "settings": asdict(settings),
        "papers": {paper.key: paper.digest for paper in papers},
    }


def fingerprints(results: Iterable[Result]) -> dict[str, str]:
    """The content hashes of models, and of datasets as each model's tokens, that findings name in their settings.

    Cells under other readings are left out: they may read a dataset in another form.
    """
    found: dict[str, str] = {}
    for result in results:
        settings: Mapping[str, Any] = (result.finding or {}).get("settings") or {}
        cell = result.planned.cell
        if cell.variant:
            continue
        names = (f"model {cell.model}", f"data {cell.dataset} for {cell.model}")
        for key, name in zip(FINGERPRINTS, names, strict=True):
            if isinstance(settings.get(key), str):
                found[name] = settings[key]
    return dict(sorted(found.items()))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return caploc.__version__ if name == "caploc" else None  # run from a checkout


def _git(root: Path) -> tuple[str | None, bool | None]:
    """The commit and whether tracked or new files differ from it; (None, None) outside a repository."""
    answers = []
    for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        try:
            answer = subprocess.run(
                ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None, None
        answers.append(answer.stdout.strip())
    return answers[0], bool(answers[1])
