"""KC's own verification (section 3.2; zsRE): does a circuit that runs alone recall the fact, and how large is it?"""

from __future__ import annotations

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import FEWEST_FACTS
from caploc.experiments.facts.report import interval_parts, printed_floor
from caploc.experiments.reliability.kc_alone import DEGREES, LOCATED, NODES, RANDOM_ARMS, UNIFORM
from caploc.experiments.reliability.kc_report import (
    MeasuredCircuits,
    circuit_finding,
    measured_circuits,
    recall_controls,
    recall_readings,
)
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import (
    Ipp,
    binomial_interval,
    bootstrap_mean,
    defined_mean,
    ipp,
    stratified_permutation,
)

BOTH = (UNIFORM, DEGREES)


@ends_in_a_finding
def kc_recall(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kc-recall``: the share of known facts whose answer the circuit alone ranks first (12.3 %)."""
    found = measured_circuits(study, cell)
    first = found.known.recalled()[:, 0]
    interval = binomial_interval(int(first.sum()), len(first), method="wilson")
    share = float(first.mean())
    return circuit_finding(
        study,
        found,
        cell,
        claim,
        "share of facts whose answer the circuit alone ranks first",
        estimate=share,
        interval=(interval.low, interval.high),
        interval_kind="95 %, Wilson",
        chance=defined_mean(found.known.recalled(UNIFORM)),
        quantities={
            **interval_parts(
                claim, cell, {"recall": (share, interval), "recall-introduction": (share, interval)}
            ),
            **recall_readings(found),
        },
        controls=recall_controls(found),
        plots=[_choices(found)],
    )


@ends_in_a_finding
def kc_recalled_param_share(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kc-param-share``: the parameters in the circuits that recall their fact alone (2.6 %).

    The p value is of recalled against other facts, one fact a subject, since circuits of one subject may be alike.
    """
    found = measured_circuits(study, cell)
    known = found.known
    recalled, shares = known.recalled()[:, 0] == 1, known.of("share")[:, 0]
    if recalled.sum() < FEWEST_FACTS:
        raise FloorError(
            f"floor effect: circuits recall {recalled.sum()} of {len(known)} known facts, and {FEWEST_FACTS} are the "
            "fewest an interval can be taken over"
        )
    seed, mean = study.settings.seed, defined_mean(shares[recalled])
    spread = bootstrap_mean(
        shares[recalled], seed=seed, clusters=np.unique(found.clusters[recalled], return_inverse=True)[1]
    )
    one = np.unique(found.clusters, return_index=True)[1]
    p_values = {}
    if 0 < recalled[one].sum() < len(one):
        test = stratified_permutation(shares[one], recalled[one], seed=seed)
        p_values["recalled against other facts"] = test.p
    return circuit_finding(
        study,
        found,
        cell,
        claim,
        "share of the parameters in the nodes of circuits that recall their fact",
        unit="share",
        n=int(recalled.sum()),
        estimate=mean,
        interval=(spread.low, spread.high),
        interval_kind=f"95 %, {spread.kind} over facts, those of one subject together",
        p_values=p_values,
        quantities={
            **interval_parts(claim, cell, {"share": (mean, spread), "share-introduction": (mean, spread)}),
            "all known facts": defined_mean(shares),
            "facts that are not recalled": defined_mean(shares[~recalled]),
            "in the matrices that edges enter": defined_mean(found.entered[recalled]),
            "smallest": float(shares[recalled].min()),
            "largest": float(shares[recalled].max()),
            "facts recalled": float(recalled.mean()),
            **{f"{cut}, recalled": _share_of_recalled(found, cut) for cut in known.cuts},
        },
        controls={
            **{f"random circuits, {arm}": defined_mean(known.of("share", arm)) for arm in RANDOM_ARMS},
            **{
                f"circuits of {name}": defined_mean(alone.of("share"))
                for name, alone in found.controls.items()
            },
        },
        floor=printed_floor(claim, cell),
    )


def _share_of_recalled(found: MeasuredCircuits, arm: str) -> float:
    """nan where no circuit recalls."""
    return defined_mean(found.known.of("share", arm)[found.known.recalled(arm) == 1])


@ends_in_a_finding
def kc_ipp(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-kc-ipp``: recall at rank 1, located minus the best random choice (10.5 % on the poster).

    A random choice takes one random circuit a fact, of as many edges, drawn either uniformly or with the same degrees;
    each way alone, random nodes with all edges between them, and other readings of recall stand beside.
    """
    found = measured_circuits(study, cell)
    seed = study.settings.seed
    own = _ipp(found, BOTH, seed)
    others = {
        **{f"random circuits, {arm}": _ipp(found, (arm,), seed) for arm in (*BOTH, NODES)},
        "every token of the answer": _ipp(found, BOTH, seed, ranked="worst"),
        "rank 10 or better": _ipp(found, BOTH, seed, top=10),
    }
    return circuit_finding(
        study,
        found,
        cell,
        claim,
        "IPP: share of facts recalled, circuit minus the best random choice",
        estimate=own.estimate,
        interval=(own.interval.low, own.interval.high),
        interval_kind="95 %, bootstrap over facts, the best choice found on one half and scored on the other",
        quantities={
            **interval_parts(claim, cell, {"ipp": (own.estimate, own.interval)}),
            "recall of the circuit": defined_mean(found.known.recalled()),
            "chosen and scored on the same facts (biased)": own.same_items,
            "against the mean choice": own.mean_choice,
            **{name: other.estimate for name, other in others.items()},
        },
        controls=recall_controls(found),
        floor=printed_floor(claim, cell),
    )


def _ipp(
    found: MeasuredCircuits, arms: tuple[str, ...], seed: int, top: int = 1, ranked: str = "first"
) -> Ipp:
    located = found.known.recalled(LOCATED, top, ranked)[:, 0]
    random = np.concatenate([found.known.recalled(arm, top, ranked) for arm in arms], axis=1)
    return ipp(located, random.T, clusters=found.clusters, seed=seed)


def _choices(found: MeasuredCircuits) -> Plot:
    """The recall of the located circuits, and of as many choices as there are random circuits a fact."""
    arms = (LOCATED, *RANDOM_ARMS, *found.known.cuts)
    groups = {arm: found.known.recalled(arm).mean(0).tolist() for arm in arms}
    axis = "share of facts whose answer the circuit alone ranks first, one dot a choice of circuits"
    return Plot("splits", "Circuits alone: located against random ones", {"groups": groups, "axis": axis})
