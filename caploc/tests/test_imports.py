"""The library, which is what the wheel holds, stands without its tests, its benchmarks and what only they need."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import caploc

HOME = Path(caploc.__file__).resolve().parent
PROJECT = HOME.parent / "pyproject.toml"
CONSTRAINTS = HOME.parent / "constraints.txt"
LEFT_OUT = ("tests", "benchmarks")
NOT_INSTALLED = {name.lower().replace("_", "-") for name in sys.stdlib_module_names} | {"caploc", "fixtures"}


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


def test_every_package_that_is_imported_is_declared_and_pinned() -> None:
    with PROJECT.open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = {name: distributions(lines) for name, lines in project["optional-dependencies"].items()}
    declared = distributions(project["dependencies"])
    for_the_library = {distribution(name) for _, name in imports_of_the_library()} - NOT_INSTALLED
    optional = {name for extra in extras.keys() - {"test", "lint"} for name in extras[extra]}
    assert for_the_library - declared - optional == set()
    of_tests = {distribution(name) for file in HOME.rglob("*.py") for name in imported(file)} - NOT_INSTALLED
    assert of_tests - declared - optional - extras["test"] == set()
    assert {"torch", "pillow", "pytest-metadata"} <= for_the_library and "hypothesis" in of_tests
    if CONSTRAINTS.is_file():  # it comes with the repository
        pins = dict(
            line.split("==") for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines() if "==" in line
        )
        assert declared.union(*extras.values()) - pins.keys() == set()


def distributions(requirements: Iterable[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line).group().lower().replace("_", "-") for line in requirements}  # type: ignore[union-attr]


def distribution(name: str) -> str:
    """The installed package that a dotted name is imported from."""
    top = name.partition(".")[0]
    return {"PIL": "pillow"}.get(top, top.lower().replace("_", "-"))


def test_the_wheel_leaves_out_tests_and_benchmarks() -> None:
    with PROJECT.open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {
        "packages": ["caploc"],
        "exclude": [f"caploc/{name}" for name in LEFT_OUT],
        "force-include": {"fixtures/zoo": "caploc/zoo/data"},
    }
    assert (PROJECT.parent / "fixtures" / "zoo" / "zoo.json").is_file()
