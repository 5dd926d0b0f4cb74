"""What decides the scores, beside the model and the examples: how eq. (7) is read, and how its integral is summed.

Rules for the integral over alpha: where the gradient is taken, and with which weight.

``paper``           the sum n = 0..S over S, as printed: S + 1 points, each with weight 1/S. For a constant gradient it
                    gives (S+1)/S, 20/19 at the paper's S = 19; it is the default because it is the paper's.
``trapezoid``       the same points with halved end weights.
``gauss-legendre``  S + 1 Gauss-Legendre points on [0, 1].
``adaptive``        for every layer and position as many points as reach a stated completeness error
                    (``integrate.integrate_adaptive``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from caploc.errors import OptionError

FIXED_RULES = ("paper", "trapezoid", "gauss-legendre")
QUADRATURES = (*FIXED_RULES, "adaptive")
PATHS = ("layer", "neuron")
VALUES = ("post", "pre")


def fixed_rule(name: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [0, 1] and weights, both ``[steps + 1]``, ascending.

    Raises:
        OptionError: an unknown rule, or ``steps`` below 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise OptionError(f"steps must be a whole number of at least 1, got {steps!r} (the paper uses 19)")
    if name == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(steps + 1)
        return (nodes + 1) / 2, weights / 2
    if name not in FIXED_RULES:
        raise OptionError(f"unknown fixed rule {name!r}; choose one of {', '.join(FIXED_RULES)}")
    nodes = np.arange(steps + 1) / steps
    weights = np.full(steps + 1, 1 / steps)
    if name == "trapezoid":
        weights[[0, -1]] /= 2
    return nodes, weights


@dataclass(frozen=True)
class Tolerance:
    """Bound on each (layer, position)'s completeness error: ``relative`` |P(1) - P(0)| + ``absolute``.

    ``most_points`` ends the refinement of a (layer, position) whose numbers are too noisy to reach it (bfloat16); the
    completeness error reported beside the scores then says so.

    Raises:
        OptionError: a tolerance that is not positive, or fewer than 5 points.
    """

    relative: float = 0.01
    absolute: float = 0.001
    most_points: int = 257

    def __post_init__(self) -> None:
        if not (self.relative >= 0 and self.absolute > 0):
            raise OptionError(
                f"tolerances must be positive, got relative {self.relative} and absolute {self.absolute}"
            )
        if self.most_points < 5:
            raise OptionError(
                f"the adaptive rule needs at least 5 points, got most_points={self.most_points}"
            )


@dataclass(frozen=True)
class Method:
    """How eq. (7) is read and computed.

    ==================  ======================================================================================
    ``steps``           S of the fixed rules
    ``quadrature``      how the integral is summed (above); without meaning for path "neuron"
    ``tolerance``       of the adaptive rule
    ``chunk_tokens``    tokens in a packed pass, None for automatic; changes scores by rounding only, and is no
                        part of ``settings``
    ``path``            ``layer``: all neurons of a layer are scaled together, as KN does. ``neuron``: each is
                        scaled alone while the others keep their values; its integral is then exactly
                        P(clean) - P(neuron at zero), one run a neuron and no sum (``integrate.one_neuron_scores``)
    ``value``           what a neuron's value is. ``post``: what enters the MLP's output projection. ``pre``: what
                        enters the nonlinearity, as in eq. (11); in a gated MLP the gate's, up keeps its value
                        (``packed.PreactivationModel``)
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
