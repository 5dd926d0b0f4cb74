"""The measures are what they say, counted by hand and by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caploc.check.contract import Found, Trial, read
from caploc.check.judging import RANDOM_SETS, Ranking, accuracy, erasure, measures
from caploc.examples import Example
from caploc.interventions import erased
from caploc.locators.layers import LayerSet
from caploc.metrics import Location
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.tests.check.planted import ANSWERS, planted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=6))
def test_rankings_count_ties_as_breaking_them_at_random_does(pairs: list[tuple[int, bool]]) -> None:
    strength, planted = (np.array(part) for part in zip(*pairs, strict=True))
    ranking = Ranking(strength.astype(float), planted)
    count = int(planted.sum())
    if not count:
        assert math.isnan(ranking.auc) and math.isnan(ranking.average_precision)
        return
    shares = []
    for order in permutations(range(len(pairs))):
        ranked = sorted(order, key=lambda at: -strength[at])  # stable: ties stay in the drawn order
        shares.append(planted[ranked[:count]].mean())
    assert ranking.precision_at_planted == pytest.approx(np.mean(shares))
    wins = [
        (strength[one] > strength[other]) + 0.5 * (strength[one] == strength[other])
        for one in np.flatnonzero(planted)
        for other in np.flatnonzero(~planted)
    ]
    assert ranking.auc == pytest.approx(np.mean(wins)) if wins else math.isnan(ranking.auc)
    precisions = [planted[strength >= strength[one]].mean() for one in np.flatnonzero(planted)]
    assert ranking.average_precision == pytest.approx(np.mean(precisions))


def test_a_ranking_by_hand() -> None:
    ranking = Ranking(np.array([5.0, 4, 3, 2, 1]), np.array([True, False, True, False, False]))
    assert ranking.auc == pytest.approx(5 / 6)
    assert ranking.average_precision == pytest.approx((1 + 2 / 3) / 2)
    assert ranking.precision_at_planted == 0.5 and ranking.top(2).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
    equal = Ranking(np.ones(10), np.arange(10) < 3)
    assert equal.auc == 0.5 and equal.average_precision == equal.precision_at_planted == pytest.approx(0.3)


def test_negative_scores_count_by_size() -> None:
    scores = np.zeros((3, 40))
    scores[planted().neurons.numpy()] = -1
    measured = measures(planted(), Trial({"all examples": Found(scores, None)}))
    assert measured["AUC"] == measured["AP"] == measured["precision at |M|"] == 1


def answered(lm: LanguageModel, examples: Sequence[Example]) -> float:
    """The share of examples whose one-letter answer is the likeliest token."""
    prompts = [lm.tokenizer(one.prompt, return_tensors="pt").input_ids for one in examples]
    said = [lm.tokenizer.decode([int(lm.model(input_ids=ids).logits[0, -1].argmax())]) for ids in prompts]
    return float(np.mean([one == example.answer for one, example in zip(said, examples, strict=True)]))


def test_accuracy_is_that_of_zeroed_weights() -> None:
    model = planted()
    sets = torch.stack([torch.zeros_like(model.neurons), model.neurons])
    for examples in (model.examples, model.evaluation, *model.others.values()):
        found = accuracy(model.lm, examples, sets)
        right = [answered(model.lm, examples)]
        with erased(model.lm, NeuronMask(model.neurons)):
            right.append(answered(model.lm, examples))
        assert found.tolist() == right
    assert {one.answer for one in model.examples} == set(ANSWERS)


def test_erasure_compares_with_sets_drawn_apart() -> None:
    model = planted()
    truth = erasure(model, model.neurons.numpy())
    assert truth["accuracy"] == 1 and truth["erased above chance"] <= 0 and truth["random as harmful"] == 0
    assert truth["side effect"] == 0
    nothing = erasure(model, np.zeros((3, 40), dtype=bool))
    assert nothing["erased"] == 1 and nothing["random as harmful"] == 1, "a set that does nothing beats none"
    assert RANDOM_SETS == 20


def test_halves_and_decoys() -> None:
    model = planted()
    one, other = model.neurons.numpy().copy(), model.neurons.numpy().copy()
    other[1, 3], other[0, 0] = False, True  # three of four in common
    found = Trial(
        {"all examples": Found(None, one), "first half": Found(None, one), "second half": Found(None, other)}
    )
    measured = measures(model, found)
    assert measured["overlap of halves"] == 0.75 and measured["precision"] == measured["recall"] == 1
    assert "AUC" not in measured and "decoy AUC" not in measured


def test_what_a_locator_may_return() -> None:
    shape, chosen = (3, 40), planted().neurons
    scores = chosen.double()
    for result in (chosen, chosen.numpy(), NeuronMask(chosen)):
        found = read(result, shape)
        assert found.scores is None and np.array_equal(found.chosen, chosen.numpy())
    for result in (scores, scores.bfloat16(), scores.int(), scores.numpy(), scores.float().requires_grad_()):
        found = read(result, shape)
        assert found.chosen is None and np.array_equal(found.scores, scores.numpy())
    both = read(NeuronMask(chosen, scores=scores), shape)
    assert both.scores is not None and both.chosen is not None
    layers = LayerSet((2, 0), 3)
    assert isinstance(layers, Location)
    found = read(layers, shape)
    assert found.chosen is None and found.scores is not None
    assert found.scores[:, 0].tolist() == found.scores[:, 39].tolist() == [1, 0, 1]
