"""Fig. 4 on planted neurons: datasets that share some, none, or only a layer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caploc.findings import Outcome
from caploc.tests.experiments.planted import (
    LAYERS,
    NEURONS,
    planted,
)
from caploc.tests.experiments.verdicts import DATASETS, HALF_A, A, B, run, study_of

TOTAL = LAYERS * NEURONS


def test_datasets_that_share_neurons() -> None:
    finding, verdict = run("fig4-dataset-overlap", study_of(planted(0, 40, A), planted(1, 40, HALF_A)))
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.estimate == 0.5 and finding.interval == (0.5, 0.5)
    assert finding.quantities == {"gsm8k~imdb": 0.5}
    assert finding.chance == pytest.approx(2 * 2 / NEURONS * LAYERS / 8)
    tail = sum(math.comb(8, k) * math.comb(TOTAL - 8, 8 - k) for k in range(4, 9)) / math.comb(TOTAL, 8)
    assert finding.p_values["pair:gsm8k~imdb"] == pytest.approx(tail)
    assert finding.p_values["layer:gsm8k~imdb"] <= 2e-4
    kinds = [plot.kind for plot in finding.plots]
    assert kinds == ["heatmap", "matrix", "splits", "convergence", "completeness"]
    assert finding.plots[1].data["values"] == [[1, 0.5], [0.5, 1]]
    assert finding.plots[4].data["errors"] == {name: [0.25] * LAYERS for name in DATASETS}
    assert finding.n == 80


def test_datasets_that_share_none() -> None:
    finding, verdict = run("fig4-dataset-overlap", study_of(planted(0, 40, A), planted(1, 40, B)))
    assert verdict.outcome is Outcome.REFUTED and finding.estimate == 0


def test_meeting_in_one_layer_is_not_enough() -> None:
    """Forty neurons each, all in layer 0, sharing what chance gives there."""
    generator = np.random.default_rng(0)
    first = generator.choice(NEURONS, 40, replace=False)
    rest = np.setdiff1d(np.arange(NEURONS), first)
    second = [*first[:7], *generator.choice(rest, 33, replace=False)]
    study = study_of(
        planted(0, 40, [(0, int(n)) for n in first], scale=0.01),
        planted(1, 40, [(0, int(n)) for n in second], scale=0.01),
    )
    finding, verdict = run("fig4-dataset-overlap", study, sigma=3)
    assert finding.p_values["pair:gsm8k~imdb"] < 0.01 and finding.p_values["layer:gsm8k~imdb"] > 0.3
    assert verdict.outcome is Outcome.INCONCLUSIVE
