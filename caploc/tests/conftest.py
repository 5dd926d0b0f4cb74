"""Checks the declared tensor shapes of some modules whenever the library's tests call into them.

The hook acts on modules that are imported after it, so it stands in this file, which pytest reads before any test.
"""

from __future__ import annotations

from importlib.util import find_spec

SHAPE_CHECKED = ("caploc.neurons", "caploc.examples")

if find_spec("beartype") is not None:
    from jaxtyping import install_import_hook

    from caploc.tests import shapes

    install_import_hook(SHAPE_CHECKED, f"{shapes.__name__}.{shapes.check_shapes.__name__}")
