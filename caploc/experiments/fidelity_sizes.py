"""Section 3.1: how many neurons, how large a circuit and how large three layers a single fact is said to lie in."""

from __future__ import annotations

import numpy as np

from caploc.experiments.evidence import bound, number
from caploc.experiments.fact_circuits import EnteredShare, cut_notes, cut_settings
from caploc.experiments.facts import BY_SUBJECT, OF_EQUATION_8, FactSet, fewest_facts
from caploc.experiments.fidelity import Specs, circuit_facts, known_facts
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import FloorError, NotRunError
from caploc.experiments.study import Study, experiment
from caploc.findings import Bound, Cell, Measurement
from caploc.locators.layers import LayerSet
from caploc.locators.traced_layers import TOP_K
from caploc.papers import Claim
from caploc.statistics import bootstrap_mean, cluster_weights, defined_interval, defined_mean, weighted_mean
from caploc.statistics.bootstrap import RESAMPLES

MATCHING_SHARE = 0.0028
"""Of the neurons: the largest share that Table 1 calls a match."""


def _needs_kn(study: Study, cell: Cell, claim: Claim) -> Specs:
    yield LocatedFacts("kn", known_facts(cell.dataset or ""))


@experiment(_needs_kn)
def kn_mean_located(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fidelity-kn-mean-located``: neurons located for a prompt, mean over all wordings, facts resampled."""
    spec = known_facts(cell.dataset or "")
    facts, found = study.result(spec), study.result(LocatedFacts("kn", spec))
    counts = found.sets.counts.astype(float)
    kept = facts.kept
    spread = bootstrap_mean(counts[kept], seed=study.settings.seed, clusters=facts.clusters[facts.fact][kept])
    mean = float(counts[kept].mean())
    return Measurement(
        "neurons located for a prompt",
        bound(mean, spread, BY_SUBJECT, unit="count", n=int(kept.sum())),
        {"located": number(mean, spread, BY_SUBJECT, unit="count", n=int(kept.sum()))},
        asides={
            "share of all neurons": mean / found.sets.places,
            "median": float(np.median(counts[kept])),
            "smallest": float(counts[kept].min()),
            "largest": float(counts[kept].max()),
            "original wordings alone": defined_mean(counts[facts.first[facts.known]]),
            "all prompts, known or not": float(counts.mean()),
            **{name: float(sets.counts[kept].mean()) for name, sets in found.variants.items()},
        },
        n=int(kept.sum()),
        draws=RESAMPLES,
        basis=[facts],
        settings=found.settings,
        unused=OF_EQUATION_8,
    )


@experiment(lambda study, cell, claim: ())
def rome_granularity(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fidelity-rome-granularity``: the share of the parameters in three layers' MLPs, and in whole layers.

    A model's layers are all of one size, so that it does not matter which three are taken.
    """
    lm = study.lm
    if lm.num_layers < TOP_K:
        raise NotRunError(f"{lm.name} has {lm.num_layers} layers, fewer than {TOP_K}")
    one, three = (LayerSet(tuple(range(count)), lm.num_layers) for count in (1, TOP_K))
    share = three.parameter_share(lm)
    return Measurement(
        "share of the parameters in three layers' MLPs",
        Bound(share, (share, share), unit="share", n=1, method="exact count"),
        asides={
            "three whole layers": three.parameter_share(lm, "block"),
            "one layer's MLP": one.parameter_share(lm),
            "one whole layer": one.parameter_share(lm, "block"),
            "layers": float(lm.num_layers),
            "parameters": float(lm.num_parameters),
        },
        n=1,
        unused=OF_EQUATION_8,
    )


def _needs_circuits(study: Study, cell: Cell, claim: Claim) -> Specs:
    yield EnteredShare(LocatedFacts("kc", circuit_facts(cell.dataset or "")))


@experiment(_needs_circuits)
def kc_param_share(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fidelity-kc-param-share``: a circuit's parameters, mean over a fact's wordings, then facts."""
    located = LocatedFacts("kc", circuit_facts(cell.dataset or ""))
    facts, found = study.result(located.facts), study.result(located)
    shares, usable = _by_fact(study, facts, found.share)
    entered, _ = _by_fact(study, facts, study.result(EnteredShare(located)))
    clusters = np.unique(facts.clusters[usable], return_inverse=True)[1]
    spread = bootstrap_mean(shares[usable], seed=study.settings.seed, clusters=clusters)
    mean, n = defined_mean(shares), int(usable.sum())
    return Measurement(
        "share of the parameters in a circuit's nodes",
        bound(mean, spread, BY_SUBJECT, unit="share", n=n),
        {"share": number(mean, spread, BY_SUBJECT, unit="share", n=n)},
        asides={
            "in the matrices that edges enter": defined_mean(entered),
            "share of the edges": float(found.sets.counts[facts.kept].mean()) / found.sets.places,
            "smallest": float(found.share[facts.kept].min()),
            "largest": float(found.share[facts.kept].max()),
        },
        n=n,
        draws=RESAMPLES,
        basis=[facts],
        settings=cut_settings(found),
        unused=OF_EQUATION_8,
        notes=cut_notes(found),
    )


def _needs_circuits_and_neurons(study: Study, cell: Cell, claim: Claim) -> Specs:
    yield from (LocatedFacts(method, circuit_facts(cell.dataset or "")) for method in ("kc", "kn"))


@experiment(_needs_circuits_and_neurons)
def kc_granularity(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fidelity-kc-granularity``: how many times the parameters of KN's neurons a circuit holds."""
    spec = circuit_facts(cell.dataset or "")
    facts = study.result(spec)
    found, neurons = (study.result(LocatedFacts(method, spec)) for method in ("kc", "kn"))
    (chains, usable), (sets, _) = _by_fact(study, facts, found.share), _by_fact(study, facts, neurons.share)
    if not defined_mean(sets) > 0:
        raise FloorError(
            "floor effect: KN locates nothing for the facts, which a circuit could be compared with"
        )
    weights = cluster_weights(facts.clusters, study.settings.seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = defined_interval(weighted_mean(chains, weights) / weighted_mean(sets, weights))
    n = int(usable.sum())
    return Measurement(
        "parameters of a circuit over those of KN's neurons",
        bound(defined_mean(chains) / defined_mean(sets), interval, BY_SUBJECT, unit="ratio", n=n),
        asides={
            "parameter share of circuits": defined_mean(chains),
            "parameter share of KN's neurons": defined_mean(sets),
            "KN's share of all neurons": float(neurons.sets.counts[facts.kept].mean()) / neurons.sets.places,
            "largest share that Table 1 calls a match": MATCHING_SHARE,
        },
        n=n,
        draws=RESAMPLES,
        basis=[facts],
        settings=cut_settings(found),
        unused=OF_EQUATION_8,
        notes=cut_notes(found),
    )


def _by_fact(study: Study, facts: FactSet, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[F]`` means over the prompts of each fact that verdicts rest on, nan without any, and where there are some."""
    kept = facts.kept
    count = np.bincount(facts.fact[kept], minlength=len(facts))
    total = np.bincount(facts.fact[kept], values[kept], minlength=len(facts))
    usable = count > 0
    if usable.sum() < fewest_facts(study):
        raise FloorError(f"the model does not know the facts ({usable.sum()} of {len(facts)})")
    return np.where(usable, total / np.maximum(count, 1), np.nan), usable
