"""What is evaluated: embedded models and datasets, and random sets of neurons to erase."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

import caploc
from caploc.benchmarks.models import DATA
from caploc.evaluation import Prepared, prepare
from caploc.locators.magnitude import random_sets
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.oracles.evaluation import Way


@dataclass(frozen=True)
class Case:
    """One model and dataset, ``neurons`` random ones of ``layer`` in each set, and how the direct way scores.

    Attributes:
        layer: 0 is the hardest, as only what lies below a set's lowest layer is shared; it is also where nearly all
            neurons lie that are located in the embedded models, 15 to 27 at sigma 6.
        neurons: the more, the more texts go wrong and must be generated; with 384 of 512 nearly all.
    """

    model: str
    dataset: str
    way: Way
    neurons: int = 20
    layer: int = 0

    def prepared(self, lm: LanguageModel, items: int) -> Prepared:
        """The dataset's first evaluation items."""
        examples = caploc.load_examples(self.dataset, path=DATA, split="evaluate", limit=items)
        return prepare(lm, self.dataset, examples)

    def sets(self, lm: LanguageModel, count: int) -> Bool[Tensor, "sets layers neurons"]:
        """The sets, the same on every call."""
        chosen = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
        chosen[self.layer, : self.neurons] = True
        return random_sets(NeuronMask(chosen), count, seed=0)


@dataclass(frozen=True)
class Sizes:
    """``sets`` of neurons x ``items`` for each case; in every round ``timed`` sets are evaluated directly."""

    sets: int
    items: int
    timed: int
    cases: tuple[Case, ...]


_FAMILIES = ("tiny-llama", "tiny-gptj")

FULL = Sizes(
    sets=100,
    items=40,
    timed=3,
    cases=(
        *(Case(model, "gsm8k", "generate()") for model in _FAMILIES),
        Case("tiny-llama", "gsm8k", "generate()", layer=3),
        Case("tiny-llama", "gsm8k", "generate()", neurons=384),
        *(Case(model, "emotion", "forward per label") for model in _FAMILIES),
        *(Case(model, "emotion", "one forward") for model in _FAMILIES),
        *(Case(model, "code25k", "one forward") for model in _FAMILIES),
    ),
)

QUICK = Sizes(
    sets=3,
    items=3,
    timed=1,
    cases=(
        Case("tiny-llama", "gsm8k", "generate()", neurons=384),
        Case("tiny-llama", "emotion", "forward per label", layer=1),
        Case("tiny-llama", "emotion", "one forward"),
        Case("tiny-llama", "code25k", "one forward", layer=5),
    ),
)
