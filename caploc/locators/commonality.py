"""CNL, commonality neuron localization: eq. (7)'s scores over a set of examples, cut by eq. (8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caploc.attribution.engine import attribute
from caploc.examples import Example
from caploc.model.loading import LanguageModel
from caploc.neurons import Deviation, Dispersion, NeuronMask, Scope, Threshold


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    sigma: float = 6.0,
    dispersion: Dispersion = "std",
    scope: Scope = "model",
    deviation: Deviation = "absolute",
    **options: Any,
) -> NeuronMask:
    """The neurons whose mean score over ``examples`` lies outside ``sigma``, read as ``caploc.neurons.Threshold`` says.

    ``options`` go to ``caploc.attribute``; raises what that and ``NeuronScores.mask`` raise, a bad threshold before any
    work.
    """
    Threshold(sigma, dispersion, scope, deviation)
    return attribute(lm, examples, **options).mask(sigma, dispersion, scope, deviation)
