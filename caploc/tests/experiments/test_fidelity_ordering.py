"""The order of the methods' overlaps on planted sets."""

from __future__ import annotations

import numpy as np
import pytest

from caploc.experiments import fidelity
from caploc.experiments.fidelity.circuits import FactCircuits
from caploc.experiments.fidelity.layers import TracedLayers
from caploc.experiments.located_sets import LocatedSets
from caploc.findings import Outcome
from caploc.tests.experiments.planted_facts import (
    PLACES,
    PlantedFacts,
    fact_set,
    knowledge_neurons_of,
    own_cores,
    run,
    with_core,
)
from caploc.tests.experiments.test_fidelity_layers import planted as planted_layers

FACTS, WORDINGS, SIZE = 30, 5, 20


def study_of(kn: LocatedSets, rome: TracedLayers, kc: LocatedSets) -> PlantedFacts:
    facts = fact_set(FACTS, WORDINGS)
    nothing = np.zeros(len(facts.prompts))
    return PlantedFacts(
        {
            ("traced facts", "counterfact"): facts,
            ("kn", facts.data_fingerprint, ""): knowledge_neurons_of(kn),
            ("traced", facts.data_fingerprint, ""): rome,
            ("circuits", facts.data_fingerprint, ""): FactCircuits(kc, {}, nothing, nothing, {"exact": True}),
        }
    )


def sets(core: int) -> LocatedSets:
    return with_core(own_cores(FACTS, core), np.repeat(np.arange(FACTS), WORDINGS), SIZE, core)


@pytest.mark.parametrize(
    ("kn", "kc", "outcome"),
    [(14, 1, Outcome.SUPPORTED), (1, 14, Outcome.REFUTED), (14, 14, Outcome.REFUTED)],
)
def test_the_printed_order_holds_or_not(kn: int, kc: int, outcome: Outcome) -> None:
    """ROME's layers overlap about 36 %: one of three is shared."""
    rome = planted_layers(1)
    finding, verdict = run(fidelity.ordering, study_of(sets(kn), rome, sets(kc)), "fidelity-ordering")
    assert verdict.outcome is outcome, verdict.reason
    parts = finding.quantities
    first, second = parts["effect:kn-rome:estimate"], parts["effect:rome-kc:estimate"]
    assert finding.estimate == min(first, second)
    assert first == pytest.approx(parts["kn:estimate"] - parts["rome:estimate"])
    assert second == pytest.approx(parts["section 1's order, rome minus kc"])
    assert parts["section 1's order, kc minus kn"] == pytest.approx(-first - second)
    assert finding.controls["rome, chance"] == pytest.approx(3 / 28)
    assert set(finding.p_values) == {"effect:kn-rome", "effect:rome-kc"} and finding.n == FACTS


def test_overlaps_are_those_of_section_3_1_on_gptj() -> None:
    study = study_of(sets(14), planted_layers(1), sets(1))
    finding, _ = run(fidelity.ordering, study, "fidelity-ordering", model="gptj-6b")
    assert finding.quantities["number:kn:estimate"] == pytest.approx(0.7, abs=0.03)
    assert finding.published == "37.3"


def test_facts_that_a_method_locates_nothing_for_are_left_out() -> None:
    """Of the first 10 facts KN finds nothing; of 15, too few are left."""
    full, rome, kc = sets(14), planted_layers(1), sets(1)

    def without(count: int) -> LocatedSets:
        places = [
            row.indices if number >= count * WORDINGS else [] for number, row in enumerate(full.members)
        ]
        return LocatedSets.of_places(places, PLACES, full.strata)

    finding, _ = run(fidelity.ordering, study_of(without(10), rome, kc), "fidelity-ordering")
    assert finding.n == 20 and finding.quantities["kn:estimate"] == pytest.approx(0.7, abs=0.03)
    finding, verdict = run(fidelity.ordering, study_of(without(15), rome, kc), "fidelity-ordering")
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert finding.floor == "only 15 of 30 facts have two wordings that all three methods locate"
