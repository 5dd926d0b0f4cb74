"""Within and between datasets, trained and not, by one partition or another: planted neurons give the known verdict."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.experiments.commonality.partition import halves_by, ranks
from caploc.findings import Outcome
from caploc.statistics.splits import EXCHANGES
from caploc.tests.experiments.planted import (
    CONTROLS,
    PlantedStudy,
    exchangeable,
    noise,
    planted,
    sums_of,
)
from caploc.tests.experiments.verdicts import HALF_A, A, B, run, study_of


def test_neurons_of_one_dataset_alone_are_its_commonality() -> None:
    finding, verdict = run("table1-commonality", study_of(planted(0, 40, A), planted(1, 40, B)), sigma=3)
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.estimate == 1 and finding.quantities["within"] == 1
    assert finding.controls["text of imdb"] == 0 and finding.settings["nearest"] == "imdb"
    assert finding.p_values["permutation"] == finding.p_values["against imdb"] == 1 / (EXCHANGES + 1)


def test_the_nearest_of_the_other_datasets_counts() -> None:
    data = {}
    for name, neurons in (("gsm8k", A), ("imdb", B), ("code25k", HALF_A)):
        data |= {(name, control): noise(5, 40) for control in CONTROLS}
        data[name, ""] = planted(len(data), 40, neurons)
    study = PlantedStudy(data)
    finding, _ = run("table1-commonality", study, sigma=3)
    assert finding.settings["nearest"] == "code25k" and finding.estimate == 0.5
    assert finding.controls["text of imdb"] == 0 and finding.controls["text of code25k"] == 0.5
    assert finding.p_values["permutation"] == 1 / (EXCHANGES + 1), "the larger of the two"


def test_scrambled_text_that_overlaps_as_much_refutes() -> None:
    study = study_of(planted(0, 40, A), planted(1, 40, B), {"scrambled": planted(2, 40, B)})
    finding, verdict = run("table1-commonality", study)
    assert verdict.outcome is Outcome.REFUTED and "scrambled text overlaps equally" in verdict.reason
    assert finding.quantities["random_text_gap90_low"] == finding.quantities["random_text_gap90_high"] == 0


def test_datasets_with_the_same_neurons_are_hardly_ever_told_apart() -> None:
    """False positives at level .05: more than 5 of 40 would come with probability .014 were it kept exactly."""
    outcomes, small, overlaps = [], 0, []
    for seed in range(40):
        study = study_of(exchangeable(2 * seed), exchangeable(2 * seed + 1), seed=seed)
        finding, verdict = run("table1-commonality", study, sigma=3)
        outcomes.append(verdict.outcome)
        small += finding.p_values["permutation"] < 0.05
        overlaps.append(finding.quantities["within"])
    assert outcomes.count(Outcome.SUPPORTED) <= 5 and small <= 5
    assert 0.2 < np.mean(overlaps) < 0.9, "else nothing could be told apart anyway"


def test_datasets_with_other_neurons_are_told_apart() -> None:
    """The same with the second dataset's neurons permuted: the test has power."""
    outcomes = []
    for seed in range(8):
        other = np.roll(exchangeable(2 * seed + 1, 48), 77, axis=2)
        study = study_of(exchangeable(2 * seed, 48), other, seed=seed)
        outcomes.append(run("table1-commonality", study, sigma=3)[1].outcome)
    assert outcomes.count(Outcome.SUPPORTED) >= 7


def test_an_untrained_model_without_common_neurons() -> None:
    finding, verdict = run("control-untrained-overlap", study_of(planted(0, 40, A)), sigma=3)
    assert verdict.outcome is Outcome.SUPPORTED
    assert finding.quantities["trained"] == 1 and finding.controls["untrained twin"] < 0.2
    assert finding.estimate == pytest.approx(1 - finding.controls["untrained twin"])


def test_an_untrained_model_that_overlaps_as_much_refutes() -> None:
    study = study_of(planted(0, 40, A), controls={"untrained": planted(1, 40, B)})
    finding, verdict = run("control-untrained-overlap", study)
    assert finding.estimate == 0 and verdict.outcome is Outcome.REFUTED


def test_common_neurons_do_not_depend_on_the_partition() -> None:
    finding, verdict = run("table1-partition-independence", study_of(planted(0, 40, A)))
    assert verdict.outcome is Outcome.SUPPORTED and finding.quantities["range_random_structured"] == 0


@pytest.mark.parametrize("kind", ["prompt length", "answer", "source order"])
def test_neurons_that_depend_on_the_partition_refute(kind: str) -> None:
    """The half of the examples that comes first in one order has other neurons than the rest."""
    answers = {"gsm8k": [" ab"[:2] if index % 2 else " b" for index in range(40)]}
    located = study_of(noise(0, 40), answers=answers).located("gsm8k")
    rank = np.array(ranks(located)[kind])
    scores = noise(0, 40, 0.01)
    for first, neurons in ((True, A), (False, B)):
        for example in np.flatnonzero((rank < np.median(rank)) == first):
            for layer, neuron in neurons:
                scores[example, layer, neuron] += 1
    finding, verdict = run("table1-partition-independence", study_of(scores, answers=answers), sigma=3)
    assert verdict.outcome is Outcome.REFUTED
    assert finding.settings["worst"] == kind and finding.quantities[f"overlap by {kind}"] == 0
    assert finding.quantities["worst_structured_gap_low"] > 0.5


def test_structured_halves() -> None:
    """Shards in the order of their examples' mean rank, those that tie as they stand."""
    shards = sums_of(np.zeros((6, 1, 2)), 2)
    first, second = halves_by(shards, [5, 5, 1, 2, 3, 1])
    assert (first.tolist(), second.tolist()) == ([1], [2, 0])
