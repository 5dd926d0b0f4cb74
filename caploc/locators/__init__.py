"""Methods that locate: one file each, one signature, one registry.

``LOCATORS[key].locate(lm, examples, **options)`` returns a location: something with ``overlap``, ``iou`` (see
``caploc.metrics``) and ``parameter_share(lm)``. Adding a method is a new file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from caploc.locators import commonality, knowledge_circuit, knowledge_neurons
from caploc.locators.causal_tracing.locate import locate as locate_by_tracing


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


_TABLE = (
    Locator("cnl", "commonality neurons", "Capability Localization, section 5.1", commonality.locate),
    Locator(
        "kn",
        "knowledge neurons",
        "Dai et al., 2022; Capability Localization, section 2.1",
        knowledge_neurons.locate,
    ),
    Locator(
        "rome",
        "causal tracing",
        "Meng et al., 2022; Capability Localization, section 2.2 and appendix C",
        locate_by_tracing,
    ),
    Locator(
        "kc",
        "knowledge circuits",
        "Yao et al., 2024; Capability Localization, section 2.3 and appendix D",
        knowledge_circuit.locate,
    ),
)

LOCATORS: Mapping[str, Locator] = MappingProxyType({locator.key: locator for locator in _TABLE})
