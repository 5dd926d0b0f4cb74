"""caploc: audit claims about where language models keep knowledge and capabilities.

The names below are the public interface. They are imported on first use, so that ``import caploc`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caploc.attribution.engine import attribute
    from caploc.attribution.method import Tolerance
    from caploc.check import LocatorCheckError, check_locator, parametrize_with_locator_checks
    from caploc.datasets import load_examples
    from caploc.errors import CaplocError
    from caploc.examples import Example, tokenize
    from caploc.locators import LOCATORS, register_locator
    from caploc.metrics import Location, iou, neuron_ratio, overlap
    from caploc.model.loading import LanguageModel, load_model, untrained_twin
    from caploc.neurons import NeuronMask, NeuronScores

_HOMES = {
    "CaplocError": "caploc.errors",
    "Example": "caploc.examples",
    "LOCATORS": "caploc.locators",
    "LanguageModel": "caploc.model.loading",
    "Location": "caploc.metrics",
    "LocatorCheckError": "caploc.check",
    "NeuronMask": "caploc.neurons",
    "NeuronScores": "caploc.neurons",
    "Tolerance": "caploc.attribution.method",
    "attribute": "caploc.attribution.engine",
    "check_locator": "caploc.check",
    "iou": "caploc.metrics",
    "load_examples": "caploc.datasets",
    "load_model": "caploc.model.loading",
    "neuron_ratio": "caploc.metrics",
    "overlap": "caploc.metrics",
    "parametrize_with_locator_checks": "caploc.check",
    "register_locator": "caploc.locators",
    "tokenize": "caploc.examples",
    "untrained_twin": "caploc.model.loading",
}

__all__ = [
    "LOCATORS",
    "CaplocError",
    "Example",
    "LanguageModel",
    "Location",
    "LocatorCheckError",
    "NeuronMask",
    "NeuronScores",
    "Tolerance",
    "attribute",
    "check_locator",
    "iou",
    "load_examples",
    "load_model",
    "neuron_ratio",
    "overlap",
    "parametrize_with_locator_checks",
    "register_locator",
    "tokenize",
    "untrained_twin",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'caploc' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
