"""A whole run as one JSON file: counts, an entry a cell, verdicts that follow, and where the numbers come from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caploc.audit.results import Result, Status
from caploc.audit.sensitivity import flips
from caploc.audit.summary import SCHEMA, fingerprints
from caploc.audit.text import visible
from caploc.findings import plain

KIND = "caploc audit"


def summary(
    run: str, results: Sequence[Result], derived: Sequence[Result], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The run as JSON data; ``provenance`` is the ledger's first line."""
    head = {key: value for key, value in provenance.items() if key not in ("type", "run")}
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "run": run,
        "provenance": {**head, "fingerprints": fingerprints(results)},
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
        "moved": {result.planned.test: result.moved for result in results if result.moved is not None},
        "missing": _reasons(results, Status.MISSING),
        "errors": _reasons(results, Status.ERROR),
        "not_run": _reasons(results, Status.NOT_RUN),
        "flips": [
            {
                "test": flip.base.planned.test,
                "claim": flip.base.planned.claim,
                "status": flip.base.status,
                "others": {other.planned.cell.variant: other.status for other in flip.others},
            }
            for flip in flips(results)
        ],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes strict ASCII JSON in one go, one line an entry, so that a reader never sees half a file."""
    text = json.dumps(plain(content), allow_nan=False, indent=1)
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text + "\n", encoding="ascii")
    os.replace(temporary, path)


def _counts(results: Iterable[Result]) -> dict[str, int]:
    statuses = [result.status for result in results]
    return {status.value: statuses.count(status) for status in Status}


def _reasons(results: Iterable[Result], status: Status) -> dict[str, str]:
    return {result.planned.test: visible(result.reason) for result in results if result.status is status}


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
        "claim": result.planned.claim,
        "model": result.planned.cell.model,
        "status": result.status,
        "reason": visible(result.reason),
    }
