"""What KC locates for wordings of facts (section 3.1), and the claim that their circuits overlap 7.2 %."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from caploc.circuits import Circuit, DecomposedModel, Graph, attribute_edges, prune
from caploc.errors import ModelError
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts import FactSet, facts_of
from caploc.experiments.facts.report import require_known
from caploc.experiments.fidelity.overlap import Located, overlap_finding
from caploc.experiments.fidelity.prompts import fewer, for_each_prompt
from caploc.experiments.located_sets import LocatedSets
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.statistics import binomial_interval, same_fact_pairs

THRESHOLD = 0.01
SHARES = (0.01, 0.02, 0.05)
LARGE_SHARE = 0.02
"""Of the edges, kept where a graph is too large for exact pruning."""

EXACT_EDGES = 20_000
STEPS = 5
UNTRAINED_FACTS = 2


@dataclass(frozen=True, eq=False)
class FactCircuits:
    """What KC locates for each of P prompts: ``sets`` of edges; ``variants`` by other cuts; ``share [P]`` of the
    model's parameters in the circuit's nodes, ``entered [P]`` in the matrices that its edges enter; ``settings`` of the
    method."""

    sets: LocatedSets
    variants: Mapping[str, LocatedSets]
    share: np.ndarray
    entered: np.ndarray
    settings: Mapping[str, Any]


def circuit_facts(study: Study, cell: Cell) -> FactSet:
    """The facts of the cell's dataset that circuits are located for. Raises NotRunError, FloorError."""
    return require_known(fewer(study, facts_of(study, cell.dataset or "")))


def circuits(study: Study, facts: FactSet, control: str = "") -> FactCircuits:
    """KC for every prompt of ``facts``, made once; ``control`` "" or "untrained", as in ``Study``.

    Small graphs are pruned exactly; larger ones, for which that takes hours a prompt, get EAP-IG at a fixed share.

    Raises:
        NotRunError: the model cannot be taken apart.
    """
    return study.once(("circuits", facts.data_fingerprint, control), lambda: _located(study, facts, control))


def _located(study: Study, facts: FactSet, control: str) -> FactCircuits:
    lm = study.model_for(control)
    try:
        model = DecomposedModel(lm)
    except ModelError as error:
        raise NotRunError(str(error)) from error
    graph = model.graph
    exact = graph.edges <= EXACT_EDGES
    settings = {"ablation": "zero", "steps": STEPS, "exact": exact, "threshold": THRESHOLD if exact else None}

    def make(number: int) -> Mapping[str, np.ndarray]:
        prompts = [model.prompt(facts.prompts[number])]
        found = {"eap-ig": attribute_edges(model, prompts, STEPS).values.astype(np.float32)}
        if exact:
            pruned = prune(model, prompts, THRESHOLD)
            found |= {"kept": pruned.circuit.values.numpy(force=True), "scores": pruned.scores}
        return found

    keys = [{**settings, "tokens": prompt.content} for prompt in facts.prompts]
    cuts: dict[str, list[Circuit]] = {}
    for arrays in for_each_prompt(study, lm, "circuits", keys, make):
        for name, circuit in _cut(graph, arrays).items():
            cuts.setdefault(name, []).append(circuit)
    decides = "exact" if exact else f"EAP-IG, {LARGE_SHARE:.0%} of the edges"
    chosen = cuts.pop(decides)
    strata = np.array([graph.layer_of(int(receiver)) for receiver in np.nonzero(graph.possible)[0]])
    sets = {
        name: LocatedSets.of_places(
            (one.values.numpy(force=True).nonzero()[0] for one in found), graph.edges, strata
        )
        for name, found in {decides: chosen, **cuts}.items()
    }
    return FactCircuits(
        sets.pop(decides),
        sets,
        np.array([one.parameter_share(lm) for one in chosen]),
        np.array([one.parameter_share(lm, "entered") for one in chosen]),
        {**settings, "cut": decides, "edges": graph.edges},
    )


def _cut(graph: Graph, arrays: Mapping[str, np.ndarray]) -> dict[str, Circuit]:
    """The circuits of one prompt, by cut.

    A share is met to the edge: edges on no path stay, which ``EdgeScores.top`` drops, and which can be nearly all.
    """
    size = np.abs(arrays["eap-ig"])
    counts = {f"{share:.0%} of the edges": max(1, round(share * graph.edges)) for share in SHARES}
    found = {f"EAP-IG, {name}": _largest(graph, size, count) for name, count in counts.items()}
    if "kept" in arrays:
        kept = np.asarray(arrays["kept"], bool)
        found["exact"] = Circuit(graph, torch.from_numpy(kept))
        scores = np.where(kept, arrays["scores"], -np.inf)
        for name, count in counts.items():
            found[f"exact, the strongest {name}"] = _largest(graph, scores, min(count, int(kept.sum())))
    return found


def _largest(graph: Graph, scores: np.ndarray, count: int) -> Circuit:
    """The ``count`` edges of the largest ``scores [edges]``; of equal ones the first."""
    chosen = np.zeros(graph.edges, bool)
    chosen[np.argsort(-scores, kind="stable")[:count]] = True
    return Circuit(graph, torch.from_numpy(chosen))


@ends_in_a_finding
def kc_overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fidelity-kc-overlap``: the overlap of edges; "equal sets" is the share of pairs of one circuit."""
    facts = circuit_facts(study, cell)
    found = circuits(study, facts)
    twin = circuits(study, facts.head(UNTRAINED_FACTS), "untrained")
    located = Located(found.sets, found.variants, twin.sets, settings=found.settings)
    finding = overlap_finding(study, facts, located, cell, claim, "circuits' edges")
    return replace(
        finding,
        quantities={**finding.quantities, **_equal(facts, found.sets)},
        notes=[*notes_of(found), *finding.notes],
    )


def _equal(facts: FactSet, sets: LocatedSets) -> dict[str, float]:
    """How many pairs of a fact's wordings have one and the same circuit, with Wilson's interval of their share."""
    kept = sets[facts.kept]
    first, second = same_fact_pairs(facts.fact[facts.kept])
    common = kept.common()[first, second]
    equal = int(((common == kept.counts[first]) & (common == kept.counts[second]) & (common > 0)).sum())
    interval = binomial_interval(equal, len(first), method="wilson")
    return {"equal pairs": equal, "equal pairs, low": interval.low, "equal pairs, high": interval.high}


def notes_of(found: FactCircuits) -> list[str]:
    """How edges were cut, for a finding."""
    if found.settings["exact"]:
        return [
            f"edges that cost less than {THRESHOLD} nats are pruned, one score for all facts (kc-edge-threshold); "
            "fixed shares of the edges stand beside"
        ]
    return [
        f"{found.settings['edges']} edges are too many to prune one by one: EAP-IG, {LARGE_SHARE:.0%} of the edges"
    ]
