"""ROME's reliability on planted edits: each verdict where it must come out, and what decides it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest
from scipy import stats

from caploc import statistics
from caploc.experiments import reliability_rome
from caploc.experiments.edited_facts import CPU_EDITED, Editable, FactTraces, locate_layer
from caploc.findings import Outcome, Verdict
from caploc.statistics import compare_successes, equivalence_p, largest_mean_p
from caploc.tests.experiments.planted import PAPER
from caploc.tests.experiments.planted_edits import (
    LAYERS,
    MOSTLY,
    NOISED,
    SELDOM,
    edit_study,
    shares,
    successes,
)
from caploc.tests.experiments.planted_facts import aside, estimate, run

EQUAL, IPP = "reliability-rome-layers-equal", "reliability-rome-ipp"
ALIKE = [0.8] * LAYERS
BETTER = [0.1, 0.1, 0.9, 0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("shares", "facts", "outcome"),
    [
        (ALIKE, 200, Outcome.SUPPORTED),
        ([0.1, 0.1, 0.8, 0.8, 0.8, 0.8], 200, Outcome.SUPPORTED),
        (BETTER, 200, Outcome.REFUTED),
        ([0.9, 0.9, 0.1, 0.9, 0.9, 0.9], 200, Outcome.REFUTED),
        (ALIKE, 18, Outcome.INCONCLUSIVE),
    ],
)
def test_layers_equal(shares: list[float], facts: int, outcome: Outcome) -> None:
    study = edit_study(successes(shares, facts))
    finding, verdict = run(reliability_rome.rome_layers_equal, study, EQUAL, dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    others = np.array([share for layer, share in enumerate(shares) if layer != 2])
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(shares[2] - others.mean(), abs=0.03)
    for layer in (0, 1, 3, 4, 5):
        expected = shares[2] - shares[layer]
        assert estimate(found.parts[f"layer-{layer}"]) == pytest.approx(expected, abs=0.05)
    assert "layer-2" not in found.parts and aside(found, "located layer") == 2
    assert any("too few to show two layers equal" in note for note in finding.notes) is (facts == 18)
    assert any("last prompt token: no difference can show" in note for note in finding.notes)
    (plot,) = found.plots
    assert plot.kind == "layers" and plot.data["located"] == 2
    assert plot.data["curves"]["efficacy"]["mean"] == pytest.approx(shares, abs=0.03)


def test_the_papers_model_is_edited_in_its_printed_layer() -> None:
    shares = [0.1, 0.1, 0.9, 0.1, 0.1, 0.4]
    study = edit_study(successes(shares, 60))
    finding, _ = run(reliability_rome.rome_layers_equal, study, EQUAL, "gptj-6b", "zsre")
    assert aside(finding.measurement, "located layer") == 5 and finding.published is None
    assert any("by tracing, put back in layer 2, the clean state" in note for note in finding.notes)


def test_the_layer_is_located_on_facts_that_are_not_edited() -> None:
    """The edited facts restore layer 4, the others layer 1, facts that are not known layer 3."""
    known = np.ones(60, bool)
    known[-6:] = False
    study = edit_study(successes(ALIKE, 40), known=known)
    found, traces = study.result(Editable("zsre")), study.result(FactTraces("zsre"))
    assert found.edited.tolist() == list(range(37)) and found.others.tolist() == list(range(37, 54))
    traces.restored[:] = 0
    traces.restored[:36, 4] = traces.restored[36:54, 1] = traces.restored[54:, 3] = 1
    claim = PAPER.claim(EQUAL)
    own = locate_layer("tiny-llama", claim, found, traces, 0)
    assert own.layer == 1 and own.floor is None and own.p < 0.001
    assert own.note.startswith(
        "layer 1 counts as located, since the paper names none for this model: put back in"
    )
    printed = locate_layer("gptj-6b", claim, found, traces, 0)
    assert printed.layer == 5 and printed.note.startswith(
        "layer 5 is the printed one and counts as located; by"
    )


def disagreeing(number: int, lead: float, share: float = 0.1, facts: int = CPU_EDITED) -> np.ndarray:
    """``[facts, layers]`` edits of which ``share`` end otherwise in each layer than in the located one, whose efficacy
    is .6, and so many more succeed in it as ``lead`` says."""
    rng = np.random.default_rng([7, number])
    own = rng.random(facts) < 0.6
    lost = (share + lead) / 2 / 0.6
    won = (share - lead) / 2 / 0.4
    change = rng.random((facts, LAYERS)) < np.where(own, lost, max(won, 0.0))[:, None]
    success = own[:, None] ^ change
    success[:, 2] = own
    return success.astype(float)


def outcomes(claim: str, lead: float, share: float) -> Mapping[str, float]:
    experiment = reliability_rome.rome_layers_equal if claim == EQUAL else reliability_rome.rome_ipp

    def simulate(number: int) -> Verdict:
        study = edit_study(disagreeing(number, lead, share))
        return run(experiment, study, claim, dataset="zsre")[1]

    return shares(simulate)


@pytest.mark.parametrize("claim", [EQUAL, IPP])
def test_rates_at_the_default_number_of_edits(claim: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal layers, of whose edits one in ten ends otherwise (for the IPP one in twenty); a located layer
    that is better by the margin, and by 30 points."""
    monkeypatch.setattr(statistics, "ipp", partial(statistics.ipp, resamples=199))
    equal, margin, better = (
        outcomes(claim, lead, share)
        for lead, share in ((0, 0.1 if claim == EQUAL else 0.05), (0.1, 0.2), (0.3, 0.3))
    )
    assert equal[Outcome.SUPPORTED] >= MOSTLY and equal[Outcome.REFUTED] <= SELDOM, equal
    assert margin[Outcome.SUPPORTED] <= SELDOM and margin[Outcome.REFUTED] <= SELDOM, margin
    assert better[Outcome.REFUTED] >= MOSTLY and better[Outcome.SUPPORTED] <= SELDOM, better


