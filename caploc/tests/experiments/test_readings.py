"""Readings of the paper: names and errors, and experiments that cut as they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest

from caploc.attribution.method import PATHS, QUADRATURES, VALUES, Method
from caploc.datasets.loading import DATASETS
from caploc.errors import OptionError
from caploc.experiments.readings import CHOICES, Reading
from caploc.experiments.study import StudySettings
from caploc.locators.causal_tracing.trace import Kind, Tracing
from caploc.neurons import Deviation, Dispersion, Scope, Threshold
from caploc.papers import load_paper
from caploc.tests.experiments.planted import planted
from caploc.tests.experiments.verdicts import EXPERIMENTS, A, B, run, study_of

DEPARTURES = [(setting, value) for setting, values in CHOICES.items() for value in values[1:]]


# ------------------------------------------------------------------------------------------------ names


def test_the_choices_are_those_of_the_library() -> None:
    implemented = {
        "dispersion": get_args(Dispersion),
        "scope": get_args(Scope),
        "deviation": get_args(Deviation),
        "quadrature": QUADRATURES,
        "path": PATHS,
        "value": VALUES,
        "gsm8k-form": ("free", *DATASETS["gsm8k"].forms),
        "restored": get_args(Kind),
    }
    assert dict(CHOICES) == implemented


def test_the_papers_open_questions_are_these_settings() -> None:
    questions = {
        entry.setting: entry
        for entry in load_paper("capability_localization").ambiguities.values()
        if entry.setting
    }
    assert set(questions) == set(CHOICES)
    for setting, entry in questions.items():
        assert entry.default == CHOICES[setting][0] and set(entry.alternatives) <= set(CHOICES[setting][1:])
        assert Reading.of({setting: entry.default}) == Reading()


def test_the_default_reading_is_what_the_library_does_by_default() -> None:
    reading, method, threshold = Reading(), Method(), Threshold()
    for field in fields(Reading):
        owner = method if hasattr(method, field.name) else threshold
        if field.name == "restored":
            assert reading.restored == Tracing().kind == StudySettings().restored
        elif field.name != "gsm8k_form":
            assert getattr(reading, field.name) == getattr(owner, field.name)
    assert not reading.departures() and StudySettings().attribution == method
    assert StudySettings().threshold(6.0) == threshold


@pytest.mark.parametrize(("setting", "value"), DEPARTURES)
def test_a_departure_names_itself(setting: str, value: str) -> None:
    reading = Reading.of({setting: value})
    assert reading.departures() == (f"{setting}={value}",)
    assert reading.settings == {**Reading().settings, setting: value}
    assert Reading.of(reading.settings) == reading


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scope": "token"}, "scope 'token' is unknown; choose one of model, layer"),
        ({"gsm8k-form": "essay"}, "gsm8k-form 'essay' is unknown; choose one of free, choice"),
        ({"sigma": "6"}, "the paper leaves no setting 'sigma' open; choose one of dispersion, scope, "),
        ({"gsm8k_form": "choice"}, "the paper leaves no setting 'gsm8k_form' open; choose one of "),
    ],
)
def test_what_is_no_reading(settings: dict[str, str], reason: str) -> None:
    with pytest.raises(OptionError) as caught:
        Reading.of(settings)
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)


def test_a_reading_replaces_only_what_it_departs_in() -> None:
    method = Method(steps=7, quadrature="trapezoid")
    assert StudySettings(method=method).attribution == method
    for setting in ("dispersion", "scope", "deviation", "gsm8k-form", "restored"):
        reading = Reading.of({setting: CHOICES[setting][1]})
        assert StudySettings(method=method, reading=reading).attribution == method
    for setting in ("quadrature", "path", "value"):
        value = CHOICES[setting][-1]
        settings = StudySettings(method=method, reading=Reading.of({setting: value}))
        assert settings.attribution == replace(method, **{setting: value})


# ------------------------------------------------------------------------------------------------ masks

CUT = Reading(dispersion="variance", scope="layer", deviation="positive")


@contextmanager
def thresholds_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Threshold]]:
    seen: set[Threshold] = set()
    original = Threshold.locate

    def locate(self: Threshold, scores: np.ndarray) -> np.ndarray:
        seen.add(self)
        return original(self, scores)

    with monkeypatch.context() as patch:
        patch.setattr(Threshold, "locate", locate)
        yield seen


@pytest.mark.parametrize("claim", [claim for claim in EXPERIMENTS if claim != "method-default-sigma6"])
def test_every_experiment_cuts_as_the_reading_says(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(planted(0, 40, A), planted(1, 40, B), reading=CUT)
    with thresholds_seen(monkeypatch) as seen:
        run(claim, study)
    assert seen == {Threshold(6, "variance", "layer", "positive")}


def test_the_literal_variance_is_its_own_under_any_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(planted(0, 40, A), reading=Reading(scope="layer", deviation="positive"))
    with thresholds_seen(monkeypatch) as seen:
        finding, _ = run("eq8-literal-variance", study)
    assert seen == {Threshold(6, "variance", "layer", "positive")}
    assert finding.settings["dispersion"] == "variance" and "literal variance" in finding.measurement.quantity


def test_the_choice_of_sigma_compares_both_dispersions_under_any_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = study_of(planted(0, 40, A), reading=CUT)
    with thresholds_seen(monkeypatch) as seen:
        run("method-default-sigma6", study)
    cuts = {(threshold.sigma, threshold.dispersion) for threshold in seen}
    assert cuts == {(6, "std"), (6, "variance"), (3, "std"), (12, "std")}
    assert {(threshold.scope, threshold.deviation) for threshold in seen} == {("layer", "positive")}


def test_a_positive_reading_locates_what_is_above_the_mean() -> None:
    scores = planted(0, 40, A[:4]) + planted(1, 40, A[4:], level=-1.0)
    both, above = (
        run("table1-neuron", study_of(scores, reading=reading))[0].measurement.asides["located"]
        for reading in (Reading(), Reading(deviation="positive"))
    )
    assert (both, above) == (8, 4)


def test_the_heat_map_shows_the_scores_that_can_pass() -> None:
    scores = planted(0, 40, A[:4]) + planted(1, 40, A[4:], level=-1.0)
    titles, largest = [], []
    for reading in (Reading(), Reading(deviation="positive")):
        plot = run("fig4-dataset-overlap", study_of(scores, reading=reading))[0].measurement.plots[0]
        titles.append(plot.title)
        largest.append(np.array(plot.data["values"])[0].reshape(4, -1).max(1))
    assert "largest |z| among" in titles[0] and "largest z among" in titles[1]
    assert (largest[0] > 6).all() and (largest[1][:2] > 6).all() and (largest[1][2:] < 6).all()
