"""Claims that range over sigmas have one cell for all of them."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.audit.cells import cell_parameters
from caploc.audit.claims import ClaimTest
from caploc.audit.settings import AuditSettings, read_settings
from caploc.defaults import DEFAULTS
from caploc.findings import Cell

BOTH = {"model": ["tiny-llama"], "dataset": ["gsm8k", "mbpp"], "sigma": ["3", "12"]}


def _read(**options: Any) -> AuditSettings:
    return read_settings(lambda name: options.get(name, DEFAULTS.get(name)))


@pytest.mark.parametrize("variants", [(), ("scope=layer",)])
def test_a_cell_for_all_sigmas_names_none(variants: tuple[str, ...]) -> None:
    settings = _read(**BOTH)
    cells = cell_parameters(ClaimTest("", None, all_sigmas=True), settings, lambda _: variants)
    names = ["tiny-llama-gsm8k", "tiny-llama-mbpp"]
    assert [one.id for one in cells] == [*names, *(f"{name}-scope-layer" for name in names if variants)]
    assert {one.values[0].cell.sigma for one in cells} == {None}
    of_model = cell_parameters(ClaimTest("", None, "model", all_sigmas=True), settings, lambda _: ())
    assert [one.id for one in of_model] == ["tiny-llama"]
    assert len(cell_parameters(ClaimTest("", None), settings, lambda _: ())) == 4


def test_expectations_speak_of_default_datasets_only() -> None:
    """A cell without a sigma is not one of single facts because of that."""
    settings = _read(**BOTH)
    assert settings.expectations_cover(Cell("tiny-llama", "gsm8k"))
    assert not settings.expectations_cover(Cell("tiny-llama", "mbpp"))
    assert settings.expectations_cover(Cell("tiny-llama", "zsre"))
