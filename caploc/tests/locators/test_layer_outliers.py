"""Our own locator: its parts against what they stand for, and its rate on samples whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

import caploc
from caploc.errors import OptionError
from caploc.examples import Example
from caploc.locators import LOCATORS
from caploc.locators.layer_outliers import deviations, outlying
from caploc.tests.tiny import tiny_lm

EXAMPLES = [Example("one", "what is two and two", " 4."), Example("two", "name a colour:", " red")]


def test_deviations_are_in_each_layers_own_units() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((3, 4001))
    sizes = np.exp(normal * [[0.5], [1], [2]] + [[-9], [0], [5]])
    found = deviations(sizes)
    assert np.median(found, axis=1) == pytest.approx(0, abs=1e-9)
    quartiles = np.quantile(found, [0.25, 0.75], axis=1)
    assert quartiles[1] - quartiles[0] == pytest.approx(2 * norm.ppf(0.75))
    assert np.abs(found - normal).max() < 0.3
    assert np.allclose(found, deviations(sizes * [[7.0], [0.1], [1e6]])), "units do not matter"


def test_the_rate_holds_where_the_bulk_is_lognormal() -> None:
    rng, shares, recalls = np.random.default_rng(1), [], []
    for _ in range(200):
        logs = rng.standard_normal((6, 256)) * [[1], [1], [2], [0.5], [1], [1]]
        planted = np.zeros((6, 256), dtype=bool)
        planted[:, :10] = True
        logs[planted] += np.repeat([5, 5, 10, 2.5, 5, 5], 10)
        chosen = outlying(deviations(np.exp(logs)), 0.1)
        shares.append((chosen & ~planted).sum() / max(chosen.sum(), 1))
        recalls.append(chosen[planted].mean())
    error = np.std(shares) / math.sqrt(len(shares))
    assert np.mean(shares) < 0.1 + 3 * error and np.mean(recalls) > 0.8


def test_noise_alone_gives_next_to_nothing() -> None:
    rng = np.random.default_rng(2)
    counts = [outlying(deviations(np.abs(rng.standard_normal((6, 256)))), 0.1).sum() for _ in range(200)]
    assert np.mean(counts) < 0.1, "a normal score's size has a shorter tail than the null"
    counts = [outlying(deviations(np.exp(rng.standard_normal((6, 256)))), 0.1).sum() for _ in range(200)]
    share = np.mean(np.array(counts) > 0)
    assert share < 0.1 + 3 * math.sqrt(0.1 * 0.9 / len(counts)), (
        "where nothing is planted, q bounds any discovery"
    )


def test_the_degrees_of_freedom_are_those_of_quartiles() -> None:
    logs = np.random.default_rng(4).standard_normal((4000, 256))
    spread = np.diff(np.quantile(logs, [0.25, 0.75], axis=1), axis=0)[0] / (2 * norm.ppf(0.75))
    assert spread.var() * 256 == pytest.approx(1.36, rel=0.1)


def test_silent_neurons_and_layers_without_a_bulk() -> None:
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.standard_normal((3, 100)))
    sizes[0, 40:] = 0  # an activation that is often exactly zero
    sizes[1, 10:] = 0  # too few to tell
    sizes[2] = 1  # all alike
    found = deviations(sizes)
    assert np.isfinite(found[0, :40]).all() and np.isneginf(found[0, 40:]).all()
    assert np.isneginf(found[1:]).all() and not outlying(found, 0.5)[1:].any()


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_it_locates_by_the_root_mean_square_of_attributions(family: str) -> None:
    lm = tiny_lm(family, torch.float64)
    each = [caploc.attribute(lm, [one], steps=5, progress=False).values.numpy() for one in EXAMPLES]
    expected = deviations(np.sqrt((each[0] ** 2 + each[1] ** 2) / 2))
    found = LOCATORS["layer-outliers"](lm, EXAMPLES, q=0.4, steps=5, progress=False)
    np.testing.assert_allclose(found.scores.numpy(), np.maximum(expected, 0), rtol=1e-9)
    assert torch.equal(found.values, torch.from_numpy(outlying(expected, 0.4)))
    assert found.model == lm.fingerprint


def test_bad_options_are_told_before_any_work() -> None:
    lm = tiny_lm()
    for q in (0, 1, -0.1, math.nan, True):
        with pytest.raises(OptionError, match="q must be a false-discovery rate between 0 and 1"):
            LOCATORS["layer-outliers"](lm, EXAMPLES, q=q)
    with pytest.raises(OptionError, match="no examples"):
        LOCATORS["layer-outliers"](lm, [])
    with pytest.raises(OptionError, match="steps must be"):
        LOCATORS["layer-outliers"](lm, EXAMPLES, steps=0)
