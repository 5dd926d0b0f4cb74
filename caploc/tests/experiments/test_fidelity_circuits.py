"""Circuits over wordings: against the locator's own, and verdicts on planted circuits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from caploc.circuits import DecomposedModel, prune
from caploc.experiments import fidelity
from caploc.experiments.fidelity import circuits as module
from caploc.experiments.fidelity.circuits import FactCircuits, circuits
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.study import NotRunError, Study, StudySettings
from caploc.findings import Outcome
from caploc.store import Store
from caploc.tests.experiments.planted_facts import (
    PLACES,
    PlantedFacts,
    fact_set,
    knowledge_neurons_of,
    own_cores,
    run,
    with_core,
)
from caploc.tests.experiments.test_fidelity_layers import real_facts, small_model

FACTS, WORDINGS, SIZE = 30, 5, 20


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_circuits_are_the_locators_and_are_kept(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = small_model(family, 2)
    facts = real_facts(lm, 2)
    settings = StudySettings(store=Store(tmp_path))
    found = circuits(Study(lm.name, settings, lm), facts)
    model = DecomposedModel(lm)
    for number, prompt in enumerate(facts.prompts):
        circuit = prune(model, [model.prompt(prompt)], 0.01).circuit
        one = found.sets[np.array([number])]
        assert sorted(one.members.indices) == circuit.values.numpy().nonzero()[0].tolist()
        assert found.share[number] == circuit.parameter_share(lm)
        assert found.entered[number] == circuit.parameter_share(lm, "entered")
    assert found.sets.places == model.graph.edges == len(found.sets.strata)
    assert np.bincount(found.sets.strata)[-1] == model.graph.senders  # into the output
    for share in module.SHARES:
        count = max(1, round(share * model.graph.edges))
        assert (found.variants[f"EAP-IG, {share:.0%} of the edges"].counts == count).all()
        strongest = found.variants[f"exact, the strongest {share:.0%} of the edges"]
        assert (strongest.counts == np.minimum(count, found.sets.counts)).all()
        assert (strongest.common(found.sets).diagonal() == strongest.counts).all()

    def fail(*_: object) -> None:
        raise AssertionError("pruned again")

    monkeypatch.setattr(module, "prune", fail)
    again = circuits(Study(lm.name, settings, lm), facts)
    assert np.array_equal(again.sets.overlap(), found.sets.overlap())
    with pytest.raises(AssertionError, match="pruned again"):
        circuits(Study(lm.name, StudySettings(store=Store(tmp_path / "new")), lm), facts)


def test_large_graphs_are_cut_at_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_EDGES", 10)
    lm = small_model("gptj", 2)
    facts = real_facts(lm, 1)
    found = circuits(Study(lm.name, StudySettings(store=Store(tmp_path)), lm), facts)
    assert found.settings["cut"] == "EAP-IG, 2% of the edges" and not found.settings["exact"]
    assert (found.sets.counts == round(0.02 * found.sets.places)).all()
    assert list(found.variants) == ["EAP-IG, 1% of the edges", "EAP-IG, 5% of the edges"]


def test_a_model_in_half_precision_is_not_run() -> None:
    lm = small_model("llama", 1)
    lm.model.to(torch.bfloat16)
    with pytest.raises(NotRunError, match="float32 or float64, not bfloat16"):
        circuits(Study(lm.name, StudySettings(), lm), fact_set(1, 2))


def planted(sets: LocatedSets, share: float | np.ndarray = 0.016, neurons: LocatedSets | None = None):
    """A study whose circuits are ``sets`` and hold ``share`` of the parameters, of which a neuron has 1 in 10000."""
    facts = fact_set(FACTS, WORDINGS)
    few = facts.head(module.UNTRAINED_FACTS)
    shares = np.broadcast_to(share, len(sets))
    settings: dict[str, Any] = {"exact": True, "cut": "exact"}
    found = FactCircuits(sets, {"another": sets}, shares, shares / 2, settings)
    made: dict[Any, Any] = {
        ("facts", "counterfact", 5): facts,
        ("circuits", facts.data_fingerprint, ""): found,
        ("circuits", few.data_fingerprint, "untrained"): replace(
            found, sets=sets[np.arange(len(few.prompts))], variants={}
        ),
    }
    if neurons is not None:
        made["kn", facts.data_fingerprint, ""] = knowledge_neurons_of(neurons)
    study = PlantedFacts(made, samples=FACTS)
    vars(study)["lm"] = SimpleNamespace(parameters_per_neuron=1, num_parameters=10_000)
    return study


def edges(core: int, owners: int = FACTS, size: int = SIZE) -> LocatedSets:
    owner = np.repeat(np.arange(FACTS), WORDINGS) % owners
    return with_core(own_cores(owners, core), owner, size, 0)


@pytest.mark.parametrize(
    ("core", "owners", "outcome"),
    [
        (3, FACTS, Outcome.SUPPORTED),
        (16, FACTS, Outcome.REFUTED),
        (0, FACTS, Outcome.INCONCLUSIVE),
        (16, 1, Outcome.INCONCLUSIVE),
    ],
)
def test_circuits_that_share_little_much_nothing_or_with_all(
    core: int, owners: int, outcome: Outcome
) -> None:
    finding, verdict = run(fidelity.kc_overlap, planted(edges(core, owners)), "fidelity-kc-overlap")
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(core / SIZE, abs=0.06) and finding.n == FACTS
    assert finding.quantities["equal pairs"] == 0 and 0 < finding.quantities["equal pairs, high"] < 0.02
    assert finding.quantities["another"] == finding.estimate
    assert any("one score for all facts" in note for note in finding.notes)


def test_equal_circuits_are_counted() -> None:
    sets = edges(SIZE)
    finding, _ = run(fidelity.kc_overlap, planted(sets), "fidelity-kc-overlap")
    assert finding.estimate == 1 and finding.quantities["equal pairs"] == FACTS * 10
    assert finding.quantities["equal pairs, high"] == 1


@pytest.mark.parametrize(
    ("share", "model", "outcome"),
    [
        (0.016, "gptj-6b", Outcome.SUPPORTED),
        (0.1, "gptj-6b", Outcome.REFUTED),
        (0.016, "tiny-gptj", Outcome.INCONCLUSIVE),
    ],
)
def test_parameter_share(share: float, model: str, outcome: Outcome) -> None:
    spread = share * (1 + np.linspace(-0.1, 0.1, FACTS * WORDINGS))
    finding, verdict = run(
        fidelity.kc_param_share, planted(edges(3), spread), "fidelity-kc-param-share", model=model
    )
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(share) and finding.interval[0] < share < finding.interval[1]
    assert finding.quantities["in the matrices that edges enter"] == pytest.approx(share / 2)
    assert finding.quantities["share of the edges"] == pytest.approx(SIZE / PLACES)
    assert (finding.floor is None) == (model == "gptj-6b")


@pytest.mark.parametrize(
    ("share", "outcome"),
    [(0.04, Outcome.SUPPORTED), (0.001, Outcome.REFUTED), (0.01, Outcome.INCONCLUSIVE)],
)
def test_granularity_against_knowledge_neurons(share: float, outcome: Outcome) -> None:
    """KN's 20 neurons hold 0.2 % of the parameters."""
    study = planted(edges(3), share, edges(3))
    finding, verdict = run(fidelity.kc_granularity, study, "fidelity-kc-granularity")
    assert verdict.outcome is outcome, verdict.reason
    assert finding.estimate == pytest.approx(share / 0.002)
    assert finding.quantities["parameter share of KN's neurons"] == pytest.approx(0.002)


def test_granularity_needs_knowledge_neurons() -> None:
    none = LocatedSets.of_places([np.zeros(0, int)] * (FACTS * WORDINGS), PLACES)
    finding, verdict = run(fidelity.kc_granularity, planted(edges(3), 0.1, none), "fidelity-kc-granularity")
    assert verdict.outcome is Outcome.INCONCLUSIVE and finding.floor.startswith(
        "floor effect: KN locates nothing"
    )
