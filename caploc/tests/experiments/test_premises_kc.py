"""The premise of KC on planted ranks: each verdict where it must come out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from caploc.experiments import premises
from caploc.experiments.reliability.kc_alone import DEGREES, NODES, UNIFORM
from caploc.findings import Outcome
from caploc.tests.experiments.planted_facts import run
from caploc.tests.experiments.test_reliability_kc_planted import planted


@pytest.mark.parametrize(
    ("facts", "recall", "random", "outcome"),
    [
        (60, 0.9, 0.3, Outcome.SUPPORTED),
        (60, 0.5, 0.9, Outcome.REFUTED),
        (400, 0.5, 0.5, Outcome.REFUTED),
        (60, 0.0, 0.0, Outcome.REFUTED),
        (60, 0.9, {UNIFORM: 0.0, DEGREES: 0.92, NODES: 0.0}, Outcome.INCONCLUSIVE),
        (60, 0.99, {UNIFORM: 0.0, DEGREES: 0.99, NODES: 0.0}, Outcome.INCONCLUSIVE),
    ],
)
def test_recall_premise(
    facts: int, recall: float, random: float | Mapping[str, float], outcome: Outcome
) -> None:
    study = planted(facts, recall, random, top=10)
    finding, verdict = run(premises.kc_recall_premise, study, "bg-kc-recall-premise", dataset="zsre")
    assert verdict.outcome is outcome, verdict.reason
    worst = random if isinstance(random, float) else max(random.values())
    assert finding.estimate == pytest.approx(recall - worst, abs=0.05)
    assert set(finding.p_values) == {"effect:uniform", "effect:same degrees"}
    assert finding.quantities["rank 1 or better"] == 0
    assert finding.quantities["recall of the circuit"] == pytest.approx(recall, abs=0.01)
    assert (finding.floor is not None) == (worst > 0.95)


def test_facts_that_are_not_known_are_a_floor_effect() -> None:
    study = planted(200, 0.2, 0.0, rank=np.full(200, 2))
    _, verdict = run(premises.kc_recall_premise, study, "bg-kc-recall-premise", dataset="zsre")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.reason == "the model does not know the facts (0 of 200)"
