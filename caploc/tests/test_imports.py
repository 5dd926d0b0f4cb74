"""The library, which is what the wheel holds, stands without its tests, its benchmarks and what only they need."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import caploc

HOME = Path(caploc.__file__).resolve().parent
PROJECT = HOME.parent / "pyproject.toml"
LEFT_OUT = ("tests", "benchmarks")


def imported(source: Path) -> Iterator[str]:
    """Dotted names of all that a module imports, wherever in it, modules and what is taken from them."""
    for node in ast.walk(ast.parse(source.read_bytes(), str(source))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0, f"{source}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports_of_the_library() -> list[tuple[str, str]]:
    """Module and what it imports."""
    files = [file for file in HOME.rglob("*.py") if file.relative_to(HOME).parts[0] not in LEFT_OUT]
    return sorted({(str(file.relative_to(HOME)), name) for file in files for name in imported(file)})


def test_the_library_imports_nothing_that_the_wheel_leaves_out() -> None:
    left_out = tuple(f"caploc.{name}." for name in LEFT_OUT)
    assert [pair for pair in imports_of_the_library() if f"{pair[1]}.".startswith(left_out)] == []
    assert ("neurons.py", "torch") in imports_of_the_library()  # the scan sees imports


def test_the_library_imports_no_package_of_the_tests_own() -> None:
    with PROJECT.open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["test"]
    own = {requirement.partition(">=")[0] for requirement in extra}
    assert own == {"beartype", "captum", "html5lib"}  # each is imported by its own name
    assert [pair for pair in imports_of_the_library() if pair[1].partition(".")[0] in own] == []


def test_the_wheel_leaves_out_tests_and_benchmarks() -> None:
    with PROJECT.open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["caploc"], "exclude": [f"caploc/{name}" for name in LEFT_OUT]}
