"""What decides the scores, beside the model and the examples."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from caploc.attribution.adaptive import Tolerance
from caploc.attribution.quadrature import QUADRATURES, fixed_rule
from caploc.errors import OptionError

PATHS = ("layer", "neuron")
VALUES = ("post", "pre")


@dataclass(frozen=True)
class Method:
    """How eq. (7) is read and computed.

    ==================  ======================================================================================
    ``steps``           S of the fixed rules
    ``quadrature``      how the integral is summed (``attribution.quadrature``); without meaning for path "neuron"
    ``tolerance``       of the adaptive rule
    ``chunk_tokens``    tokens in a packed pass, None for automatic; changes scores by rounding only, and is no
                        part of ``settings``
    ``path``            ``layer``: all neurons of a layer are scaled together, as KN does. ``neuron``: each is
                        scaled alone while the others keep their values; its integral is then exactly
                        P(clean) - P(neuron at zero), one run a neuron and no sum (``attribution.one_neuron``)
    ``value``           what a neuron's value is. ``post``: what enters the MLP's output projection. ``pre``: what
                        enters the nonlinearity, as in eq. (11); in a gated MLP the gate's, up keeps its value
                        (``attribution.preactivation``)
    ==================  ======================================================================================

    Raises:
        OptionError: a value that makes no sense.
    """

    steps: int = 19
    quadrature: str = "paper"
    tolerance: Tolerance = field(default_factory=Tolerance)
    chunk_tokens: int | None = None
    path: str = "layer"
    value: str = "post"

    def __post_init__(self) -> None:
        for name, choices in (("quadrature", QUADRATURES), ("path", PATHS), ("value", VALUES)):
            if getattr(self, name) not in choices:
                raise OptionError(
                    f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if self.quadrature != "adaptive":
            fixed_rule(self.quadrature, self.steps)
        if self.chunk_tokens is not None and self.chunk_tokens < 1:
            raise OptionError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")

    @property
    def settings(self) -> dict[str, Any]:
        """What the results are keyed by and the finding records; path and value where they are not the default."""
        value = {"value": self.value} if self.value != "post" else {}
        if self.path == "neuron":
            return {"path": "neuron", "quadrature": "exact", **value}
        if self.quadrature == "adaptive":
            return {"quadrature": "adaptive", **asdict(self.tolerance), **value}
        return {"quadrature": self.quadrature, "steps": self.steps, **value}
