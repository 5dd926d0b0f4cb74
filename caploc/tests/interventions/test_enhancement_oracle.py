"""Training a few rows is fine-tuning of the whole model with masked gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.interventions.enhancement import Recipe, enhance
from caploc.interventions.enhancement.difference import changed_weights
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.attribution.families import CONFIGS, in_float64
from caploc.tests.interventions.enhancing import random_examples, random_mask, recipe_of
from caploc.tests.oracles.enhancement import MaskedFineTuning
from caploc.tests.tiny import tiny_lm

FEW, MANY = 0.1, 0.9


def compare(
    lm: LanguageModel, mask: NeuronMask, recipe: Recipe, zeroed: NeuronMask | None = None, steps: int = 20
) -> tuple[float, float, float]:
    """Largest difference of any parameter, largest of a loss, and how far the weights have moved."""
    examples = random_examples(1)
    oracle = MaskedFineTuning(lm, mask, recipe, zeroed)
    losses = oracle.train(examples, recipe, steps)
    assert len(losses) == steps
    found = enhance(lm, mask, examples, recipe, zeroed=zeroed)
    weights = changed_weights(lm, found.at[recipe.epochs])
    wrong = moved = 0.0
    for name, own in lm.model.state_dict().items():
        trained = weights.get(name, own)
        wrong = max(wrong, float((trained - oracle.model.state_dict()[name]).abs().max()))
        moved = max(moved, float((trained - own).abs().max()))
    return wrong, float(np.abs(found.losses - losses).max()), moved


@pytest.mark.parametrize("shares", [(FEW, FEW), (MANY, MANY)], ids=["rows", "matrices"])
@pytest.mark.parametrize("lr", [1e-5, 1e-3])
@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_equals_masked_fine_tuning_in_float32(family: str, lr: float, shares: tuple[float, float]) -> None:
    """To 1e-6 after 20 steps; the weights are around 0.15. Where a gradient were rounding noise, Adam's division by its
    size would make a step of the noise; none of these neurons is so dead."""
    wrong, loss, moved = compare(tiny_lm(family), random_mask(3, *shares), recipe_of(lr=lr))
    assert wrong <= 1e-6 and loss <= 2e-6 and moved > 10 * lr


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_equals_masked_fine_tuning_in_every_family(family: str) -> None:
    """In float64, where nothing but a mistake can differ; one layer in the form for few, one in that for many."""
    recipe = recipe_of(epochs=2, keep=(2,))
    with in_float64():
        wrong, loss, moved = compare(
            tiny_lm(family, torch.float64), random_mask(4, FEW, MANY), recipe, steps=8
        )
    assert wrong <= 1e-10 and loss <= 1e-10 and moved > 5e-3


@settings(max_examples=12, deadline=None)
@given(
    family=st.sampled_from(["llama", "gptj", "gpt2", "phi3"]),
    seed=st.integers(0, 1000),
    shares=st.tuples(*[st.sampled_from([0.0, 0.05, 0.3, 0.35, 0.8])] * 2).filter(any),
    train=st.sampled_from(["both", "in", "out"]),
    loss_on=st.sampled_from(["answer", "all"]),
    batch_size=st.integers(1, 12),
    zero=st.booleans(),
)
def test_equals_masked_fine_tuning_whatever_is_trained(
    family: str,
    seed: int,
    shares: tuple[float, float],
    train: str,
    loss_on: str,
    batch_size: int,
    zero: bool,
) -> None:
    mask, steps = random_mask(seed, *shares), -(-10 // batch_size)
    zeroed = NeuronMask(random_mask(seed + 1, 0.2, 0.2).values & ~mask.values) if zero else None
    recipe = recipe_of(
        epochs=1, keep=(1,), batch_size=batch_size, train=train, loss_on=loss_on, seed=seed, betas=(0.8, 0.9)
    )
    with in_float64():
        wrong, loss, _ = compare(tiny_lm(family, torch.float64, seed), mask, recipe, zeroed, steps)
    assert wrong <= 1e-10 and loss <= 1e-10
