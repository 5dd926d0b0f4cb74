"""The IPP: an honest best choice. Choosing and scoring on the same items is biased; this is not."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.statistics import StatisticsError, ipp


def test_random_in_the_place_of_located_gives_nothing() -> None:
    """The definition's own check: a mean that is not above 0; on the same items the mean is far below."""
    generator = np.random.default_rng(0)
    honest, biased = [], []
    for trial in range(60):
        outcomes = generator.random((11, 40)) < 0.5
        found = ipp(outcomes[0], outcomes[1:], seed=trial, resamples=100)
        honest.append(found.estimate)
        biased.append(found.same_items)
    assert abs(np.mean(honest)) < 0.03 and np.mean(biased) < -0.08


def test_an_item_that_all_choices_share_cancels() -> None:
    located = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    found = ipp(located, np.stack([located, located]))
    assert (found.estimate, found.interval.low, found.interval.high, found.same_items) == (0, 0, 0, 0)


def test_the_best_choice_is_found_by_its_name() -> None:
    """One choice is better by far: it is chosen in every halving, and the IPP is against it."""
    located, random = np.full(40, 0.5), np.zeros((5, 40))
    random[3] = 0.8
    found = ipp(located, random)
    assert found.estimate == pytest.approx(-0.3) and found.same_items == pytest.approx(-0.3)
    assert found.mean_choice == pytest.approx(0.5 - 0.16)


def test_clusters_stay_together() -> None:
    """Ten copies of every item are no more than the items: their interval is as wide."""
    generator = np.random.default_rng(1)
    one, sets = generator.random(20), generator.random((4, 20))
    copies = np.repeat(np.arange(20), 10)
    alone = ipp(one, sets)
    together = ipp(one[copies], sets[:, copies], clusters=copies)
    apart = ipp(one[copies], sets[:, copies])
    assert together.estimate == pytest.approx(alone.estimate)
    assert together.interval.width == pytest.approx(alone.interval.width)
    assert apart.interval.width < together.interval.width / 2


def test_the_interval_holds_the_truth() -> None:
    generator, held = np.random.default_rng(2), 0
    for trial in range(60):
        located = generator.random(60) < 0.7
        random = generator.random((10, 60)) < 0.5
        held += ipp(located, random, seed=trial, resamples=200).interval.contains(0.2)
    assert held >= 52


@pytest.mark.parametrize(
    ("located", "random", "message"),
    [
        (np.ones(5), np.ones((2, 4)), r"random has shape \(2, 4\) and located \(5,\)"),
        (np.ones(5), np.ones(5), r"random has shape \(5,\)"),
        (np.ones(3), np.ones((2, 3)), r"located has 3 independent item\(s\)"),
    ],
)
def test_refusals(located: np.ndarray, random: np.ndarray, message: str) -> None:
    with pytest.raises(StatisticsError, match=message):
        ipp(located, random)
