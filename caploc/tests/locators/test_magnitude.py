"""Magnitudes equal what hooks read off plain runs; random sets match a located one as they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from caploc.errors import OptionError
from caploc.locators.magnitude import Magnitude, disjoint_sets, magnitude, random_sets
from caploc.neurons import NeuronMask
from caploc.tests.attribution.families import CONFIGS
from caploc.tests.attribution.test_exactness import random_example, small_model

LAYERS, NEURONS = 3, 30


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_equals_what_hooks_read_off_plain_runs(family: str) -> None:
    lm, examples = small_model(family, torch.float64), [random_example(6, 1), random_example(4, 3, seed=1)]
    expected = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.float64)
    for layer, module in enumerate(map(lm.architecture.mlp_out_of, lm.layers)):
        weight: Tensor = module.weight.detach()  # type: ignore[assignment, operator]
        columns = weight.T if isinstance(module, nn.Linear) else weight  # [neurons, width]
        for example in examples:
            sizes = []
            for length in range(example.answer_start, len(example.input_ids)):
                read: list[Tensor] = []
                handle = module.register_forward_pre_hook(lambda _, args, read=read: read.append(args[0]))
                with torch.no_grad():
                    lm.model(input_ids=example.input_ids[None, :length])
                handle.remove()
                sizes.append(read[0].reshape(length, -1)[-1].abs() * columns.pow(2).sum(1).sqrt())
            expected[layer] += torch.stack(sizes).mean(0) / len(examples)
    found = magnitude(lm, examples)
    assert torch.allclose(found.values.double(), expected, rtol=1e-5, atol=1e-7)


def test_the_model_comes_back_in_its_mode() -> None:
    lm = small_model("llama", torch.float32)
    lm.model.train()
    flags = [
        parameter.requires_grad_(index % 2 == 0).requires_grad
        for index, parameter in enumerate(lm.model.parameters())
    ]
    magnitude(lm, [random_example(6, 1)])
    assert lm.model.training and [parameter.requires_grad for parameter in lm.model.parameters()] == flags


def random_sizes(seed: int) -> Magnitude:
    return Magnitude(
        torch.from_numpy(np.random.default_rng(seed).random((LAYERS, NEURONS), dtype=np.float32))
    )


def random_mask(seed: int, most: int) -> NeuronMask:
    generator = np.random.default_rng(seed)
    values = np.zeros((LAYERS, NEURONS), dtype=bool)
    for layer in range(LAYERS):
        values[layer, generator.choice(NEURONS, generator.integers(most + 1), replace=False)] = True
    return NeuronMask(torch.from_numpy(values))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(1, 15), st.integers(1, 40), st.integers(1, 6))
def test_matched_sets_are_drawn_as_described(seed: int, most: int, nearest: int, draws: int) -> None:
    """Set against a slow draw by lists, from the same uniform numbers."""
    sizes, mask = random_sizes(seed), random_mask(seed, most)
    found = sizes.random_like(mask, draws, seed, nearest)
    uniform = np.random.default_rng([seed, 2]).random((draws, mask.count))
    for draw in range(draws):
        numbers = iter(uniform[draw])
        for layer in range(LAYERS):
            size, located = sizes.values[layer].tolist(), mask.values[layer].nonzero().ravel().tolist()
            free = [neuron for neuron in range(NEURONS) if neuron not in located]
            taken = []
            for neuron in sorted(located, key=lambda one: -size[one]):
                near = sorted(free, key=lambda one, centre=size[neuron]: abs(size[one] - centre))[:nearest]
                taken.append(near[int(next(numbers) * len(near))])
                free.remove(taken[-1])
            assert sorted(taken) == found[draw, layer].nonzero().ravel().tolist()
    assert not (found & mask.values).any()
    assert (found.sum(2) == torch.tensor(mask.per_layer)).all()


def test_every_near_neuron_is_as_likely() -> None:
    sizes, mask = random_sizes(0), NeuronMask(torch.zeros(LAYERS, NEURONS, dtype=torch.bool))
    mask.values[1, 4] = True
    counts = sizes.random_like(mask, 3000, seed=0, nearest=6)[:, 1].sum(0)
    assert (counts > 0).sum() == 6 and counts.sum() == 3000
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3


def test_matched_sets_are_nearer_than_uniform_ones() -> None:
    """Two neurons in the middle of each layer; the shortfall of the largest cannot be matched away, and is told."""
    sizes = random_sizes(1)
    order = sizes.values.argsort(dim=1)

    def of_ranks(*ranks: int) -> NeuronMask:
        return NeuronMask(
            torch.zeros(LAYERS, NEURONS, dtype=torch.bool).scatter(1, order[:, list(ranks)], True)
        )

    middle, largest = of_ranks(14, 16), of_ranks(28, 29)
    own, near, far = (
        sizes.mean_of(sets)
        for sets in (middle.values[None], sizes.random_like(middle, 50, 0), random_sets(middle, 50, 0))
    )
    assert (near - own).abs().mean() < 0.5 * (far - own).abs().mean()
    assert (sizes.mean_of(sizes.random_like(largest, 50, 0)) < sizes.mean_of(largest.values[None])).all()
    assert sizes.mean_of(torch.zeros(1, LAYERS, NEURONS, dtype=torch.bool)).isnan().all()


@pytest.mark.parametrize("kind", ["uniform", "matched"])
def test_draws_come_from_the_seed_and_not_from_their_number(kind: str) -> None:
    sizes, mask = random_sizes(0), random_mask(3, 8)

    def drawn(draws: int, seed: int) -> Tensor:
        return random_sets(mask, draws, seed) if kind == "uniform" else sizes.random_like(mask, draws, seed)

    many = drawn(40, 5)
    assert many.shape == (40, LAYERS, NEURONS) and many.dtype == torch.bool
    assert torch.equal(drawn(40, 5), many) and torch.equal(drawn(7, 5), many[:7])
    assert not torch.equal(drawn(40, 6), many)
    assert len({tuple(one.ravel().tolist()) for one in many}) > 30
    assert (many.sum(2) == torch.tensor(mask.per_layer)).all()


def test_uniform_sets_may_hold_located_neurons() -> None:
    mask = random_mask(3, 8)
    counts = random_sets(mask, 2000, seed=1).sum(0)
    for layer, located in enumerate(mask.per_layer):
        expected = 2000 * located / NEURONS
        assert ((counts[layer] - expected).abs() <= 5 * expected**0.5).all()


def test_the_largest_of_every_layer() -> None:
    sizes, mask = random_sizes(2), random_mask(2, 10)
    top = sizes.top_like(mask)
    for layer, count in enumerate(mask.per_layer):
        order = sorted(range(NEURONS), key=lambda one: -float(sizes.values[layer, one]))
        assert sorted(order[:count]) == top.values[layer].nonzero().ravel().tolist()


def test_an_empty_set_is_matched_by_empty_sets() -> None:
    empty = NeuronMask(torch.zeros(LAYERS, NEURONS, dtype=torch.bool))
    for sets in (random_sizes(0).random_like(empty, 3, 0), random_sets(empty, 3, 0)):
        assert sets.shape == (3, LAYERS, NEURONS) and not sets.any()


def test_bad_options_are_refused() -> None:
    sizes, mask = random_sizes(0), random_mask(3, 8)
    for number in (0, -1):
        with pytest.raises(OptionError, match=f"draws must be at least 1, got {number}"):
            sizes.random_like(mask, number, 0)
        with pytest.raises(OptionError, match=f"draws must be at least 1, got {number}"):
            random_sets(mask, number, 0)
    with pytest.raises(OptionError, match="nearest must be at least 1, got 0"):
        sizes.random_like(mask, 1, 0, nearest=0)
    crowded = NeuronMask(torch.ones(LAYERS, NEURONS, dtype=torch.bool))
    with pytest.raises(
        OptionError, match="30 of 30 neurons of layer 0 are located, so 0 others cannot match"
    ):
        sizes.random_like(crowded, 1, 0)
    with pytest.raises(OptionError, match="no examples to measure magnitudes on"):
        magnitude(small_model("llama", torch.float32), [])


def test_disjoint_sets_have_nothing_that_is_located() -> None:
    mask, apart = torch.zeros(2, 20, dtype=torch.bool), torch.zeros(2, 20, dtype=torch.bool)
    mask[:, :4], apart[0, 4:10], apart[1, 4:19] = True, True, True
    sets, short = disjoint_sets(NeuronMask(mask), apart, 50, 0)
    assert (sets.sum(2) == 4).all() and not (sets & mask).any() and not (sets[:, 0] & apart[0]).any()
    assert short == [1]  # one neuron is left beside what others locate
    torch.testing.assert_close(sets[:5], disjoint_sets(NeuronMask(mask), apart, 5, 0)[0])
    anywhere, _ = disjoint_sets(NeuronMask(mask), apart, 5, 0, by_layer=False)
    assert (anywhere.sum((1, 2)) == 8).all() and not (anywhere & (mask | apart)).any()
