"""Checks the declared tensor shapes of some modules whenever the library's tests call into them; and a hub for tests.

The hook acts on modules that are imported after it, so it stands in this file, which pytest reads before any test.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.tests.hub_server import FakeHub

SHAPE_CHECKED = ("caploc.neurons", "caploc.examples")

if find_spec("beartype") is not None:
    from jaxtyping import install_import_hook

    from caploc.tests import shapes

    install_import_hook(SHAPE_CHECKED, f"{shapes.__name__}.{shapes.check_shapes.__name__}")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that the client talks to, with nothing on it yet."""
    from caploc.tests.hub_server import FakeHub, serving

    fake = FakeHub()
    with serving(fake.answer, tmp_path / "hub-cache", monkeypatch):
        yield fake
