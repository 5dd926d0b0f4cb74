"""Half-split overlaps of all methods against one split at a time, and how often equal methods are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caploc.experiments import rival_sets as halves
from caploc.experiments.rivals.halves import half_splits, overlap_effect, resampled
from caploc.experiments.rivals.samples import Samples
from caploc.experiments.rivals.sets import CNL, KN, MAGNITUDE, located
from caploc.metrics import overlap
from caploc.neurons import Threshold
from caploc.statistics import random_halves
from caploc.tests.experiments.test_rivals_sets import samples_of

THRESHOLD = Threshold(2.0)


def test_every_method_is_split_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, draws = samples_of(1, 16, 3, 40), 7
    generator, expected = np.random.default_rng([5, 51]), []
    for _ in range(draws):
        sides = [np.isin(np.arange(16), half).astype(float)[None] for half in random_halves(generator, 16)]
        sets = [located(samples, side, THRESHOLD) for side in sides]
        expected.append(
            {name: overlap(*(torch.from_numpy(one[name][0]) for one in sets)) for name in sets[0]}
        )
    found = half_splits(samples, THRESHOLD, draws, 5)
    for method, values in found.items():
        assert values == pytest.approx([one[method] for one in expected])
    monkeypatch.setattr(halves, "SCORES_AT_ONCE", 3 * 120)
    again = half_splits(samples, THRESHOLD, draws, 5)
    assert all(np.array_equal(again[method], found[method]) for method in found)


def test_resamples_are_seeded_and_of_disjoint_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halves, "RESAMPLES", 50)
    samples, seen = samples_of(2, 16, 3, 40), []

    def watched(samples: Samples, weights: np.ndarray, threshold: Threshold) -> object:
        seen.append(weights)
        return located(samples, weights, threshold)

    monkeypatch.setattr(halves, "located", watched)
    found = resampled(samples, THRESHOLD, 3)
    first, second = seen
    assert not (first * second).any() and ((first > 0).sum(1) == 8).all() and ((second > 0).sum(1) == 8).all()
    assert all(
        np.array_equal(resampled(samples, THRESHOLD, 3)[name], found[name], equal_nan=True) for name in found
    )
    assert not np.array_equal(resampled(samples, THRESHOLD, 4)[KN], found[KN])


def test_a_known_difference() -> None:
    splits = {CNL: np.array([0.9, 0.7, np.nan]), KN: np.array([0.5, 0.5, np.nan])}
    resamples = {CNL: np.linspace(0.5, 1.5, 101), KN: np.full(101, 0.25)}
    effect = overlap_effect(splits, resamples, KN, 32)
    assert effect.estimate == pytest.approx(0.3)
    # deviations of -0.5 to 0.5, whatever their mean
    assert (effect.interval.low, effect.interval.high) == (
        pytest.approx(0.3 - 0.475),
        pytest.approx(0.3 + 0.475),
    )
    assert (effect.interval90.low, effect.interval90.high) == (pytest.approx(-0.15), pytest.approx(0.75))
    assert effect.p == pytest.approx((1 + 21) / 102, abs=0.011)
    assert (effect.items, effect.draws, effect.p_sets) == (32, 2, None)


def test_equal_methods_are_seldom_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods that see the same neurons through equal noise; which of them agrees better is luck with samples."""
    monkeypatch.setattr(halves, "RESAMPLES", 199)
    count, levels = 32, np.random.default_rng(5).gamma(0.3, 0.5, size=(3, 100))
    fixed = np.zeros((count, 3, 100))
    fixed[:, 0, :10] = 1
    apart, significant, runs = 0, 0, 100
    for seed in range(runs):
        noise = np.random.default_rng(seed).normal(size=(2, count, 3, 100))
        samples = Samples(fixed, fixed, levels + noise[0], levels + noise[1], np.ones((count, 3)), None)
        found = [half_splits(samples, THRESHOLD, 60, seed), resampled(samples, THRESHOLD, seed)]
        splits, resamples = ({CNL: one[MAGNITUDE], KN: one[KN]} for one in found)
        effect = overlap_effect(splits, resamples, KN, count)
        apart += not effect.interval.low <= 0 <= effect.interval.high
        significant += effect.p < 0.05
    assert apart <= 5 and significant <= 8, (apart, significant)
