"""Fig. 5, 7 and 8 on planted neurons: overlap that rises and stops, or does not."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.experiments.commonality.convergence import convergence_curve
from caploc.findings import Outcome
from caploc.neurons import Threshold
from caploc.tests.experiments.planted import (
    LAYERS,
    noise,
    planted,
    sums_of,
)
from caploc.tests.experiments.verdicts import A, run, study_of


def test_the_overlap_rises_and_then_stops() -> None:
    study = study_of(planted(3, 192, A, scale=0.5))
    finding, verdict = run("convergence-llama2-7b", study, sigma=3)
    assert verdict.outcome is Outcome.SUPPORTED and finding.p_values["trend"] < 1e-6
    assert finding.settings["sizes"] == [12, 24, 48, 96, 192]
    curve = [finding.quantities[f"overlap at {size}"] for size in (12, 24, 48, 96, 192)]
    assert curve[0] < 0.9 < 0.99 < curve[-1] and curve[0] < curve[1] < curve[2]


def test_an_overlap_that_still_rises_has_not_converged() -> None:
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(15)]
    finding, verdict = run("convergence-llama2-7b", study_of(planted(3, 96, many, scale=2.2)), sigma=2)
    assert verdict.outcome is Outcome.REFUTED and "still rising" in verdict.reason
    assert finding.p_values["trend"] < 0.01


def test_an_overlap_of_noise_does_not_converge() -> None:
    assert run("convergence-llama2-7b", study_of(noise(3, 96)), sigma=3)[1].outcome is not Outcome.SUPPORTED


def test_the_curve_against_the_examples_themselves() -> None:
    """The last point halves all shards; sizes double up to it and count examples."""
    scores = planted(0, 70, A, scale=0.7)
    shards = sums_of(scores, 2)
    curve = convergence_curve(shards, Threshold(3), seed=5)
    assert curve.sizes.tolist() == [16, 34, 70] and curve.overlap.shape == (20, 3)
    order = np.random.default_rng([5, 8]).permutation(35)
    for column, count in enumerate((8, 17, 35)):
        sets = []
        for begin in (0, 1):
            chosen = [example for shard in order[begin:count:2] for example in shards.members[shard]]
            mean = scores[chosen].mean(0)
            sets.append(np.abs(mean - mean.mean()) > 3 * mean.std())
        both = (sets[0] & sets[1]).sum()
        expected = (both / sets[0].sum() + both / sets[1].sum()) / 2
        assert curve.overlap[0, column] == pytest.approx(expected)


def test_half_of_the_data_suffices_where_neurons_are_common() -> None:
    finding, verdict = run("convergence-subset-suffices", study_of(planted(0, 64, A)))
    assert verdict.outcome is Outcome.SUPPORTED and finding.estimate == 1
    assert finding.quantities == {"a share of 0.125": 1, "a share of 0.25": 1}
