"""``import caploc``: cheap, and every name that it promises is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import caploc


def test_importing_caploc_imports_nothing_heavy() -> None:
    code = "import caploc, sys; dir(caploc); print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_names_resolve() -> None:
    assert caploc.__all__ == sorted(caploc.__all__, key=lambda name: (not name.isupper(), name))
    for name in caploc.__all__:
        assert getattr(caploc, name) is not None and name in dir(caploc)
    assert set(caploc.__all__) == set(caploc._HOMES)
    with pytest.raises(AttributeError, match="module 'caploc' has no attribute 'nonsense'"):
        caploc.nonsense  # noqa: B018
