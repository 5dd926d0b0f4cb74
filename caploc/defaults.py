"""The audit's defaults, as they are written on the command line; None where the default depends on the model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "samples": None,
        "draws": "100",
        "store": None,
        "device": "auto",
        "dtype": "auto",
        "seed": "0",
        "steps": "19",
        "quadrature": None,
    }
)
