"""What pytest loads wherever caploc is installed: the audit for a run that names a paper, so that its tests need no
conftest; for any other run nothing, not even an option."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

import caploc

PLUGIN = "caploc.audit.plugin"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, args: Iterable[str]) -> None:
    """Loads the plugin where ``--paper`` names a paper that is known here or a folder with one."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--paper", action="append", nargs="?", default=[], const="")
    values = [value for value in parser.parse_known_args(list(args))[0].paper if value]
    if any(map(_is_paper, [*values, *(part.strip() for value in values for part in value.split(","))])):
        early_config.pluginmanager.import_plugin(PLUGIN)


def _is_paper(name: str) -> bool:
    with suppress(OSError, RuntimeError):  # what no path could be
        places = (Path(caploc.__file__).parent / "papers" / name, Path(name).expanduser())
        return bool(name) and any((one / "paper.toml").is_file() for one in places)
    return False
