"""Reliability of KC on planted ranks: each verdict where it must come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from caploc.experiments import reliability_kc
from caploc.experiments.evidence import assemble, bound, effect
from caploc.experiments.fact_circuits import (
    DEGREES,
    LOCATED,
    NODES,
    RANDOM_CIRCUITS,
    UNIFORM,
    WHOLE,
    Alone,
    ControlAlone,
    EnteredShare,
    RunAlone,
    WithWrongAnswers,
)
from caploc.experiments.facts import FirstFacts, Known, facts_of
from caploc.experiments.reliability_kc import CONTROL_FACTS, UNTRAINED, WRONG
from caploc.experiments.study import Study
from caploc.findings import Cell, Measurement, Outcome, Verdict
from caploc.rules import judge
from caploc.statistics import binomial_interval, compare_successes
from caploc.tests.experiments.planted_facts import (
    PAPER,
    aside,
    estimate,
    fact_set,
    locations_of,
    planted_study,
    run,
    sets_of,
)
from caploc.tests.papers.rates import AT_LEAST, AT_MOST, assert_often, assert_seldom, rates

TOO_LOW = 50


def ranks(share: float, facts: int, top: int = 1) -> np.ndarray:
    """``[facts, 1]``: ``top`` for such a share of the facts, else far below."""
    recalled = np.random.default_rng(1).permutation(np.arange(facts) < round(share * facts))
    return np.where(recalled, top, TOO_LOW)[:, None]


def random_ranks(share: float, facts: int, seed: int, top: int = 1) -> np.ndarray:
    """``[facts, circuits]``: each recalls each fact with such a probability. Equal totals would tie one half of the
    facts to the other, on which IPP scores what it chose."""
    recalled = np.random.default_rng(seed).random((facts, RANDOM_CIRCUITS)) < share
    return np.where(recalled, top, TOO_LOW)


def values(rank: np.ndarray, share: np.ndarray | float = 0.1, shared: float = 0.5) -> np.ndarray:
    """``[facts, circuits, 5]``: all three ranks alike."""
    share = np.broadcast_to(np.reshape(share, (-1, 1)), rank.shape)
    return np.stack([rank, rank, rank, np.full(rank.shape, shared), share], 2).astype(float)


def planted(
    facts: int,
    recall: float,
    random: float | Mapping[str, float],
    share: np.ndarray | float = 0.1,
    top: int = 1,
    control: float = 0.0,
    **more: Any,
) -> Study:
    """A study whose circuits recall such a share of the facts at rank ``top``, the controls' ``control`` of them."""
    known = fact_set(facts, 1, "zsre", **more)
    shares = dict.fromkeys((UNIFORM, DEGREES, NODES), random) if isinstance(random, float) else random
    arms = {
        LOCATED: values(ranks(recall, facts, top), share),
        WHOLE: values(np.ones((facts, 1))),
        "another cut": values(np.full((facts, 1), TOO_LOW)),
        **{
            arm: values(random_ranks(one, facts, number, top))
            for number, (arm, one) in enumerate(shares.items())
        },
    }
    own = RunAlone(Known(facts_of("zsre", 1)))
    few = FirstFacts(own.facts, CONTROL_FACTS)
    wrong, first = WithWrongAnswers(few), known.head(CONTROL_FACTS)
    answers = Alone(
        {LOCATED: values(ranks(control, len(first))), WHOLE: values(np.full((len(first), 1), TOO_LOW))}
    )
    return planted_study(
        {
            facts_of("zsre", 1): known,
            own.located: locations_of(sets_of([np.arange(3)] * facts), ["as planted"]),
            EnteredShare(own.located): np.full(facts, 0.04),
            own: Alone(arms),
            wrong: first,
            ControlAlone(wrong, own.located): answers,
            ControlAlone(few, own.located, "untrained"): answers,
        },
        samples=facts,
    )


