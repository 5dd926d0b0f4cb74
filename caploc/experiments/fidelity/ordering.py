"""Which method agrees best between wordings: KN, ROME, KC in section 3.1 and on the poster, otherwise in section 1."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import FEWEST_FACTS
from caploc.experiments.facts.kn import knowledge_neurons
from caploc.experiments.facts.report import finding_of, interval_parts
from caploc.experiments.fidelity.circuits import circuits
from caploc.experiments.fidelity.layers import TOP_K, traced, traced_facts
from caploc.experiments.fidelity.overlap import Agreements
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import bootstrap_mean, compare_pairs, holm_parts, part_quantities

ORDER = ("kn", "rome", "kc")
INTRODUCTION = ("rome", "kc", "kn")


@ends_in_a_finding
def ordering(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-ordering``: KN's overlap minus ROME's and ROME's minus KC's, on the same facts and wordings.

    Overlaps are compared as they are, without regard to their chance levels, as the paper does; the overlap above
    chance and section 1's order stand beside.
    """
    facts = traced_facts(study, cell)
    sets: dict[str, LocatedSets] = {
        "kn": knowledge_neurons(study, facts).default,
        "rome": traced(study, facts).best(TOP_K),
        "kc": circuits(study, facts).sets,
    }
    found = {name: Agreements(facts, one, facts.kept) for name, one in sets.items()}
    usable = np.all([one.within.defined for one in found.values()], axis=0)
    if usable.sum() < FEWEST_FACTS:
        raise FloorError(
            f"only {usable.sum()} of {len(facts)} facts have two wordings that all three methods locate"
        )
    overlaps = {name: one.within.values[usable] for name, one in found.items()}
    clusters, seed = facts.clusters[usable], study.settings.seed

    def in_order(order: tuple[str, ...]) -> dict[str, float]:
        pairs = pairwise(order)
        return {f"{a} minus {b}": float((overlaps[a] - overlaps[b]).mean()) for a, b in pairs}

    parts = {
        f"effect:{a}-{b}": compare_pairs(overlaps[a], overlaps[b], clusters=clusters, seed=seed)
        for a, b in pairwise(ORDER)
    }
    smallest = min(parts.values(), key=lambda effect: effect.estimate)
    means = {
        name: (float(values.mean()), bootstrap_mean(values, seed=seed, clusters=clusters))
        for name, values in overlaps.items()
    }
    return finding_of(
        study,
        facts,
        cell,
        claim,
        "overlap of one method's places minus that of the next one's, the smaller difference",
        n=int(usable.sum()),
        estimate=smallest.estimate,
        interval=(smallest.interval.low, smallest.interval.high),
        interval_kind=f"95 %, {smallest.interval.kind} over facts, those of one subject together",
        effect_size=smallest.effect_size,
        p_values=holm_parts(parts),
        quantities={
            **part_quantities(parts),
            **interval_parts(claim, cell, means),
            **{f"section 1's order, {name}": value for name, value in in_order(INTRODUCTION).items()},
            **{f"{name}, above chance": one.mean - one.chance for name, one in found.items()},
        },
        controls={f"{name}, chance": one.chance for name, one in found.items()}
        | {f"{name}, unrelated facts": one.unrelated for name, one in found.items()},
        settings={"top_k": TOP_K},
        plots=[
            Plot(
                "splits",
                f"Overlap of two wordings by method, {facts.dataset}",
                {
                    "groups": {name.upper(): values.tolist() for name, values in overlaps.items()},
                    "axis": "overlap, one dot a fact",
                },
            )
        ],
        notes=[
            f"three layers overlap {found['rome'].chance:.1%} by chance; overlaps are compared without correction"
        ],
    )
