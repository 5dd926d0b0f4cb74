"""The premises of KN, KC and ROME where what was measured is planted: each verdict where it must come out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest

from caploc.experiments import premises
from caploc.experiments.completeness import KnownScores
from caploc.experiments.fact_circuits import DEGREES, NODES, UNIFORM
from caploc.experiments.facts import facts_of
from caploc.experiments.premises import PAPER_FACTS
from caploc.experiments.study import Study
from caploc.findings import Finding, Outcome, Verdict
from caploc.tests.experiments.planted_edits import (
    DRAWS,
    LAYERS,
    MOSTLY,
    SELDOM,
    edit_study,
    shares,
    successes,
)
from caploc.tests.experiments.planted_facts import (
    aside,
    ends,
    estimate,
    fact_set,
    planted_study,
    run,
    scaled_of,
    scaled_study,
)
from caploc.tests.experiments.test_reliability_kc import planted as circuit_study
from caploc.tests.experiments.test_reliability_kn import RANDOM

EDITING, CORRUPTION, RESTORATION = (
    "bg-rome-layer-editing",
    "bg-rome-corruption",
    "bg-rome-restoration-locates",
)


# ------------------------------------------------------------------------------------------------------------------- KN


def scores_study(attributed: list[np.ndarray], lost: list[np.ndarray], **settings: Any) -> Study:
    """A study of these attributions to facts that are all known, and of what each neuron does alone."""
    count = settings["neuron_path_samples"] or PAPER_FACTS
    return planted_study(
        {
            facts_of("zsre", 1): fact_set(40, 1, "zsre"),
            KnownScores("zsre", count, "layer"): attributed,
            KnownScores("zsre", count, "neuron"): lost,
        },
        **settings,
    )


@pytest.mark.parametrize(
    ("noise", "outcome"), [(0.3, Outcome.SUPPORTED), (30.0, Outcome.REFUTED), (1.73, Outcome.INCONCLUSIVE)]
)
def test_attribution_against_contribution(noise: float, outcome: Outcome) -> None:
    """Contributions that are the attributions and noise."""
    attributed, added = (
        [np.random.default_rng([stream, number]).normal(size=(3, 100)) for number in range(30)]
        for stream in (1, 2)
    )
    lost = [first + noise * second for first, second in zip(attributed, added, strict=True)]
    study = scores_study(
        [one.astype(np.float32) for one in attributed],
        [one.astype(np.float32) for one in lost],
        neuron_path_samples=30,
    )
    finding, verdict = run(
        premises.attribution_measures_contribution, study, "bg-attr-measures-contribution", dataset="zsre"
    )
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert found.n == 30 and found.value is not None and found.value.unit == "correlation"


def test_facts_that_no_neuron_changes_are_a_floor_effect() -> None:
    nothing = [np.zeros((3, 10), np.float32)] * 40
    study = scores_study(nothing, nothing, neuron_path_samples=None)
    _, verdict = run(
        premises.attribution_measures_contribution, study, "bg-attr-measures-contribution", dataset="zsre"
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE and verdict.reason.startswith("floor effect: no neuron")


def verification(
    doubled: float, zeroed: float, random: float, clean: float = -6.0
) -> tuple[Finding, Verdict]:
    generator = np.random.default_rng(6)
    noise = 0.05 * generator.normal(size=(2, 60))
    others = random + 0.05 * generator.normal(size=(2, 60, RANDOM))
    scaled = scaled_of((doubled + noise[0], zeroed + noise[1]), (others[0], others[1]), clean)
    return run(premises.kn_verification, scaled_study(scaled), "bg-kn-verification", dataset="zsre")


def test_verification_of_kn() -> None:
    """Four effects: all there, or one missing."""
    finding, verdict = verification(0.3, -0.4, 0.0)
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason
    parts = finding.measurement.parts
    assert estimate(parts["zeroed weakens"]) == pytest.approx(0.4, abs=0.03)
    assert estimate(parts["doubled strengthens more than random"]) == pytest.approx(0.3, abs=0.03)
    assert len(parts) == 4 and all(part.p is not None for part in parts.values())
    assert verification(0.0, -0.4, 0.0)[1].outcome is Outcome.REFUTED
    assert verification(0.3, -0.4, -0.4)[1].outcome is Outcome.REFUTED, "random zeroing weakens as much"


def test_answers_at_the_ceiling_are_judged_by_their_log_odds() -> None:
    """P = .996: log P can rise by .004 nats, and halving 1 - P is a change of .69 nats of log odds."""
    up, down = np.full(60, 0.002), np.full(60, -0.02)
    scaled = scaled_of((up, down), (np.zeros((60, RANDOM)), np.zeros((60, RANDOM))), -0.004)
    finding, verdict = run(
        premises.kn_verification, scaled_study(scaled), "bg-kn-verification", dataset="zsre"
    )
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason
    assert estimate(finding.measurement.parts["doubled strengthens"]) == pytest.approx(np.log(2), abs=0.01)


# ------------------------------------------------------------------------------------------------------------------- KC


@pytest.mark.parametrize(
    ("facts", "recall", "random", "outcome"),
    [
        (60, 0.9, 0.3, Outcome.SUPPORTED),
        (60, 0.5, 0.9, Outcome.REFUTED),
        (800, 0.5, 0.5, Outcome.REFUTED),
        (60, 0.0, 0.0, Outcome.REFUTED),
        (60, 0.9, {UNIFORM: 0.0, DEGREES: 0.92, NODES: 0.0}, Outcome.INCONCLUSIVE),
        (60, 0.99, {UNIFORM: 0.0, DEGREES: 0.99, NODES: 0.0}, Outcome.INCONCLUSIVE),
    ],
)
def test_recall_premise(
    facts: int, recall: float, random: float | Mapping[str, float], outcome: Outcome
) -> None:
    study = circuit_study(facts, recall, random, top=10)
    finding, verdict = run(premises.kc_recall_premise, study, "bg-kc-recall-premise", dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    worst = random if isinstance(random, float) else max(random.values())
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(recall - worst, abs=0.05)
    assert set(found.parts) == {"uniform", "same degrees"}
    assert all(part.p is not None for part in found.parts.values())
    assert aside(found, "rank 1 or better") == 0
    assert aside(found, "recall of the circuit") == pytest.approx(recall, abs=0.01)
    assert (found.floor is not None) == (worst > 0.95)


def test_recall_of_facts_that_are_not_known_is_a_floor_effect() -> None:
    study = circuit_study(200, 0.2, 0.0, rank=np.full(200, 2))
    _, verdict = run(premises.kc_recall_premise, study, "bg-kc-recall-premise", dataset="zsre")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "the model does not know the facts (0 of 200)"


# ----------------------------------------------------------------------------------------------------------------- ROME


@pytest.mark.parametrize(
    ("share", "facts", "outcome"),
    [(0.8, 40, Outcome.SUPPORTED), (0.0, 200, Outcome.REFUTED), (0.04, 24, Outcome.INCONCLUSIVE)],
)
def test_layer_editing(share: float, facts: int, outcome: Outcome) -> None:
    study = edit_study(successes([0, 0, share, 0, 0, 0], facts))
    finding, verdict = run(premises.rome_layer_editing, study, EDITING, dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(share, abs=0.02)
    assert aside(found, "last prompt token") == 1
    assert found.controls["efficacy without an edit"] == 0 and 0 <= aside(found, "McNemar") <= 1


@pytest.mark.parametrize(
    ("share", "facts", "outcome"),
    [
        (0.0, 40, Outcome.SUPPORTED),
        (0.2, 40, Outcome.SUPPORTED),
        (0.9, 40, Outcome.REFUTED),
        (1.0, 40, Outcome.REFUTED),
        (0.5, 16, Outcome.INCONCLUSIVE),
    ],
)
def test_corruption(share: float, facts: int, outcome: Outcome) -> None:
    count = facts + facts // 2
    survives = np.tile((np.arange(count) < round(share * count))[:, None], (1, DRAWS))
    study = edit_study(successes([0.5] * LAYERS, facts), noised=survives)
    finding, verdict = run(premises.rome_corruption, study, CORRUPTION, dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    low, high = ends(found.value)
    assert estimate(found.value) == pytest.approx(share, abs=0.03)
    assert low < high, "no interval is a point"
    assert aside(found, "McNemar, first draw") <= 1


def test_corruption_is_a_ratio_over_all_facts() -> None:
    """Of 60 facts 40 are known; noise keeps half of them, and makes one of the others right by chance."""
    known = np.arange(60) < 40
    noised = np.tile((np.arange(60) % 2 == 0)[:, None] & known[:, None], (1, DRAWS))
    noised[50] = True
    study = edit_study(successes([0.5] * LAYERS, 40), known=known, noised=noised)
    finding, _ = run(premises.rome_corruption, study, CORRUPTION, dataset="zsre")
    assert estimate(finding.measurement.value) == pytest.approx(21 / 40)
    assert aside(finding.measurement, "known facts alone") == pytest.approx(0.5)
    unknown = edit_study(successes([0.5] * LAYERS, 40), known=np.arange(60) < 15)
    _, verdict = run(premises.rome_corruption, unknown, CORRUPTION, dataset="zsre")
    assert verdict.reason == "the model does not know the facts (15 of 60)"


@pytest.mark.parametrize(
    ("sign", "outcome"), [(1, Outcome.SUPPORTED), (-1, Outcome.REFUTED), (0, Outcome.INCONCLUSIVE)]
)
def test_restoration(sign: int, outcome: Outcome) -> None:
    """Edits succeed where the most is restored, where the least is, or anywhere; five facts end alike everywhere."""
    generator = np.random.default_rng(4)
    edited = 40
    restored = generator.random((edited + edited // 2, LAYERS))
    follows = restored[:edited] if sign else generator.random((edited, LAYERS))
    success = ((sign or 1) * (follows - np.median(follows, axis=1, keepdims=True)) > 0).astype(float)
    success[:5] = 1
    study = edit_study(success, restored)
    finding, verdict = run(premises.rome_restoration_locates, study, RESTORATION, dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert found.n == 40 and finding.notes[0].startswith("in 5 of 40 facts edits end alike in all layers")
    if sign:
        # of six layers the upper three succeed: rho of ranks with halves; the five ties count as 0
        assert estimate(found.value) == pytest.approx(sign * 0.8783 * 35 / 40, abs=1e-4)
        assert aside(found, "facts whose edits differ between layers") == pytest.approx(
            sign * 0.8783, abs=1e-4
        )


def test_edits_that_end_alike_in_all_layers_have_no_correlation() -> None:
    success = successes([1.0] * LAYERS, 30)
    success[:10, 3:] = 0
    study = edit_study(success)
    _, verdict = run(premises.rome_restoration_locates, study, RESTORATION, dataset="zsre")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "layers cannot be ranked: in 20 of 30 facts edits end alike in all layers"


def restoration(number: int, follows: float, ties: float = 0.2) -> Verdict:
    """72 edited facts; edits succeed in layers by what is restored there, ``follows`` of them, and by accident."""
    rng = np.random.default_rng([5, number])
    restored = rng.random((108, LAYERS))
    score = np.where(rng.random(72)[:, None] < follows, restored[:72], rng.random((72, LAYERS)))
    success = (score > np.median(score, axis=1, keepdims=True)).astype(float)
    success[rng.random(72) < ties] = 1
    study = edit_study(success, restored)
    return run(premises.rome_restoration_locates, study, RESTORATION, dataset="zsre")[1]


def test_rates_of_restoration() -> None:
    """A mean correlation of 0, of .3, the line, and of .63 with the ties."""
    nothing, line, much = (shares(partial(restoration, follows=share)) for share in (0.0, 0.427, 0.9))
    assert nothing[Outcome.REFUTED] >= MOSTLY and not nothing[Outcome.SUPPORTED], nothing
    assert line[Outcome.SUPPORTED] <= SELDOM and line[Outcome.REFUTED] <= SELDOM, line
    assert much[Outcome.SUPPORTED] >= MOSTLY and not much[Outcome.REFUTED], much


def corruption(number: int, survives: float) -> Verdict:
    """108 facts, each with a chance of its own to survive the noise, ``survives`` on average."""
    rng = np.random.default_rng([6, number])
    noised = rng.random((108, DRAWS)) < rng.beta(survives, 1 - survives, 108)[:, None]
    study = edit_study(successes([0.5] * LAYERS, 72), noised=noised)
    return run(premises.rome_corruption, study, CORRUPTION, dataset="zsre")[1]


def test_rates_of_corruption() -> None:
    low, line, high = (shares(partial(corruption, survives=share)) for share in (0.35, 0.5, 0.65))
    assert low[Outcome.SUPPORTED] >= MOSTLY and not low[Outcome.REFUTED], low
    assert line[Outcome.SUPPORTED] <= SELDOM and line[Outcome.REFUTED] <= SELDOM, line
    assert high[Outcome.REFUTED] >= MOSTLY and not high[Outcome.SUPPORTED], high
