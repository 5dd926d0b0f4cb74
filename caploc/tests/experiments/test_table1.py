"""Table 1 on scores with known neurons planted in them: the known numbers, and the known verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caploc.findings import Outcome
from caploc.tests.experiments.planted import (
    LAYERS,
    NEURONS,
    noise,
    planted,
)
from caploc.tests.experiments.verdicts import A, B, run, study_of

TOTAL = LAYERS * NEURONS


@pytest.mark.parametrize("size", [1, 3])
def test_planted_neurons_are_found_again(size: int) -> None:
    study = study_of(planted(0, 40, A), planted(1, 40, B), size=size)
    for claim in ("table1-overlap", "abstract-gsm8k-overlap", "table1-iou", "table1-both-high"):
        finding, verdict = run(claim, study)
        assert verdict.outcome is Outcome.SUPPORTED
        assert finding.estimate == 1 and finding.interval == (1, 1) and finding.quantities["located"] == 8
        assert finding.p_values == {"matched random sets": 1e-4}
        assert finding.controls["text of imdb"] == 0
        assert math.isnan(finding.controls["untrained twin"]) or finding.controls["untrained twin"] < 0.1
        assert 0 < finding.chance < 0.02  # type: ignore[operator]
        assert finding.published == {"table1-iou": "93.08"}.get(claim, "96.42")
        assert (finding.n, finding.draws) == (40, 40)


def test_noise_is_not_found_again() -> None:
    for claim in ("table1-overlap", "table1-iou", "table1-both-high", "convergence-subset-suffices"):
        finding, verdict = run(claim, study_of(noise(0, 40)), sigma=3)
        assert verdict.outcome is not Outcome.SUPPORTED
        assert finding.estimate < 0.2  # type: ignore[operator]
        assert finding.p_values.get("matched random sets", 1) > 1e-3


def test_a_known_overlap_and_iou() -> None:
    """Eight neurons in all examples; four more in those of one half of the data, four others in the rest."""
    scores = planted(0, 40, A, scale=0.01)
    for index, (layer, neuron) in enumerate(B):
        scores[slice(0, 20) if index < 4 else slice(20, 40), layer, neuron] += 1
    study = study_of(scores, answers={"gsm8k": [" a"] * 20 + [" b"] * 20})
    finding, _ = run("table1-partition-independence", study, sigma=3)
    assert finding.quantities["overlap by answer"] == 8 / 12
    assert run("table1-overlap", study, sigma=3)[0].quantities["located"] == 16


def test_the_neuron_ratio_is_that_of_the_whole_set() -> None:
    finding, verdict = run("table1-neuron", study_of(planted(0, 40, A)))
    assert (finding.estimate, finding.interval) == (8 / TOTAL, (8 / TOTAL, 8 / TOTAL))
    assert finding.quantities == {"located": 8, "neurons": TOTAL, "chebyshev_bound": 1 / 36}
    assert finding.settings["dispersion"] == "std" and verdict.outcome is Outcome.SUPPORTED
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(0, NEURONS, 50)]
    assert run("table1-neuron", study_of(planted(0, 40, many)))[1].outcome is Outcome.REFUTED


def test_the_literal_variance_selects_nearly_all_where_scores_are_small() -> None:
    small, verdict = run("eq8-literal-variance", study_of(planted(0, 40, A) * 1e-4))
    assert small.estimate > 0.99 and verdict.outcome is Outcome.REFUTED  # type: ignore[operator]
    large, verdict = run("eq8-literal-variance", study_of(planted(0, 40, A, level=100)), sigma=0.1)
    assert large.estimate == 8 / TOTAL and verdict.outcome is Outcome.SUPPORTED
    assert large.settings["dispersion"] == "variance" and "chebyshev_bound" not in large.quantities


def test_which_reading_of_sigma_selects_as_few_as_the_paper_prints() -> None:
    claim = "method-default-sigma6"
    few = planted(0, 40, A[:4])
    finding, verdict = run(
        claim, study_of(few * 1e-4)
    )  # small scores: the literal variance selects nearly all
    assert (
        finding.estimate
        == finding.quantities["ratio_std"]
        == finding.quantities["ratio_std_at_6"]
        == 4 / TOTAL
    )
    assert finding.quantities["ratio_variance"] > 0.99 and verdict.outcome is Outcome.SUPPORTED
    assert finding.quantities["ratio_std_at_3"] >= 4 / TOTAL >= finding.quantities["ratio_std_at_12"]
    many = [(layer, neuron) for layer in range(LAYERS) for neuron in range(0, NEURONS, 50)]
    assert run(claim, study_of(planted(0, 40, many) * 1e-4))[1].outcome is Outcome.REFUTED  # neither does
    alike = few / np.sqrt(few.mean(0).var())  # variance 1: the two readings are one
    finding, verdict = run(claim, study_of(alike))
    assert finding.quantities["ratio_variance"] == 4 / TOTAL and verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.settings["dispersion"] == "std" and finding.published == "0.14"
