"""Reliability of KN on planted changes of probability: each verdict where it must come out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from caploc.experiments import reliability_kn
from caploc.experiments.scaled_facts import ARMS, LARGEST, Scaled
from caploc.findings import Effect, Outcome
from caploc.tests.experiments.planted_facts import aside, estimate, run, scaled_of, scaled_study

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
    finding, verdict = run(getattr(reliability_kn, f"kn_{name}"), study, claim, "gptj-6b", "zsre")
    assert verdict.outcome is outcome, verdict.reason
    moved = ups[:2] if name == "double" else ups[2:]
    parts = finding.measurement.parts
    for which, share in zip(("located", "random"), moved, strict=True):
        assert estimate(parts[f"{which}-increase"]) == pytest.approx(share, abs=0.01)
        assert estimate(parts[f"{which}-decrease"]) == pytest.approx(1 - share, abs=0.01)


@pytest.mark.parametrize(
    ("name", "ups", "outcome"),
    [
        ("double", PRINTED, Outcome.SUPPORTED),
        ("double", (0.95, 0.5, 0.3, 0.2), Outcome.SUPPORTED),
        ("double", (0.6, 0.723, 0.3, 0.2), Outcome.REFUTED),
        ("zero", PRINTED, Outcome.SUPPORTED),
        ("zero", (0.851, 0.723, 0.1, 0.5), Outcome.REFUTED),
        ("zero", (0.851, 0.723, 0.7, 0.2), Outcome.REFUTED),
        ("zero", (0.851, 0.723, 0.2, 0.2), Outcome.REFUTED),
    ],
)
def test_elsewhere_the_direction_of_the_printed_shares_decides(
    name: str, ups: tuple[float, float, float, float], outcome: Outcome
) -> None:
    """Doubling strengthens more often than random, zeroing weakens less often: other numbers may be others."""
    study, claim = scaled_study(planted(1000, ups)), f"reliability-kn-{name}"
    _, verdict = run(getattr(reliability_kn, f"kn_{name}"), study, claim, "tiny-llama", "zsre")
    assert verdict.outcome is outcome, verdict.reason
    assert verdict.reason.startswith("in the direction of the printed numbers: ")


def test_facts_that_all_move_alike_are_no_proof() -> None:
    alike = scaled_of((np.ones(24), -np.ones(24)), (np.ones((24, RANDOM)), -np.ones((24, RANDOM))))
    finding, verdict = run(
        reliability_kn.kn_similar_to_random,
        scaled_study(alike),
        "reliability-kn-similar-to-random",
        dataset="zsre",
    )
    assert all(one.interval90 and one.interval90[0] < -0.1 for one in finding.measurement.of(Effect).values())
    many = scaled_of((np.ones(96), -np.ones(96)), (np.ones((96, RANDOM)), -np.ones((96, RANDOM))))
    _, verdict = run(
        reliability_kn.kn_similar_to_random,
        scaled_study(many),
        "reliability-kn-similar-to-random",
        dataset="zsre",
    )
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason


@pytest.mark.parametrize(
    ("facts", "ups", "outcome"),
    [
        (1000, (0.6, 0.6, 0.4, 0.4), Outcome.SUPPORTED),
        (1000, (0.7, 0.6, 0.3, 0.2), Outcome.SUPPORTED),  # 10 points apart are similar, as in the paper
        (1000, (0.9, 0.6, 0.4, 0.4), Outcome.REFUTED),
        (1000, (0.6, 0.6, 0.6, 0.4), Outcome.REFUTED),
        (40, (0.6, 0.6, 0.4, 0.4), Outcome.INCONCLUSIVE),
    ],
)
def test_similar_to_random(facts: int, ups: tuple[float, float, float, float], outcome: Outcome) -> None:
    study = scaled_study(planted(facts, ups))
    finding, verdict = run(
        reliability_kn.kn_similar_to_random, study, "reliability-kn-similar-to-random", dataset="zsre"
    )
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert estimate(found.parts["doubled"]) == pytest.approx(ups[0] - ups[1], abs=0.03)
    assert estimate(found.parts["zeroed"]) == pytest.approx(ups[3] - ups[2], abs=0.03)
    beside = found.asides["by magnitude sets, zeroed"]
    assert isinstance(beside, Effect) and beside.interval90 is not None and found.plots


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
        reliability_kn.kn_not_necessarily, study, "reliability-kn-not-necessarily", dataset="zsre"
    )
    assert verdict.outcome is outcome, verdict.reason
    assert estimate(finding.measurement.value) == pytest.approx(min(1 - ups[0], ups[2]))


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
        reliability_kn.kn_no_strong_correlation,
        scaled_study(scaled),
        "reliability-kn-no-strong-correlation",
        dataset="zsre",
    )
    assert verdict.outcome is outcome, verdict.reason
    used = slice(0, 1)
    rhos = [
        spearmanr(attribution[:, used].ravel(), one[:, used].ravel()).statistic for one in (doubled, change)
    ]
    assert estimate(finding.measurement.value) == pytest.approx(max(map(abs, rhos)))
    assert aside(finding.measurement, "rho, zeroed") == pytest.approx(rhos[1])


def test_sets_without_any_difference_say_nothing() -> None:
    flat = scaled_of((np.ones(40), np.ones(40)), (np.ones((40, RANDOM)), np.ones((40, RANDOM))))
    _, verdict = run(
        reliability_kn.kn_no_strong_correlation,
        scaled_study(flat),
        "reliability-kn-no-strong-correlation",
        dataset="zsre",
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE and verdict.reason.startswith("nothing to correlate: ")


@pytest.mark.parametrize("name", ["double", "zero", "similar_to_random", "not_necessarily", "ipp"])
def test_probabilities_that_do_not_change_are_a_floor_effect(name: str) -> None:
    tied = scaled_of(
        (np.ones(40), np.r_[np.zeros(21), np.ones(19)]), (np.ones((40, RANDOM)), np.ones((40, RANDOM)))
    )
    claim = f"reliability-kn-{name.replace('_', '-')}"
    finding, verdict = run(
        getattr(reliability_kn, f"kn_{name}"), scaled_study(tied), claim, "gptj-6b", "zsre"
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE
    floor = finding.measurement.floor
    assert floor and "zeroing the located neurons changes no probability" in floor


@pytest.mark.parametrize(
    ("ups", "outcome"),
    [((0.614, 0.5, 0.386, 0.5), Outcome.SUPPORTED), ((0.5, 0.5, 0.5, 0.5), Outcome.REFUTED)],
)
def test_ipp(ups: tuple[float, float, float, float], outcome: Outcome) -> None:
    """11.4 points more than random, or no more than it."""
    study = scaled_study(planted(2000, ups))
    finding, verdict = run(reliability_kn.kn_ipp, study, "reliability-kn-ipp", "gptj-6b", "zsre")
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(ups[0] - 0.5, abs=0.02)
    assert aside(found, "chosen and scored on the same facts (biased)") < estimate(found.value)
