"""CNL, commonality neuron localization: eq. (7)'s scores over a set of examples, cut by eq. (8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from caploc.attribution.engine import Attributor, Method, attribute
from caploc.examples import Example
from caploc.locators.method import Arrays, Asked, SampleMethod
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


@dataclass(frozen=True)
class CommonalityScores(SampleMethod):
    """Eq. (7) on one example, its whole answer: an entry is a shard of one example, as ``experiments.shards`` keeps."""

    what: ClassVar[str] = "score sums"

    method: Method

    @property
    def precise(self) -> bool:
        """One neuron at a time is."""
        return self.method.path == "neuron"

    def content(self, lm: LanguageModel, asked: Asked) -> Mapping[str, Any]:
        """How scores are computed, and the tokens."""
        return {"method": self.method.settings, "examples": [asked.tokens.content]}

    @contextmanager
    def measuring(self, lm: LanguageModel) -> Iterator[Callable[[Asked], Arrays]]:
        """An ``Attributor``."""
        with Attributor(lm, self.method) as attributor:
            yield lambda asked: attributor.sums([asked.tokens]).arrays()

    def evidence(self, lm: LanguageModel, arrays: Arrays) -> Float[np.ndarray, "layers neurons"]:
        """The scores."""
        return arrays["total"]
