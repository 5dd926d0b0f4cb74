"""CNL, commonality neuron localization: eq. (7)'s scores over a set of examples, cut by eq. (8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caploc.attribution.engine import attribute
from caploc.examples import Example
from caploc.models import LanguageModel
from caploc.neurons import Dispersion, NeuronMask


def locate(
    lm: LanguageModel,
    examples: Sequence[Example],
    sigma: float = 6.0,
    dispersion: Dispersion = "std",
    **options: Any,
) -> NeuronMask:
    """The neurons whose mean score over ``examples`` lies outside ``sigma``.

    ``options`` go to ``caploc.attribute``; raises what that and ``NeuronScores.mask`` raise.
    """
    return attribute(lm, examples, **options).mask(sigma, dispersion)