def half_known(facts: int) -> np.ndarray:
    return np.where(np.arange(facts) < facts // 2, 1, 2)


@pytest.mark.parametrize(
    ("facts", "recall", "control", "outcome"),
    [
        (200, 0.123, 0.0, Outcome.SUPPORTED),
        (200, 0.123, 1.0, Outcome.INCONCLUSIVE),
        (200, 0.8, 0.1, Outcome.REFUTED),
        (200, 0.8, 0.8, Outcome.INCONCLUSIVE),
        (200, 0.35, 0.0, Outcome.INCONCLUSIVE),
        (20, 0.1, 0.0, Outcome.INCONCLUSIVE),
    ],
)
def test_recall(facts: int, recall: float, control: float, outcome: Outcome) -> None:
    study = planted(facts, recall, 0.02, control=control)
    finding, verdict = run(reliability_kc.kc_recall, study, "reliability-kc-recall", "gptj-6b", "zsre")
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    share = estimate(found.value)
    assert share == pytest.approx(recall, abs=0.01) and found.n == facts
    assert estimate(found.parts["recall"]) == share
    assert aside(found, "another cut") == 0 and aside(found, "rank 10 or better") == share
    assert found.controls["random circuits, same degrees"] == pytest.approx(0.02, abs=0.03) == found.chance
    assert found.controls["circuits located for the answers in an untrained model"] == control
    assert found.controls["circuits located for wrong answers"] == control
    both = [found.parts[name] for name in (WRONG, UNTRAINED)]
    own = study.result(RunAlone(Known(facts_of("zsre", 1)))).recalled()[:CONTROL_FACTS].mean()
    assert [estimate(one) for one in both] == pytest.approx([own - control] * 2)
    assert (outcome is Outcome.INCONCLUSIVE and control > 0) == ("recall says nothing" in verdict.reason)
    assert any(
        f"located for wrong answers recall {round(20 * control)} (the whole" in one for one in finding.notes
    )


def test_controls_of_facts_that_are_not_known_are_left_out() -> None:
    """The facts of the controls are the first ones, of which every second is known."""
    known = np.where(np.arange(100) % 2 == 0, 1, 2)
    study = planted(100, 0.9, 0.0, control=0.2, rank=known)
    finding, _ = run(reliability_kc.kc_recall, study, "reliability-kc-recall", dataset="zsre")
    own = study.result(RunAlone(Known(facts_of("zsre", 1)))).recalled()[:CONTROL_FACTS:2, 0]
    other = ranks(0.2, CONTROL_FACTS)[::2, 0] == 1
    assert estimate(finding.measurement.parts[WRONG]) == pytest.approx(own.mean() - other.mean())


def judged(number: int, facts: int, recall: float, control: float) -> Verdict:
    """The verdict on circuits that recall each fact with such a probability, as the controls' do."""
    generator = np.random.default_rng(number)
    own = (generator.random(facts) < recall).astype(float)
    gaps = {
        name: compare_successes(own[:CONTROL_FACTS], other.astype(float), np.arange(CONTROL_FACTS), number)
        for name, other in zip(
            (WRONG, UNTRAINED), generator.random((2, CONTROL_FACTS)) < control, strict=True
        )
    }
    interval = binomial_interval(int(own.sum()), facts, method="wilson")
    claim = PAPER.claim("reliability-kc-recall")
    parts = {name: effect(one) for name, one in gaps.items()}
    found = Measurement("recall", bound(float(own.mean()), interval), parts)
    return judge(claim, assemble(claim, Cell("tiny-llama", "zsre"), found))


def test_recall_is_seldom_called_low_or_high_by_accident() -> None:
    """At the lines, and where controls recall as much; 48 facts, as by default, and the 96 that power asks for."""
    assert_seldom(lambda number: judged(number, 48, 0.25, 0.0))
    refuted = [
        rates(lambda number, case=case: judged(number, 48, *case))[Outcome.REFUTED]  # type: ignore[misc]
        for case in ((0.5, 0.0), (0.9, 0.9), (0.75, 0.75))
    ]
    assert max(refuted) <= AT_MOST, refuted
    assert rates(lambda number: judged(number, 48, 0.9, 0.3))[Outcome.REFUTED] >= AT_LEAST
    assert_often(lambda number: judged(number, 96, 0.123, 0.123))


def test_recall_rests_on_known_facts() -> None:
    study = planted(200, 0.2, 0.0, rank=half_known(200))
    finding, _ = run(reliability_kc.kc_recall, study, "reliability-kc-recall", dataset="zsre")
    first = study.result(RunAlone(Known(facts_of("zsre", 1)))).recalled()
    found = finding.measurement
    assert found.n == 100 and estimate(found.value) == first[:100].mean()
    assert aside(found, "all facts, those not known too") == 0.2
    assert "100 of 200 facts left out: the model does not know them" in finding.notes


def test_facts_that_are_not_known_are_a_floor_effect() -> None:
    study = planted(200, 0.2, 0.0, rank=np.full(200, 2))
    for experiment, claim in (
        (reliability_kc.kc_recall, "reliability-kc-recall"),
        (reliability_kc.kc_recalled_param_share, "reliability-kc-param-share"),
        (reliability_kc.kc_ipp, "reliability-kc-ipp"),
    ):
        _, verdict = run(experiment, study, claim, dataset="zsre")
        judged = claim == "reliability-kc-recall"  # the others are held against numbers of another model
        assert verdict.outcome is (Outcome.INCONCLUSIVE if judged else Outcome.MEASURED)
        assert not judged or verdict.reason == "the model does not know the facts (0 of 200)"


@pytest.mark.parametrize(
    ("share", "model", "outcome"),
    [
        (0.026, "gptj-6b", Outcome.SUPPORTED),
        (0.1, "gptj-6b", Outcome.REFUTED),
        (0.036, "gptj-6b", Outcome.INCONCLUSIVE),
        (0.026, "tiny-gptj", Outcome.MEASURED),
    ],
)
def test_share_of_circuits_that_recall(share: float, model: str, outcome: Outcome) -> None:
    """Circuits that recall hold ``share``, give or take a tenth; the others nothing."""
    recalled = ranks(0.3, 100)[:, 0] == 1
    shares = np.where(recalled, share * (1 + np.linspace(-0.1, 0.1, 100)), 0)
    study = planted(100, 0.3, 0.0, shares)
    claim = "reliability-kc-param-share"
    finding, verdict = run(reliability_kc.kc_recalled_param_share, study, claim, model, "zsre")
    assert verdict.outcome is outcome, verdict.reason
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(shares[recalled].mean()) and found.n == 30
    assert aside(found, "recalled against other facts") < 0.001
    assert aside(found, "facts that are not recalled") == 0
    assert aside(found, "all known facts") == pytest.approx(shares.mean())
    assert aside(found, "in the matrices that edges enter") == pytest.approx(0.04)
    assert "another cut, recalled" not in found.asides  # none is recalled
    assert (verdict.reason != "the paper prints no number for this model") == (model == "gptj-6b")


def test_share_where_all_or_few_are_recalled() -> None:
    claim = "reliability-kc-param-share"
    finding, _ = run(reliability_kc.kc_recalled_param_share, planted(100, 1.0, 0.0), claim, "gptj-6b", "zsre")
    asides = finding.measurement.asides
    assert "recalled against other facts" not in asides and "facts that are not recalled" not in asides
    _, verdict = run(
        reliability_kc.kc_recalled_param_share, planted(100, 0.15, 0.0), claim, "gptj-6b", "zsre"
    )
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason.startswith("too few facts: circuits recall 15 of 100 known facts")


@pytest.mark.parametrize(
    ("recall", "random", "model", "outcome"),
    [
        (0.123, 0.018, "gptj-6b", Outcome.SUPPORTED),
        (0.6, 0.1, "gptj-6b", Outcome.REFUTED),
        (0.1, {UNIFORM: 0.01, DEGREES: 0.3, NODES: 0.0}, "gptj-6b", Outcome.REFUTED),
        (0.123, 0.018, "tiny-gptj", Outcome.MEASURED),
    ],
)
def test_ipp(recall: float, random: float | Mapping[str, float], model: str, outcome: Outcome) -> None:
    """The best random choice counts, whichever way it is drawn."""
    study = planted(1000, recall, random)
    close = 3 * np.sqrt(0.25 / 1000)  # three standard errors of a choice's recall, at most
    finding, verdict = run(reliability_kc.kc_ipp, study, "reliability-kc-ipp", model, "zsre")
    assert verdict.outcome is outcome, verdict.reason
    best = random if isinstance(random, float) else max(random.values())
    found = finding.measurement
    assert estimate(found.value) == pytest.approx(recall - best, abs=close)
    assert aside(found, "recall of the circuit") == pytest.approx(recall)
    uniform = random if isinstance(random, float) else random[UNIFORM]
    assert aside(found, "random circuits, uniform") == pytest.approx(recall - uniform, abs=close)
