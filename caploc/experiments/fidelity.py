"""Fidelity (section 3.1): do different wordings of one fact lead a method to the same place, and how many neurons, how
large a circuit and how large three layers is a single fact said to lie in?

`overlap` compares wordings under any locator of single facts; what is particular to a method stands in its entry of
``METHODS``. A locator that a user registers is measured under ``ANY_METHOD``, and takes part in `ordering`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.experiments.evidence import bound, difference, effects, finite, number, printed_mark
from caploc.experiments.fact_circuits import EnteredShare, cut_notes, cut_settings
from caploc.experiments.facts import (
    BY_SUBJECT,
    OF_EQUATION_8,
    FactSet,
    Fewer,
    FirstFacts,
    ForTracing,
    Known,
    NamingSubject,
    facts_of,
    fewest_facts,
)
from caploc.experiments.locating_facts import HALVES, Agreements, FactLocations, LocatedFacts, LocatedHalves
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.experiments.study import Study, experiment
from caploc.findings import Aside, Bound, Cell, Measurement, Plot, Test
from caploc.locators import LOCATORS
from caploc.locators.layers import LayerSet
from caploc.locators.traced_layers import TOP_K
from caploc.papers import Claim
from caploc.statistics import bootstrap_mean, cluster_weights, defined_interval, defined_mean, weighted_mean
from caploc.statistics.intervals import RESAMPLES

FAITHFUL = 0.8
"""From which overlap on two results are "highly similar" (ambiguity ``faithful-line``)."""
ORDER = ("kn", "rome", "kc")
"""From the best agreement between wordings to the worst, in section 3.1 and on the poster; section 1 says otherwise."""
INTRODUCTION = ("rome", "kc", "kn")

Specs = Iterator[Spec[Any]]


# --------------------------------------------------------------------------------------- the facts, method by method


def known_facts(dataset: str) -> Spec[FactSet]:
    """All facts of the study, if the model knows enough of them."""
    return Known(facts_of(dataset))


def circuit_facts(dataset: str) -> Spec[FactSet]:
    """As many as pruning can take."""
    return Known(Fewer(facts_of(dataset)))


def traced_facts(dataset: str) -> Spec[FactSet]:
    """As many as tracing can take, in the wordings that name their subject."""
    return Known(NamingSubject(Fewer(facts_of(dataset))))


def compared_traces(dataset: str) -> Spec[FactSet]:
    """As `traced_facts`, for a claim on traces alone."""
    return Known(NamingSubject(ForTracing(facts_of(dataset))))


@dataclass(frozen=True)
class Beside:
    """What stands beside the overlap of one method."""

    asides: Mapping[str, Aside] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    floor: str | None = None


@dataclass(frozen=True)
class Wordings:
    """How the wordings of facts are compared under one method.

    Attributes:
        facts: the facts located, by the name of their dataset.
        places: what is located, in the plural; empty for the locator's own word.
        twin: how many facts the model's untrained twin is located on.
        further: specs that ``beside`` reads.
        beside: what the method's own claims show, from the specs of what is located in the model and in the twin.
    """

    facts: Callable[[str], Spec[FactSet]]
    places: str = ""
    twin: int = 3
    further: Callable[[LocatedFacts, LocatedFacts], Iterable[Spec[Any]]] = lambda own, twin: ()
    beside: Callable[[Study, Claim, LocatedFacts, LocatedFacts], Beside] = lambda *_: Beside()


def _halves(own: LocatedFacts, twin: LocatedFacts) -> Iterable[LocatedHalves]:
    return LocatedHalves(own), LocatedHalves(twin)


def _averaging(study: Study, claim: Claim, own: LocatedFacts, twin: LocatedFacts) -> Beside:
    """The control "matched aggregation": the cut on scores averaged over as many prompts as half of the facts are, of
    one random half against the other: what averaging alone does to an overlap."""
    one, other = (study.result(spec) for spec in _halves(own, twin))
    return Beside(
        controls={
            f"matched aggregation, {one.facts} prompts a half": stats.defined_mean(one.overlap),
            f"untrained twin, matched aggregation, {other.facts} prompts a half": stats.defined_mean(
                other.overlap
            ),
        },
        settings={"halves": HALVES},
    )


def _by_chance(study: Study, claim: Claim, own: LocatedFacts, twin: LocatedFacts) -> Beside:
    """The best of L layers, in which two wordings agree by chance in 3 / L.

    Where the best layer's clean state, the layer chosen on other draws of the noise, brings back no more than the noise
    leaves, the order of layers is the noise's, and its overlap says nothing of where facts are.
    """
    facts, found = study.result(own.facts), study.result(own)
    layers = found.sets.places
    by_chance = f"two random sets of {TOP_K} of {layers} layers overlap {TOP_K / layers:.1%}"
    gains, usable = _by_fact(study, facts, found.numbers["gain"])
    gain = bootstrap_mean(gains[usable], seed=study.settings.seed, clusters=facts.clusters[usable])
    nothing = (
        f"tracing restores no more than its noise: the best layer's clean state adds {gains[usable].mean():+.3g} to "
        f"the answer's probability (95 % over facts [{gain.low:.3g}, {gain.high:.3g}]; the layer chosen on one half "
        "of the draws of the noise, scored on the other)"
    )
    return Beside(
        asides={
            "answer's probability, clean": stats.defined_mean(found.numbers["clean"][facts.kept]),
            "answer's probability, subject noised": stats.defined_mean(
                found.numbers["corrupted"][facts.kept]
            ),
            "restored by the best layer": bound(float(gains[usable].mean()), gain, BY_SUBJECT),
            **{f"top {count}, chance": count / layers for count in (1, 2)},
        },
        notes=[f"by chance {by_chance}; of 28 layers, GPT-J's, 10.7%"],
        floor=None if gain.low > 0 else nothing,
    )


def _cut_circuits(study: Study, claim: Claim, own: LocatedFacts, twin: LocatedFacts) -> Beside:
    """How circuits were cut, and how much of the answer they restore."""
    found = study.result(own)
    kept = found.numbers.get("faithfulness", np.zeros(0))[study.result(own.facts).kept]
    restored = {"share of log P restored, mean": float(np.nanmean(kept))} if np.isfinite(kept).any() else {}
    return Beside(asides=restored, settings=cut_settings(found), notes=cut_notes(found))


METHODS: Mapping[str, Wordings] = MappingProxyType(
    {
        "kn": Wordings(known_facts, twin=12, further=_halves, beside=_averaging),
        "rome": Wordings(compared_traces, beside=_by_chance),
        "kc": Wordings(circuit_facts, "circuits' edges", twin=2, beside=_cut_circuits),
    }
)
ANY_METHOD = Wordings(circuit_facts)


# ----------------------------------------------------------------------------------- the overlap of a fact's wordings


def _located(method: str, dataset: str) -> tuple[Wordings, LocatedFacts, LocatedFacts]:
    how = METHODS.get(method, ANY_METHOD)
    facts = how.facts(dataset)
    return how, LocatedFacts(method, facts), LocatedFacts(method, FirstFacts(facts, how.twin), "untrained")


def _needs_overlap(study: Study, cell: Cell, claim: Claim, method: str) -> Specs:
    how, own, twin = _located(method, cell.dataset or "")
    yield from (own, twin, *how.further(own, twin))


@experiment(_needs_overlap)
def overlap(study: Study, cell: Cell, claim: Claim, method: str) -> Measurement:
    """Claims ``fidelity-kn-overlap``, ``fidelity-rome-overlap`` and ``fidelity-kc-overlap``: the overlap of what a
    locator (``method``, a key of ``caploc.LOCATORS``) finds for two wordings of a fact.

    The mean over a fact's pairs of wordings, then over facts; BCa over facts, drawn by subject. The verdict rests on
    known facts and on those wordings that leave the model's answer as it was. Unrelated facts, the baseline, have
    another subject and another answer.
    """
    how, own, twin = _located(method, cell.dataset or "")
    facts, found, seed = study.result(own.facts), study.result(own), study.settings.seed
    known = Agreements(facts, found.sets, facts.kept)
    within = known.within
    usable = within.defined
    if usable.sum() < fewest_facts(study):
        raise FloorError(
            f"no two wordings of {(~usable).sum()} of {len(facts)} facts can be compared: nothing is located for them, "
            "or the model answers one at most"
        )
    few = study.result(twin.facts)
    untrained = Agreements(few, study.result(twin).sets, few.kept)
    spread = stats.bootstrap_mean(within.values[usable], seed=seed, clusters=facts.clusters[usable])
    baseline, same_answer = known.gaps(seed)
    corrected, of_same_answer = known.corrected(seed)
    beside = how.beside(study, claim, own, twin)
    places = how.places or LOCATORS[method].places.unit
    return Measurement(
        f"overlap of the {places} of two wordings of a fact",
        bound(known.mean, spread, BY_SUBJECT),
        {
            "corrected overlap": corrected,
            "baseline gap": baseline,
            "overlap": number(known.mean, spread, BY_SUBJECT),
        },
        chance=known.chance,
        effect_size=known.effect_size,
        asides={
            "same answer gap": same_answer,
            "corrected for what the same answer shares": of_same_answer,
            "permutation of facts": Test(p=stats.facts_permuted_p(known.matrix, known.fact, seed)),
            "pairs": float(within.pairs),
            "pairs of two empty sets, left out": float(within.undefined),
            "empty sets": float((known.sets.counts == 0).sum()),
            "places in a set, mean": float(known.sets.counts.mean()),
            "chance, uniform": known.mean_chance(known.sets.uniform_chance()),
            "above chance": known.mean - known.chance,
            "equal sets, share of pairs": known.equal_share(),
            f"facts at {FAITHFUL:.0%} or above": float((within.values[usable] >= FAITHFUL).mean()),
            **_under_other_choices(facts, found),
            **beside.asides,
        },
        controls=finite(
            {
                **known.controls,
                "untrained twin": untrained.mean,
                "untrained twin, unrelated facts": untrained.unrelated,
                **beside.controls,
            }
        ),
        n=int(usable.sum()),
        draws=RESAMPLES,
        basis=[facts],
        settings={**found.settings, **beside.settings},
        unused=OF_EQUATION_8,
        notes=beside.notes,
        plots=[_dots(facts, known, untrained, places, printed_mark(claim, cell, "overlap"))],
        floor=beside.floor,
    )


def _under_other_choices(facts: FactSet, found: FactLocations) -> dict[str, float]:
    """The overlap under other choices: of facts and wordings, then of the method's cut."""
    everything = np.ones(len(facts.prompts), bool)
    choices = {"all wordings of known facts": facts.known[facts.fact], "all facts, known or not": everything}
    numbers: dict[str, float] = {
        name: Agreements(facts, found.sets, chosen).mean for name, chosen in choices.items()
    }
    for name, sets in found.variants.items():
        other = Agreements(facts, sets, facts.kept)
        numbers |= {name: other.mean, f"{name}, unrelated facts": other.unrelated}
    return numbers


