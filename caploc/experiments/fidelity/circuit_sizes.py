"""KC's claims of section 3.1 about size: the parameters in a circuit (1.6 %), beside those of KN's neurons."""

from __future__ import annotations

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import FEWEST_FACTS, FactSet
from caploc.experiments.facts.kn import knowledge_neurons
from caploc.experiments.facts.report import finding_of, interval_parts, printed_floor
from caploc.experiments.fidelity.circuits import circuit_facts, circuits, notes_of
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import bootstrap_mean, cluster_weights, defined_interval, defined_mean, weighted_mean


@ends_in_a_finding
def kc_param_share(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-kc-param-share``: a circuit's parameters, mean over a fact's wordings, then facts."""
    facts = circuit_facts(study, cell)
    found = circuits(study, facts)
    shares, usable = _by_fact(facts, found.share)
    spread = bootstrap_mean(
        shares[usable],
        seed=study.settings.seed,
        clusters=np.unique(facts.clusters[usable], return_inverse=True)[1],
    )
    mean = defined_mean(shares)
    return finding_of(
        study,
        facts,
        cell,
        claim,
        "share of the parameters in a circuit's nodes",
        unit="share",
        n=int(usable.sum()),
        estimate=mean,
        interval=(spread.low, spread.high),
        interval_kind=f"95 %, {spread.kind} over facts, those of one subject together",
        quantities={
            **interval_parts(claim, cell, {"share": (mean, spread)}),
            "in the matrices that edges enter": defined_mean(_by_fact(facts, found.entered)[0]),
            "share of the edges": float(found.sets.counts[facts.kept].mean()) / found.sets.places,
            "smallest": float(found.share[facts.kept].min()),
            "largest": float(found.share[facts.kept].max()),
        },
        settings=found.settings,
        floor=printed_floor(claim, cell),
        notes=notes_of(found),
    )


@ends_in_a_finding
def kc_granularity(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-kc-granularity``: how many times the parameters of KN's neurons a circuit holds."""
    facts = circuit_facts(study, cell)
    found, neurons = circuits(study, facts), knowledge_neurons(study, facts).default
    lm = study.lm
    share = neurons.counts * lm.parameters_per_neuron / lm.num_parameters
    (chains, usable), (sets, _) = _by_fact(facts, found.share), _by_fact(facts, share)
    if not defined_mean(sets) > 0:
        raise FloorError(
            "floor effect: KN locates nothing for the facts, which a circuit could be compared with"
        )
    weights = cluster_weights(facts.clusters, study.settings.seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = defined_interval(weighted_mean(chains, weights) / weighted_mean(sets, weights))
    return finding_of(
        study,
        facts,
        cell,
        claim,
        "parameters of a circuit over those of KN's neurons",
        unit="ratio",
        n=int(usable.sum()),
        estimate=defined_mean(chains) / defined_mean(sets),
        interval=(interval.low, interval.high),
        interval_kind=f"95 %, {interval.kind} over facts, those of one subject together",
        quantities={
            "parameter share of circuits": defined_mean(chains),
            "parameter share of KN's neurons": defined_mean(sets),
            "KN's share of all neurons": float(neurons.counts[facts.kept].mean()) / neurons.places,
            "largest share that Table 1 calls a match": 0.0028,
        },
        settings=found.settings,
        notes=notes_of(found),
    )


def _by_fact(facts: FactSet, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[F]`` means over the prompts of each fact that verdicts rest on, nan without any, and where there are some."""
    kept = facts.kept
    count = np.bincount(facts.fact[kept], minlength=len(facts))
    total = np.bincount(facts.fact[kept], values[kept], minlength=len(facts))
    usable = count > 0
    if usable.sum() < FEWEST_FACTS:
        raise FloorError(f"the model does not know the facts ({usable.sum()} of {len(facts)})")
    return np.where(usable, total / np.maximum(count, 1), np.nan), usable
