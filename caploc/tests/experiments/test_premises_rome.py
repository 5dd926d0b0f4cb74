"""ROME's premises on planted edits and traces: each verdict where it must come out."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.experiments import premises
from caploc.findings import Outcome
from caploc.tests.experiments.planted_edits import DRAWS, LAYERS, edit_study, successes
from caploc.tests.experiments.planted_facts import run

EDITING, CORRUPTION, RESTORATION = (
    "bg-rome-layer-editing",
    "bg-rome-corruption",
    "bg-rome-restoration-locates",
)


@pytest.mark.parametrize(
    ("share", "facts", "outcome"),
    [(0.8, 40, Outcome.SUPPORTED), (0.0, 200, Outcome.REFUTED), (0.04, 24, Outcome.INCONCLUSIVE)],
)
def test_layer_editing(share: float, facts: int, outcome: Outcome) -> None:
    study = edit_study(successes([0, 0, share, 0, 0, 0], facts))
    finding, verdict = run(premises.rome_layer_editing, study, EDITING, dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(share, abs=0.02)
    assert finding.quantities["last prompt token, estimate"] == 1
    assert finding.controls["efficacy without an edit"] == 0 and "McNemar" in finding.p_values


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
    assert finding.estimate == pytest.approx(share, abs=0.03)
    assert finding.interval is not None and finding.interval[0] < finding.interval[1], (
        "no interval is a point"
    )
    assert finding.p_values["McNemar, first draw"] <= 1


def test_corruption_is_a_ratio_over_all_facts() -> None:
    """Of 60 facts 40 are known; noise keeps half of them, and makes one of the others right by luck."""
    known = np.arange(60) < 40
    noised = np.tile((np.arange(60) % 2 == 0)[:, None] & known[:, None], (1, DRAWS))
    noised[50] = True
    study = edit_study(successes([0.5] * LAYERS, 40), known=known, noised=noised)
    finding, _ = run(premises.rome_corruption, study, CORRUPTION, dataset="zsre")
    assert finding.estimate == pytest.approx(21 / 40)
    assert finding.quantities["known facts alone"] == pytest.approx(0.5)
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
    assert finding.n == 35 and "5 of 40 facts left out" in finding.notes[0]
    if sign:
        # of six layers the upper three succeed: rho of ranks with halves
        assert finding.estimate == pytest.approx(sign * 0.8783, abs=1e-4)


def test_edits_that_end_alike_in_all_layers_have_no_correlation() -> None:
    success = successes([1.0] * LAYERS, 30)
    success[:10, 3:] = 0
    finding, verdict = run(
        premises.rome_restoration_locates, edit_study(success), RESTORATION, dataset="zsre"
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE and finding.interval is None
    assert verdict.reason.startswith("floor effect: in 20 of 30 facts edits end alike in all layers")