def noise_only(number: int, facts: int = CPU_EDITED // 2) -> float:
    """p of a layer's restoring where all layers differ from noise alone by noise."""
    values = np.random.default_rng([8, number]).normal(0, 0.05, (facts, LAYERS))
    return largest_mean_p(values, np.arange(facts), number)


def test_noise_seldom_locates_a_layer_and_a_small_gain_mostly_does() -> None:
    ps = np.array([noise_only(number) for number in range(200)])
    assert 1 <= (ps < 0.05).sum() <= 20 and 0.4 < ps.mean() < 0.6
    gain = np.random.default_rng(9).normal(0, 0.05, (CPU_EDITED // 2, LAYERS))
    gain[:, 3] += 0.05
    assert largest_mean_p(gain, np.arange(len(gain)), 0) < 0.01
    assert largest_mean_p(gain, np.zeros(len(gain)), 0) > 0.3  # one subject is one unit


@pytest.mark.parametrize("claim", [EQUAL, IPP])
def test_no_layer_is_located_where_tracing_restores_no_more_than_noise(claim: str) -> None:
    experiment = reliability_rome.rome_layers_equal if claim == EQUAL else reliability_rome.rome_ipp
    noise = np.random.default_rng(3).normal(NOISED, 0.02, (CPU_EDITED * 3 // 2, LAYERS))
    for planted in (ALIKE, BETTER):
        study = edit_study(successes(planted, CPU_EDITED), noise)
        finding, verdict = run(experiment, study, claim, dataset="zsre")
        assert verdict.outcome is Outcome.INCONCLUSIVE and verdict.reason == finding.measurement.floor
        assert verdict.reason.startswith(
            "causal tracing locates no layer whose edits could be compared: put back"
        )
        _, printed = run(experiment, study, claim, "gptj-6b", "zsre")
        assert not printed.reason.startswith("causal tracing")


@pytest.mark.parametrize("claim", [EQUAL, IPP])
def test_facts_that_no_layer_edits_are_a_floor_effect(claim: str) -> None:
    experiment = reliability_rome.rome_layers_equal if claim == EQUAL else reliability_rome.rome_ipp
    _, verdict = run(experiment, edit_study(np.zeros((30, LAYERS))), claim, dataset="zsre")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "floor effect: none of 30 facts can be edited in any layer"


@pytest.mark.parametrize(("known", "reason"), [(10, "does not know the facts"), (20, "23 are needed, 16 to")])
def test_too_few_known_facts(known: int, reason: str) -> None:
    study = edit_study(successes(ALIKE, 24), known=np.arange(36) < known)
    _, verdict = run(reliability_rome.rome_layers_equal, study, EQUAL, dataset="zsre")
    assert verdict.outcome is Outcome.INCONCLUSIVE and reason in verdict.reason


@pytest.mark.parametrize(
    ("shares", "facts", "outcome"),
    [
        ([1.0] * LAYERS, 96, Outcome.SUPPORTED),
        ([0.5, 0.9, 0.5, 0.5, 0.5, 0.5], 100, Outcome.SUPPORTED),
        (BETTER, 100, Outcome.REFUTED),
        ([1.0] * LAYERS, 20, Outcome.INCONCLUSIVE),
    ],
)
def test_ipp(shares: list[float], facts: int, outcome: Outcome) -> None:
    finding, verdict = run(
        reliability_rome.rome_ipp, edit_study(successes(shares, facts)), IPP, "tiny-llama", "zsre"
    )
    assert verdict.outcome is outcome, verdict.reason
    best = max(share for layer, share in enumerate(shares) if layer != 2)
    assert estimate(finding.measurement.value) == pytest.approx(shares[2] - best, abs=0.03)
    assert aside(finding.measurement, "located layer among the choices, same facts") <= 0
    saturated = any(note.startswith("every edit succeeds in every layer: ") for note in finding.notes)
    assert saturated is (set(shares) == {1.0})


def test_intervals_of_few_disagreements_keep_their_width() -> None:
    same = np.ones(24)
    effect = compare_successes(same, same, np.arange(24), 0)
    width = stats.norm.isf(0.05) * np.sqrt((2 / 26) / 26)
    assert (effect.interval90.low, effect.interval90.high) == pytest.approx((-width, width))
    assert effect.interval.high > effect.interval90.high > 0.05
    first = np.array([1.0] * 18 + [0.0] * 6)
    wide = compare_successes(first, 1 - first, np.arange(24), 0)
    assert wide.estimate == 0.5 and wide.interval.contains(0.5)


def test_equivalence_p() -> None:
    """Against Bonett & Price by hand; below .05 just where the 90 % interval lies within the margin."""
    first, second = np.ones(60), np.ones(60)
    second[:3], first[3:4] = 0, 0
    centre = (4 - 2) / 62
    error = np.sqrt((6 / 62 - centre**2) / 62)
    for margin in (0.05, 0.1, 0.2):
        expected = max(stats.norm.sf((centre + margin) / error), stats.norm.cdf((centre - margin) / error))
        p = equivalence_p(first, second, margin)
        assert p == pytest.approx(expected)
        assert (p < 0.05) == (abs(centre) + stats.norm.isf(0.05) * error < margin)
