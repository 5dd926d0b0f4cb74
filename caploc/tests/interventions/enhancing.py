"""Random neurons and examples to train."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from caploc.examples import TokenizedExample
from caploc.interventions.enhancement import Recipe
from caploc.neurons import NeuronMask
from caploc.tests.attribution.families import VOCABULARY
from caploc.tests.tiny import NEURONS, SHAPE


def random_examples(seed: int, count: int = 10) -> list[TokenizedExample]:
    """Of 4 to 15 tokens, prompt and answer."""
    generator = np.random.default_rng(seed)
    made = []
    for index in range(count):
        tokens = int(generator.integers(4, 16))
        ids = torch.from_numpy(generator.integers(3, VOCABULARY, tokens))
        made.append(TokenizedExample(ids, int(generator.integers(1, tokens)), f"e{seed}-{index}"))
    return made


def random_mask(seed: int, *shares: float) -> NeuronMask:
    """About these shares of the layers' neurons, at least one where a share is not 0."""
    generator = np.random.default_rng(seed)
    values = np.zeros((SHAPE[0], NEURONS), dtype=bool)
    for layer, share in enumerate(shares):
        values[layer, generator.choice(NEURONS, max(1, round(share * NEURONS)), replace=False)] = share > 0
    return NeuronMask(torch.from_numpy(values))


def recipe_of(**fields: Any) -> Recipe:
    """20 steps on 10 examples, and the changes after the last."""
    return Recipe(**{"lr": 1e-3, "epochs": 5, "batch_size": 3, "keep": (5,), **fields})
