"""Methods that locate: one file each, one signature, one registry.

``LOCATORS[key].locate(lm, examples, **options)`` returns a location: something with ``overlap``, ``iou`` (see
``caploc.metrics``) and ``parameter_share(lm)``. Adding a method is a new file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from caploc.locators import commonality


@dataclass(frozen=True)
class Locator:
    """One method: its key, its name, where it is described, and ``locate(lm, examples, **options)``."""

    key: str
    name: str
    source: str
    locate: Callable[..., Any]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """``locate`` itself."""
        return self.locate(*args, **options)


_TABLE = (Locator("cnl", "commonality neurons", "Capability Localization, section 5.1", commonality.locate),)

LOCATORS: Mapping[str, Locator] = MappingProxyType({locator.key: locator for locator in _TABLE})
