"""Rules for the integral over alpha in eq. (7): where the gradient is taken, and with which weight.

``paper``           the sum n = 0..S over S, as printed: S + 1 points, each with weight 1/S. For a constant gradient it
                    gives (S+1)/S, 20/19 at the paper's S = 19; it is the default because it is the paper's.
``trapezoid``       the same points with halved end weights.
``gauss-legendre``  S + 1 Gauss-Legendre points on [0, 1].
``adaptive``        for every layer and position as many points as reach a stated completeness error
                    (``caploc.attribution.adaptive``).
"""

from __future__ import annotations

import numpy as np

from caploc.errors import OptionError

FIXED_RULES = ("paper", "trapezoid", "gauss-legendre")
QUADRATURES = (*FIXED_RULES, "adaptive")


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
