"""KC's premise (section 2.3): a circuit that runs alone brings its fact's answer among the first ten tokens."""

from __future__ import annotations

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.reliability.kc import BOTH
from caploc.experiments.reliability.kc_report import (
    circuit_finding,
    measured_circuits,
    recall_controls,
    recall_readings,
)
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.papers import load_paper
from caploc.statistics import compare_pairs, defined_mean, holm_parts, part_quantities

FIRST = 10


@ends_in_a_finding
def kc_recall_premise(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``bg-kc-recall-premise``: located minus random circuits of as many edges, drawn uniformly and with the same
    degrees; the estimate is the smaller difference.

    Paired by fact, against the mean over the fact's own random circuits: no circuit is drawn for several facts, so that
    chance in drawing is chance of facts. A ceiling effect, by a rule fixed beforehand: where random circuits recall all
    facts but for less than the rule's equivalence margin, located ones cannot recall more beyond it.
    """
    found = measured_circuits(study, cell)
    known, seed = found.known, study.settings.seed
    located = known.recalled(top=FIRST)[:, 0]
    parts = {
        f"effect:{arm}": compare_pairs(
            located, known.recalled(arm, FIRST).mean(1), clusters=found.clusters, seed=seed
        )
        for arm in BOTH
    }
    least = min(parts.values(), key=lambda effect: effect.estimate)
    margin = load_paper("capability_localization").claim(claim).rule.parameters["equivalence_margin"]
    most = max(defined_mean(known.recalled(arm, FIRST)) for arm in BOTH)
    return circuit_finding(
        study,
        found,
        cell,
        claim,
        f"share of facts with the answer among the first {FIRST}, circuit minus random circuit; the smaller of two",
        estimate=least.estimate,
        interval=(least.interval.low, least.interval.high),
        interval_kind=f"95 %, {least.interval.kind} over facts, those of one subject together",
        effect_size=least.effect_size,
        p_values=holm_parts(parts),
        quantities={
            "recall of the circuit": float(located.mean()),
            **part_quantities(parts),
            **recall_readings(found, FIRST),
        },
        controls=recall_controls(found, FIRST),
        floor=f"ceiling effect: random circuits recall {most:.1%} of the facts"
        if 1 - most < margin
        else None,
    )