def _dots(
    facts: FactSet, known: Agreements, untrained: Agreements, places: str, printed: float | None
) -> Plot:
    groups = {
        "same fact": known.within.values,
        "same answer, another subject": known.of_same_answer,
        "unrelated facts": known.baselines,
        "same fact, untrained": untrained.within.values,
    }
    shown = {name: values[np.isfinite(values)].tolist() for name, values in groups.items()}
    shown = {name: values for name, values in shown.items() if values}
    data: dict[str, object] = {"groups": shown, "chance": known.chance, "axis": "overlap, one dot a fact"}
    if printed is not None:
        data["published"] = {"same fact": printed}
    return Plot("splits", f"Overlap of the {places} of two wordings, {facts.dataset}", data)


def _needs_identity(study: Study, cell: Cell, claim: Claim) -> Specs:
    return _needs_overlap(study, cell, claim, "kc")


@experiment(_needs_identity)
def circuits_identical(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fidelity-kc-overlap``: the share of pairs of a fact's wordings that have one and the same circuit,
    section 3.1's own metric, mean over a fact's pairs, then over facts.

    Its interval is Clopper and Pearson's, with a subject's facts as one trial: of all numbers in [0, 1] with a given
    mean, 0 and 1 vary most, and a share of 0 keeps its width. Beside it, as a second part, the overlap of two wordings
    corrected for what unrelated facts share.
    """
    found = overlap.with_options(method="kc")(study, cell, claim)
    if not found.parts:
        return found
    own = _located("kc", cell.dataset or "")[1]
    facts = study.result(own.facts)
    known = Agreements(facts, study.result(own).sets, facts.kept)
    identical = known.equal_share()
    subjects = len(np.unique(facts.clusters[known.within.defined]))
    share = stats.share_interval(identical, subjects)
    return replace(
        found,
        quantity="share of pairs of a fact's wordings whose circuits are identical",
        value=bound(identical, share, "subjects"),
        parts={
            **{name: found.parts[name] for name in ("corrected overlap", "baseline gap")},
            "identical": number(identical, share, "subjects"),
            **dict.fromkeys(("overlap-introduction", "overlap-poster"), found.parts["overlap"]),
        },
        chance=None,
        asides={"overlap of edges, chance": found.chance or 0.0, **found.asides},
    )


# --------------------------------------------------------------------------------------------- methods against others


def _ranked() -> list[str]:
    """The locators of single facts: those that the paper ranks, then any others that are registered."""
    others = (key for key, one in LOCATORS.items() if one.aim == "fact" and one.wordings == 1)
    return [*ORDER, *(key for key in others if key not in ORDER)]


@experiment(lambda study, cell, claim: [LocatedFacts(key, traced_facts(cell.dataset)) for key in _ranked()])
def ordering(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fidelity-ordering``: KN's overlap minus ROME's and ROME's minus KC's, on the same facts and wordings.

    Overlaps are compared as they are, without regard to their chance levels, as the paper does; the overlap above
    chance, section 1's order and any further locators of single facts stand beside.
    """
    spec, seed = traced_facts(cell.dataset or ""), study.settings.seed
    facts = study.result(spec)
    found = {
        method: Agreements(facts, study.result(LocatedFacts(method, spec)).sets, facts.kept)
        for method in ORDER
    }
    usable = np.all([one.within.defined for one in found.values()], axis=0)
    if usable.sum() < fewest_facts(study):
        raise FloorError(
            f"only {usable.sum()} of {len(facts)} facts have two wordings that all three methods locate"
        )
    overlaps = {name: one.within.values[usable] for name, one in found.items()}
    clusters = facts.clusters[usable]
    compared = {
        f"{a.upper()} minus {b.upper()}": stats.compare_pairs(
            overlaps[a], overlaps[b], clusters=clusters, seed=seed
        )
        for a, b in pairwise(ORDER)
    }
    smallest = min(compared.values(), key=lambda one: one.estimate)
    spreads = {
        name: stats.bootstrap_mean(values, seed=seed, clusters=clusters) for name, values in overlaps.items()
    }
    further = _further_methods(study, spec, facts)
    in_order = {
        f"section 1's order, {a} minus {b}": float((overlaps[a] - overlaps[b]).mean())
        for a, b in pairwise(INTRODUCTION)
    }
    everyone = {**found, **further}
    return Measurement(
        "overlap of one method's places minus that of the next one's, the smaller difference",
        difference(smallest.estimate, smallest.interval, BY_SUBJECT),
        {
            **effects(compared),
            **{
                name: number(overlaps[name].mean(), spread, BY_SUBJECT, n=len(clusters))
                for name, spread in spreads.items()
            },
        },
        effect_size=smallest.effect_size,
        asides={
            **in_order,
            **{name: one.mean for name, one in further.items()},
            **{f"{name}, above chance": one.mean - one.chance for name, one in everyone.items()},
        },
        controls=finite(
            {f"{name}, chance": one.chance for name, one in everyone.items()}
            | {f"{name}, unrelated facts": one.unrelated for name, one in everyone.items()}
        ),
        n=int(usable.sum()),
        draws=RESAMPLES,
        basis=[facts],
        settings={"top_k": TOP_K},
        unused=OF_EQUATION_8,
        notes=[
            f"three layers overlap {found['rome'].chance:.1%} by chance; overlaps are compared without correction"
        ],
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
    )


def _further_methods(study: Study, spec: Spec[FactSet], facts: FactSet) -> dict[str, Agreements]:
    """Those that the paper does not rank, where they can be applied to the model."""
    found = {}
    for method in _ranked()[len(ORDER) :]:
        try:
            sets = study.result(LocatedFacts(method, spec)).sets
        except NotRunError:
            continue
        found[method] = Agreements(facts, sets, facts.kept)
    return found


# ----------------------------------------------------------------------------------------- how large a location is

MATCHING_SHARE = 0.0028
"""Of the neurons: the largest share that Table 1 calls a match."""


@experiment(lambda study, cell, claim: [LocatedFacts("kn", known_facts(cell.dataset))])
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


@experiment(lambda study, cell, claim: [EnteredShare(LocatedFacts("kc", circuit_facts(cell.dataset)))])
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


@experiment(
    lambda study, cell, claim: [LocatedFacts(key, circuit_facts(cell.dataset)) for key in ("kc", "kn")]
)
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
