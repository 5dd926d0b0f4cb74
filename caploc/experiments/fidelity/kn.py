"""KN's claims of section 3.1: overlap between wordings (37.3 %), and how many neurons a prompt leads to (15.3)."""

from __future__ import annotations

import numpy as np
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts.kn import DEFAULT, knowledge_neurons
from caploc.experiments.facts.report import finding_of, interval_parts, printed_floor
from caploc.experiments.fidelity.overlap import Located, overlap_finding

from caploc.experiments.fact_methods import CUTS
from caploc.experiments.facts import FactSet, facts_of, require_known
from caploc.experiments.locating_facts import HALVES
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import bootstrap_mean, defined_mean

UNTRAINED_FACTS = 12


@ends_in_a_finding
def kn_overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-kn-overlap``.

    The control "matched aggregation" is KN's cut on scores that were averaged over as many prompts as half of the facts
    are, of one random half against the other: what averaging alone does to an overlap.
    """
    facts = require_known(facts_of(study, cell.dataset or ""))
    return overlap_finding(study, facts, _located(study, facts), cell, claim, "neurons")


@ends_in_a_finding
def kn_mean_located(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-kn-mean-located``: neurons located for a prompt, mean over all wordings, facts resampled."""
    facts = require_known(facts_of(study, cell.dataset or ""))
    found = knowledge_neurons(study, facts)
    counts = found.default.counts.astype(float)
    kept = facts.kept
    clusters = facts.clusters[facts.fact]
    spread = bootstrap_mean(counts[kept], seed=study.settings.seed, clusters=clusters[kept])
    mean = float(counts[kept].mean())
    originals = counts[facts.first[facts.known]]
    return finding_of(
        study,
        facts,
        cell,
        claim,
        "neurons located for a prompt",
        unit="count",
        n=int(kept.sum()),
        estimate=mean,
        interval=(spread.low, spread.high),
        interval_kind=f"95 %, {spread.kind} over facts, those of one subject together",
        quantities={
            **interval_parts(claim, cell, {"located": (mean, spread)}),
            "share of all neurons": mean / found.default.places,
            "median": float(np.median(counts[kept])),
            "smallest": float(counts[kept].min()),
            "largest": float(counts[kept].max()),
            "original wordings alone": defined_mean(originals),
            "all prompts, known or not": float(counts.mean()),
            **{name: float(sets.counts[kept].mean()) for name, sets in found.sets.items() if name != DEFAULT},
        },
        settings={"threshold": CUTS[DEFAULT].threshold},
        floor=printed_floor(claim, cell),
    )


def _located(study: Study, facts: FactSet) -> Located:
    found = knowledge_neurons(study, facts)
    twin = knowledge_neurons(study, facts.head(UNTRAINED_FACTS), "untrained")
    return Located(
        found.default,
        {name: sets for name, sets in found.sets.items() if name != DEFAULT},
        twin.default,
        {
            f"matched aggregation, {found.half} prompts a half": defined_mean(found.halves),
            f"untrained twin, matched aggregation, {twin.half} prompts a half": defined_mean(twin.halves),
        },
        {"threshold": CUTS[DEFAULT].threshold, "halves": HALVES},
    )
