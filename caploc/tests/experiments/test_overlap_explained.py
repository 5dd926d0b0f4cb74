"""What explains overlap: planted sizes, layers and frequencies are found, and found apart from each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caploc.experiments import overlap_explained as experiments
from caploc.experiments.locating import Magnitudes
from caploc.experiments.overlap_explained import OutputNorms, explained_by, properties
from caploc.experiments.rival_sets import Evidence
from caploc.experiments.specs import FloorError
from caploc.findings import Cell, Count, Effect, Outcome
from caploc.locators.magnitude import Magnitude
from caploc.tests.experiments.planted import LAYERS, NEURONS, PlantedStudy, judged, noise, planted, sums_of
from caploc.tests.experiments.verdicts import A, B, study_of

RNG = np.random.default_rng(7)
NORMS = np.exp(RNG.normal(scale=0.2, size=(LAYERS, NEURONS)))
SIZES = np.exp(RNG.normal(size=(LAYERS, NEURONS)))
CELL = Cell("llama2-7b", "gsm8k", 6.0)


def with_sizes(study: PlantedStudy, sizes: np.ndarray) -> PlantedStudy:
    results = {
        OutputNorms(): NORMS,
        Magnitudes("gsm8k"): Magnitude(torch.from_numpy(sizes)),
        **{
            Evidence(key, "gsm8k"): FloorError("floor effect: nothing to lose") for key in experiments.METHODS
        },
    }
    study._results.update(results)
    return study


def large(neurons: list[tuple[int, int]]) -> np.ndarray:
    """Sizes in which these are the largest by far."""
    sizes = SIZES.copy()
    for place in neurons:
        sizes[place] = 60.0
    return sizes


def test_overlap_of_large_neurons_is_explained_by_their_size_and_that_of_others_is_not() -> None:
    same, other = (
        judged(
            experiments.overlap_explained,
            with_sizes(study_of(planted(0, 48, A), planted(1, 48, B)), large(neurons)),
            CELL,
            "control-overlap-explained",
        )
        for neurons in (A, B)
    )
    for finding, verdict in (same, other):
        assert verdict.outcome is Outcome.MEASURED
        assert finding.measurement.asides["overlap of halves"] == 1
        assert finding.measurement.asides["overlap by frequency"] > 0.8  # type: ignore[operator]
        assert any("nothing to lose" in note for note in finding.notes)
    explained, not_explained = (finding.measurement.value for finding, _ in (same, other))
    assert isinstance(explained, Count) and isinstance(not_explained, Count)
    # eight of a thousand are few: the penalty pulls their probabilities toward one half
    assert explained.estimate > 0.6 and not_explained.estimate < 0.2  # type: ignore[operator]


def test_twins_stand_beside_at_every_number_of_samples_that_all_have() -> None:
    study = with_sizes(study_of(planted(0, 48, A), planted(1, 48, B)), SIZES)
    controls = judged(experiments.overlap_explained, study, CELL, "control-overlap-explained")[
        0
    ].measurement.controls
    trained = {name: value for name, value in controls.items() if name.startswith("trained")}
    assert trained and set(trained.values()) == {1.0}
    assert all(controls.get(f"un{name}", 0) < 0.2 for name in trained)


def test_overlap_with_the_same_type_minus_other_types() -> None:
    """GSM8K and MetaMath share neurons, Emotion has others."""
    data = {
        (name, ""): planted(number, 48, B if name == "emotion" else A)
        for number, name in enumerate(("gsm8k", "meta_math", "emotion"))
    }
    data |= {
        (name, control): noise(50 + number, 48)
        for name, _ in list(data)
        for number, control in enumerate(
            ("untrained", "untrained-1", "untrained-2", "untrained-3", "scrambled")
        )
    }
    study = with_sizes(PlantedStudy(data), SIZES)
    found = judged(experiments.overlap_explained, study, CELL, "control-overlap-explained")[
        0
    ].measurement.asides
    gap = found["same type minus other types"]
    assert isinstance(gap, Effect) and gap.estimate == pytest.approx(1, abs=0.05)
    assert (
        "same type minus other types"
        not in judged(
            experiments.overlap_explained,
            with_sizes(study_of(planted(0, 48, A), planted(1, 48, B)), SIZES),
            CELL,
            "control-overlap-explained",
        )[0].measurement.asides
    )  # no other dataset of its type


def test_a_property_that_does_not_vary_has_no_column_and_layers_are_told_apart() -> None:
    scores = planted(3, 24, [(2, one) for one in range(0, 50, 5)])
    study = study_of(scores)
    found = properties(
        sums_of(scores), np.ones_like(NORMS), np.ones_like(NORMS), study.settings.threshold(6.0)
    )
    assert found["output norm"].shape == (LAYERS * NEURONS, 0) and found["layer"].shape == (
        LAYERS * NEURONS,
        LAYERS - 1,
    )
    located = np.zeros((LAYERS, NEURONS), dtype=bool)
    located[2, ::5] = True
    shown = explained_by(located, found)
    assert shown["overlap by layer"] == pytest.approx(0.2, abs=0.02)
    assert shown["deviance explained by output norm"] < 0.01


def test_nothing_located_is_a_floor() -> None:
    finding, _ = judged(
        experiments.overlap_explained,
        with_sizes(study_of(noise(0, 48)), SIZES),
        CELL,
        "control-overlap-explained",
    )
    assert finding.measurement.floor is not None and "no neuron passes" in finding.measurement.floor
