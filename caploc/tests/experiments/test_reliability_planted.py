"""Reliability on planted changes of probability: each verdict where it must come out."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.experiments import premises, reliability
from caploc.experiments.scaled_facts import ARMS, LARGEST, RANDOM_SETS, Scaled
from caploc.findings import Outcome
from caploc.tests.experiments.planted_facts import run, scaled_of, scaled_study

RANDOM = ARMS[LARGEST].stop - 1


def signs(share: float, shape: int | tuple[int, ...], seed: int) -> np.ndarray:
    """1 in about such a share of places, -1 in the others; exactly in a row of items."""
    if isinstance(shape, int):
        up = np.arange(shape) < round(share * shape)
        return np.where(np.random.default_rng(seed).permutation(up), 1.0, -1.0)
    return np.where(np.random.default_rng(seed).random(shape) < share, 1.0, -1.0)


def planted(
    facts: int, ups: tuple[float, float, float, float], clean: float = -1.0, size: float = 0.3
) -> Scaled:
    """Shares of answers that get likelier: located doubled, random doubled, located zeroed, random zeroed."""
    doubled, random_doubled, zeroed, random_zeroed = ups
    return scaled_of(
        (size * signs(doubled, facts, 1), size * signs(zeroed, facts, 2)),
        (size * signs(random_doubled, (facts, RANDOM), 3), size * signs(random_zeroed, (facts, RANDOM), 4)),
        clean,
    )


PRINTED = (0.851, 0.723, 0.274, 0.176)


@pytest.mark.parametrize(
    ("name", "ups", "outcome"),
    [
        ("double", PRINTED, Outcome.SUPPORTED),
        ("zero", PRINTED, Outcome.SUPPORTED),
        ("double", (0.6, 0.723, 0.3, 0.2), Outcome.REFUTED),
        ("zero", (0.851, 0.723, 0.274, 0.5), Outcome.REFUTED),
    ],
)
def test_printed_shares(name: str, ups: tuple[float, float, float, float], outcome: Outcome) -> None:
    study, claim = scaled_study(planted(1000, ups)), f"reliability-kn-{name}"
    finding, verdict = run(getattr(reliability, f"kn_{name}"), study, claim, "gptj-6b", "zsre")
    assert verdict.outcome is outcome, verdict.reason
    moved = ups[:2] if name == "double" else ups[2:]
    for which, share in zip(("located", "random"), moved, strict=True):
        assert finding.quantities[f"number:{which}-increase:estimate"] == pytest.approx(share, abs=0.01)
        assert finding.quantities[f"number:{which}-decrease:estimate"] == pytest.approx(1 - share, abs=0.01)
    _, elsewhere = run(getattr(reliability, f"kn_{name}"), study, claim, "tiny-llama", "zsre")
    assert elsewhere.outcome is Outcome.INCONCLUSIVE
    assert elsewhere.reason == "the paper prints no number for this model"


@pytest.mark.parametrize(
    ("facts", "ups", "outcome"),
    [
        (1000, (0.6, 0.6, 0.4, 0.4), Outcome.SUPPORTED),
        (1000, (0.9, 0.6, 0.4, 0.4), Outcome.REFUTED),
        (1000, (0.6, 0.6, 0.6, 0.4), Outcome.REFUTED),
        (40, (0.6, 0.6, 0.4, 0.4), Outcome.INCONCLUSIVE),
    ],
)
def test_similar_to_random(facts: int, ups: tuple[float, float, float, float], outcome: Outcome) -> None:
    study = scaled_study(planted(facts, ups))
    finding, verdict = run(
        reliability.kn_similar_to_random, study, "reliability-kn-similar-to-random", dataset="zsre"
    )
    assert verdict.outcome is outcome, verdict.reason
    assert finding.quantities["effect:doubled:estimate"] == pytest.approx(ups[0] - ups[1], abs=0.03)
    assert finding.quantities["effect:zeroed:estimate"] == pytest.approx(ups[3] - ups[2], abs=0.03)
    assert "by magnitude sets, zeroed:low90" in finding.quantities and finding.plots


@pytest.mark.parametrize(
    ("ups", "outcome"),
    [
        ((0.8, 0.5, 0.2, 0.5), Outcome.SUPPORTED),
        ((1.0, 0.5, 0.0, 0.5), Outcome.REFUTED),
        ((0.8, 0.5, 0.0, 0.5), Outcome.INCONCLUSIVE),
    ],
)
def test_not_necessarily(ups: tuple[float, float, float, float], outcome: Outcome) -> None:
    study = scaled_study(planted(200, ups))
    finding, verdict = run(
        reliability.kn_not_necessarily, study, "reliability-kn-not-necessarily", dataset="zsre"
    )
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(min(1 - ups[0], ups[2]))


@pytest.mark.parametrize(("strength", "outcome"), [(0.0, Outcome.SUPPORTED), (3.0, Outcome.REFUTED)])
def test_correlation(strength: float, outcome: Outcome) -> None:
    """Zeroing alone follows attribution, which is enough to refute."""
    generator = np.random.default_rng(5)
    attribution = generator.random((60, RANDOM + 1))
    change = -strength * attribution + generator.random((60, RANDOM + 1))
    doubled = generator.random((60, RANDOM + 1))
    scaled = scaled_of(
        (doubled[:, 0], change[:, 0]), (doubled[:, 1:], change[:, 1:]), attribution=attribution
    )
    finding, verdict = run(
        reliability.kn_no_strong_correlation,
        scaled_study(scaled),
        "reliability-kn-no-strong-correlation",
        dataset="zsre",
    )
    assert verdict.outcome is outcome, verdict.reason
    from scipy.stats import spearmanr

    used = slice(0, 1 + RANDOM_SETS)
    rhos = [
        spearmanr(attribution[:, used].ravel(), one[:, used].ravel()).statistic for one in (doubled, change)
    ]
    assert finding.estimate == pytest.approx(max(map(abs, rhos)))
    assert finding.quantities["rho, zeroed"] == pytest.approx(rhos[1])


def test_sets_without_any_difference_say_nothing() -> None:
    flat = scaled_of((np.ones(40), np.ones(40)), (np.ones((40, RANDOM)), np.ones((40, RANDOM))))
    _, verdict = run(
        reliability.kn_no_strong_correlation,
        scaled_study(flat),
        "reliability-kn-no-strong-correlation",
        dataset="zsre",
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE and verdict.reason.startswith("floor effect: ")


@pytest.mark.parametrize("name", ["double", "zero", "similar_to_random", "not_necessarily", "ipp"])
def test_probabilities_that_do_not_change_are_a_floor_effect(name: str) -> None:
    tied = scaled_of(
        (np.ones(40), np.r_[np.zeros(21), np.ones(19)]), (np.ones((40, RANDOM)), np.ones((40, RANDOM)))
    )
    claim = f"reliability-kn-{name.replace('_', '-')}"
    finding, verdict = run(getattr(reliability, f"kn_{name}"), scaled_study(tied), claim, "gptj-6b", "zsre")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.floor and "zeroing the located neurons changes no probability" in finding.floor


@pytest.mark.parametrize(
    ("ups", "outcome"),
    [((0.614, 0.5, 0.386, 0.5), Outcome.SUPPORTED), ((0.5, 0.5, 0.5, 0.5), Outcome.REFUTED)],
)
def test_ipp(ups: tuple[float, float, float, float], outcome: Outcome) -> None:
    """11.4 points more than random, or no more than it."""
    study = scaled_study(planted(2000, ups))
    finding, verdict = run(reliability.kn_ipp, study, "reliability-kn-ipp", "gptj-6b", "zsre")
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(ups[0] - 0.5, abs=0.02)
    assert finding.quantities["chosen and scored on the same facts (biased)"] < finding.estimate


def verification(doubled: float, zeroed: float, random: float, clean: float = -1.0):
    generator = np.random.default_rng(6)
    noise = 0.05 * generator.normal(size=(2, 60))
    others = random + 0.05 * generator.normal(size=(2, 60, RANDOM))
    scaled = scaled_of((doubled + noise[0], zeroed + noise[1]), (others[0], others[1]), clean)
    return run(premises.kn_verification, scaled_study(scaled), "bg-kn-verification", dataset="zsre")


def test_verification_of_kn() -> None:
    """Four effects: all there, one missing, and a ceiling below which none could be seen."""
    finding, verdict = verification(0.3, -0.4, 0.0)
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason
    assert finding.quantities["effect:zeroed weakens:estimate"] == pytest.approx(0.4, abs=0.03)
    assert finding.quantities["effect:doubled strengthens more than random:estimate"] == pytest.approx(
        0.3, abs=0.03
    )
    assert len(finding.p_values) == 4
    assert verification(0.0, -0.4, 0.0)[1].outcome is Outcome.REFUTED
    assert verification(0.3, -0.4, -0.4)[1].outcome is Outcome.REFUTED, "random zeroing weakens as much"
    finding, verdict = verification(0.0, -0.4, 0.0, clean=-0.004)
    assert verdict.outcome is Outcome.INCONCLUSIVE and verdict.reason.startswith("ceiling effect: ")
    assert finding.quantities["effect:zeroed weakens:low"] > 0.3, "the effects are shown all the same"
