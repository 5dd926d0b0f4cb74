"""A run as JSON: where its numbers come from, written when it begins, and how every cell ended, when it ends.

`provenance` is the ledger's first line; `summary` is the file beside the ledger, which ``python -m caploc.audit
compare`` reads.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import caploc
from caploc.audit.expectations import key_of
from caploc.audit.results import Result, Status, flips
from caploc.audit.settings import AuditSettings
from caploc.audit.text import visible
from caploc.findings import plain
from caploc.fingerprints import fingerprint

if TYPE_CHECKING:
    from caploc.papers import Paper

KIND = "caploc audit"
SCHEMA = 2
"""Of the ledger and of the summary. In 1 a finding's numbers were flat quantities and p values, of one paper; in 2 they
are typed parts and asides, and every cell names its paper."""
PACKAGES = (
    "caploc",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "scipy",
    "safetensors",
    "pytest",
)
FINGERPRINTS = ("model_fingerprint", "data_fingerprint")


def provenance(
    settings: AuditSettings,
    models: Collection[str],
    papers: Iterable[Paper],
    root: Path,
    command: Iterable[str],
    data: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    """What is known when a run begins; device and dtype are those of each of ``models``, the labels of those that run.
    The machine is named by system and processor, never by its host name. ``data``: dataset -> file -> sha256, taken
    once: no process of the run reads anything else."""
    commit, dirty = _git(root)
    placed = {one.label: settings.placement(one.model) for one in settings.models if one.label in models}
    return {
        "schema": SCHEMA,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": package_versions(),
        "settings": {
            **asdict(settings),
            "device": {label: device for label, (device, _) in placed.items()},
            "dtype": {label: dtype for label, (_, dtype) in placed.items()},
        },
        "papers": {paper.key: paper.digest for paper in papers},
        "data": data,
    }


def data_digests(head: Mapping[str, Any]) -> dict[str, str]:
    """Dataset -> a hash of its files' contents, of a ledger's first line."""
    data: Mapping[str, Mapping[str, str]] = head.get("data", {})
    return {name: fingerprint(sorted(files.values()))[:16] for name, files in data.items()}


def fingerprints(results: Iterable[Result]) -> dict[str, str]:
    """The content hashes of models and of datasets (as each model tokenizes them) in the findings' settings: several
    where findings rest on several subsets of a dataset.

    Cells under other readings are left out: they may read a dataset in another form.
    """
    found: dict[str, set[str]] = {}
    for result in results:
        settings: Mapping[str, Any] = (result.finding or {}).get("settings") or {}
        cell = result.planned.cell
        if cell.variant:
            continue
        names = (f"model {cell.model}", f"data {cell.dataset or 'across datasets'} for {cell.model}")
        for key, name in zip(FINGERPRINTS, names, strict=True):
            if isinstance(settings.get(key), str):
                found.setdefault(name, set()).add(settings[key])
    return {name: ", ".join(sorted(known)) for name, known in sorted(found.items())}


def left_out(results: Iterable[Result]) -> list[str]:
    """What findings say of records that they do not rest on: how many of which dataset, and why."""
    notes = (note for result in results for note in (result.finding or {}).get("notes") or ())
    return sorted({note for note in notes if " left out: " in note})


def summary(
    run: str, results: Sequence[Result], derived: Sequence[Result], head: Mapping[str, Any]
) -> dict[str, Any]:
    """The run as JSON data; ``head`` is the ledger's first line as the run ends."""
    first = {key: value for key, value in head.items() if key not in ("type", "run")}
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "run": run,
        "provenance": {**first, "data": data_digests(head), "fingerprints": fingerprints(results)},
        **outcome(results),
        "derived": [_follows(result) for result in derived],
        "cells": [_cell(result) for result in results],
    }


def outcome(results: Sequence[Result]) -> dict[str, Any]:
    """The run in counts and lists: every cell that moved, erred, is missing or was not run, with the reason.

    ``counts`` are of the run's own reading of the paper, ``other_readings`` of the cells that ``--sensitivity`` adds.
    """
    own = [result for result in results if not result.planned.cell.variant]
    others = [result for result in results if result.planned.cell.variant]
    return {
        "counts": _counts(own),
        "other_readings": _counts(others) if others else {},
        "moved": {key_of(result.planned): result.moved for result in results if result.moved is not None},
        "missing": _reasons(results, Status.MISSING),
        "errors": _reasons(results, Status.ERROR),
        "not_run": _reasons(results, Status.NOT_RUN),
        "flips": [
            {
                "test": key_of(flip.base.planned),
                "claim": flip.base.planned.claim,
                "status": flip.base.status,
                "others": {other.planned.cell.variant: other.status for other in flip.others},
            }
            for flip in flips(results)
        ],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict ASCII JSON atomically, one entry a line."""
    text = json.dumps(plain(content), allow_nan=False, indent=1)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text + "\n", encoding="ascii")
    os.replace(temporary, path)


def _counts(results: Iterable[Result]) -> dict[str, int]:
    statuses = [result.status for result in results]
    return {status.value: statuses.count(status) for status in Status}


def _reasons(results: Iterable[Result], status: Status) -> dict[str, str]:
    return {key_of(result.planned): visible(result.reason) for result in results if result.status is status}


def _cell(result: Result) -> dict[str, Any]:
    cell = result.planned.cell
    finding: Mapping[str, Any] = result.finding or {}
    return {
        "test": result.planned.test,
        "paper": result.planned.paper,
        "claim": result.planned.claim,
        "model": cell.model,
        "dataset": cell.dataset,
        "sigma": cell.sigma,
        "variant": cell.variant,
        "status": result.status,
        "reason": visible(result.reason),
        **{name: finding.get(name) for name in ("estimate", "interval", "unit", "chance")},
        **{name: getattr(result, name) for name in ("p", "p_holm", "p_by", "tests", "after_holm")},
        **{name: finding.get(name) for name in ("published", "n", "draws")},
        "expected": result.expected,
        "moved": result.moved,
    }


def _follows(result: Result) -> dict[str, Any]:
    return {
        "paper": result.planned.paper,
        "claim": result.planned.claim,
        "model": result.planned.cell.model,
        "status": result.status,
        "reason": visible(result.reason),
    }


def package_versions() -> dict[str, str | None]:
    """The versions of the packages that numbers come from."""
    return {name: _version(name) for name in PACKAGES}


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
