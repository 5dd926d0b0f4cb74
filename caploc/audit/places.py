"""Where a run's files lie: in the project whose claims it audits, whatever pytest's rootdir, its configuration and the
folder that it was started in.

A project keeps the tests of a paper NAME in ``claims/NAME/``, what was reviewed in ``fixtures/expected.toml``, and its
reports in ``reports/``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from caploc.audit.results import Planned
from caploc.audit.settings import path_of
from caploc.audit.text import visible

CLAIMS = "claims"
EXPECTATIONS = Path("fixtures") / "expected.toml"
LEDGER = Path("reports") / "ledger.jsonl"


def project_of(path: Path) -> Path | None:
    """The nearest folder, from the path upwards, that has a folder ``claims``."""
    return next((one for one in (path, *path.parents) if (one / CLAIMS).is_dir()), None)


def project_of_run(config: pytest.Config) -> Path:
    """The project of the first argument that lies in one, or else the folder that pytest was started in."""
    start = config.invocation_params.dir
    given = (_absolute(start / one.partition("::")[0]) for one in config.args)
    found = (project_of(path) for path in given if os.path.lexists(path))
    return next((one for one in found if one is not None), start)


def expectations_of(folder: Path) -> Path:
    """The file of expectations for the tests in this folder; beside it where no folder ``claims`` is around."""
    return (project_of(folder) or folder.parent) / EXPECTATIONS


def _absolute(path: Path) -> Path:
    """The path without ``..``, and links as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib only knows resolve, which follows links


def html_path(config: pytest.Config) -> Path | None:
    """The report that was asked for, as pytest-html understands it. Raises `pytest.UsageError` where none can be."""
    html = config.getoption("htmlpath", None)
    if not html:
        return None
    path = _absolute(path_of("--html", html))
    nearest = next(one for one in path.parents if os.path.lexists(one))
    why = ""
    if path.suffix in (".json", ".jsonl"):
        why = f"the ending {path.suffix} is the ledger's; name it .html"
    elif path.is_dir():
        why = "is a folder; give a file in it, such as audit.html"
    elif not nearest.is_dir():
        why = f"{nearest} is no folder; give another place"
    if why:
        raise pytest.UsageError(f"--html {visible(html, 200)}: {visible(why)}")
    return path


def one_folder_each(items: Iterable[pytest.Item], planned: pytest.StashKey[Planned]) -> dict[str, Path]:
    """The folder of each paper's tests. Raises `pytest.UsageError` where a paper has two, or two tests go by one name:
    expectations, reports and comparisons tell cells apart by paper and test."""
    folders: dict[str, Path] = {}
    places: dict[tuple[str, str], str] = {}
    for item in items:
        if planned not in item.stash:
            continue
        cell = item.stash[planned]
        if folders.setdefault(cell.paper, item.path.parent) != item.path.parent:
            raise pytest.UsageError(
                f"the claims of {cell.paper} stand in {folders[cell.paper]} and in {item.path.parent}; audit one of "
                "them at a time"
            )
        if (first := places.setdefault((cell.paper, cell.test), cell.nodeid)) != cell.nodeid:
            raise pytest.UsageError(
                f"{first} and {cell.nodeid} go by one name, by which expectations and reports know a cell; rename one"
            )
    return folders
