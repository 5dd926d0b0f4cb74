"""What every experiment of group D has in common: floor effects, what is not run, seeds and notes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from caploc.examples import Exclusion
from caploc.experiments import commonality as experiments
from caploc.experiments.study import Experiment
from caploc.findings import Outcome, Verdict
from caploc.tests.experiments.planted import (
    CONTROLS,
    LAYERS,
    NEURONS,
    PlantedStudy,
    exchangeable,
    noise,
    planted,
)
from caploc.tests.experiments.verdicts import EXPERIMENTS, HALF_A, A, B, run, study_of


def test_every_experiment_is_tested() -> None:
    named = {one.name for one in vars(experiments).values() if isinstance(one, Experiment)}
    assert named == {experiment.name for experiment in EXPERIMENTS.values()}


@pytest.mark.parametrize("claim", EXPERIMENTS)
@pytest.mark.parametrize("examples", [16, 40])
def test_empty_masks_are_a_floor_effect(claim: str, examples: int) -> None:
    """Scores all equal, and noise of which nothing passes."""
    for scores in (np.zeros((examples, LAYERS, NEURONS)), noise(0, examples)):
        study = study_of(scores, scores, dict.fromkeys(CONTROLS, scores))
        if claim == "eq8-literal-variance" and scores.any():
            continue  # the variance of noise as small as a mean's selects nearly all
        finding, verdict = run(claim, study, sigma=12)
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reason.startswith("floor effect: ") and finding.measurement.floor == verdict.reason


@pytest.mark.parametrize("control", ["untrained", "scrambled"])
def test_a_control_that_locates_nothing_says_nothing(control: str) -> None:
    empty = {control: np.zeros((40, LAYERS, NEURONS))}
    study = study_of(planted(0, 40, A), planted(1, 40, B), empty)
    claim = {"untrained": "control-untrained-overlap", "scrambled": "table1-commonality"}[control]
    verdict = run(claim, study)[1]
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.startswith("floor effect: ") and verdict.reason.endswith(" of the control")
    assert run("table1-overlap", study)[1].outcome is Outcome.SUPPORTED


@pytest.mark.parametrize("claim", EXPERIMENTS)
def test_the_fewest_samples_are_enough_to_run(claim: str) -> None:
    study = study_of(planted(0, 16, A), planted(1, 16, HALF_A))
    finding, verdict = run(claim, study)
    found = finding.measurement
    assert found.value is not None or found.floor is not None
    if claim == "convergence-llama2-7b":
        assert verdict.outcome is Outcome.INCONCLUSIVE, "two sizes make no trend"


@pytest.mark.parametrize("claim", [claim for claim in EXPERIMENTS if claim != "fig4-dataset-overlap"])
def test_a_dataset_that_cannot_be_had_is_not_run(claim: str) -> None:
    study = study_of(planted(0, 40, A))
    finding, verdict = run(claim, study, dataset="meta_math")
    assert verdict == Verdict(Outcome.NOT_RUN, "meta_math cannot be had here; give it")
    assert finding.measurement.value is None


@pytest.mark.parametrize("claim", ["table1-commonality", "fig4-dataset-overlap"])
def test_one_dataset_is_not_enough_to_compare(claim: str) -> None:
    data = {("gsm8k", control): planted(0, 40, A) for control in ("", *CONTROLS)}
    verdict = run(claim, PlantedStudy(data))[1]
    assert verdict.outcome is Outcome.NOT_RUN and verdict.reason.endswith("give another --dataset")


def test_a_finding_says_what_was_left_out() -> None:
    study = study_of(planted(0, 40, A))
    study.excluded["gsm8k"] = [Exclusion("q1", "too long"), Exclusion("q2", "too long")]
    finding, _ = run("table1-overlap", study)
    assert "2 examples of gsm8k left out: longer than the model's context" in finding.notes
    assert finding.settings["sigma"] == 6
    assert finding.settings["data_fingerprint"] == study.located("gsm8k").fingerprint


@pytest.mark.parametrize("claim", EXPERIMENTS)
def test_the_same_seed_gives_the_same_finding(claim: str) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002

    def once(seed: int) -> str:
        study = study_of(exchangeable(0, 32), exchangeable(1, 32), seed=seed, draws=20)
        return json.dumps(run(claim, study, sigma=2)[0].to_json())

    assert once(0) == once(0)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    if claim not in ("fig4-dataset-overlap",):
        assert once(0) != once(1)


@pytest.mark.parametrize(("sigmas", "with_figures"), [((3, 6, 12), 6), ((3, 12), 3), ((2,), 2)])
def test_figures_come_with_one_sigma(sigmas: tuple[float, ...], with_figures: float) -> None:
    """The paper's where it is asked for, or else the first."""
    study = study_of(planted(0, 40, A), planted(1, 40, B), sigmas=sigmas)
    for claim in ("fig4-dataset-overlap", "table1-partition-independence"):
        for sigma in sigmas:
            assert bool(run(claim, study, sigma)[0].measurement.plots) == (sigma == with_figures)
