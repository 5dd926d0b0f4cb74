"""Fidelity (section 3.1): do different wordings of one fact lead a method to the same place?

`overlap` compares wordings under any locator of single facts; what is particular to a method stands in its entry of
``METHODS``. A locator that a user registers is measured under ``ANY_METHOD``, and takes part in `ordering`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from caploc.experiments.evidence import bound, difference, effects, finite, number, printed_mark
from caploc.experiments.fact_circuits import cut_notes, cut_settings
from caploc.experiments.facts import (
    BY_SUBJECT,
    OF_EQUATION_8,
    FactSet,
    Fewer,
    FirstFacts,
    Known,
    NamingSubject,
    facts_of,
    fewest_facts,
)
from caploc.experiments.located_sets import Agreements
from caploc.experiments.locating_facts import HALVES, FactLocations, LocatedFacts, LocatedHalves
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.experiments.study import Study, experiment
from caploc.findings import Aside, Cell, Measurement, Plot, Test
from caploc.locators import LOCATORS
from caploc.locators.traced_layers import TOP_K
from caploc.papers import Claim
from caploc.statistics import (
    binomial_interval,
    bootstrap_mean,
    compare_pairs,
    defined_mean,
    facts_permuted_p,
    same_fact_pairs,
)
from caploc.statistics.bootstrap import RESAMPLES

FAITHFUL = 0.8
"""The mark of a faithful method, shown beside the 40 % that decide (ambiguity ``faithful-line``)."""
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
            f"matched aggregation, {one.facts} prompts a half": defined_mean(one.overlap),
            f"untrained twin, matched aggregation, {other.facts} prompts a half": defined_mean(other.overlap),
        },
        settings={"halves": HALVES},
    )


def _by_chance(study: Study, claim: Claim, own: LocatedFacts, twin: LocatedFacts) -> Beside:
    """The best of L layers, for which two wordings agree by chance in 3 / L.

    A model of so few layers that chance alone lies above the line that decides says nothing: what is looked at is the
    number of layers alone, not what was located.
    """
    facts, found = study.result(own.facts), study.result(own)
    layers = found.sets.places
    chance, decides = TOP_K / layers, claim.rule.parameters["supported_below"]
    by_chance = f"two random sets of {TOP_K} of {layers} layers overlap {chance:.1%}"
    too_few = f"floor effect: {by_chance}, not less than the {decides:.0%} that decide"
    return Beside(
        asides={
            "answer's probability, clean": defined_mean(found.numbers["clean"][facts.kept]),
            "answer's probability, subject noised": defined_mean(found.numbers["corrupted"][facts.kept]),
            **{f"top {count}, chance": count / layers for count in (1, 2)},
        },
        notes=[f"by chance {by_chance}; of 28 layers, GPT-J's, 10.7%"],
        floor=too_few if chance >= decides else None,
    )


def _equal_circuits(study: Study, claim: Claim, own: LocatedFacts, twin: LocatedFacts) -> Beside:
    """How many pairs of a fact's wordings have one and the same circuit, with Wilson's interval of their share."""
    facts, found = study.result(own.facts), study.result(own)
    kept = found.sets[facts.kept]
    first, second = same_fact_pairs(facts.fact[facts.kept])
    common = kept.common()[first, second]
    equal = int(((common == kept.counts[first]) & (common == kept.counts[second]) & (common > 0)).sum())
    interval = binomial_interval(equal, len(first), method="wilson")
    return Beside(
        asides={
            "equal pairs": float(equal),
            "share of equal pairs": bound(equal / len(first), interval, "pairs", n=len(first)),
        },
        settings=cut_settings(found),
        notes=cut_notes(found),
    )


METHODS: Mapping[str, Wordings] = MappingProxyType(
    {
        "kn": Wordings(known_facts, twin=12, further=_halves, beside=_averaging),
        "rome": Wordings(traced_facts, beside=_by_chance),
        "kc": Wordings(circuit_facts, "circuits' edges", twin=2, beside=_equal_circuits),
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
    spread = bootstrap_mean(within.values[usable], seed=seed, clusters=facts.clusters[usable])
    baseline, same_answer = known.gaps(seed)
    beside = how.beside(study, claim, own, twin)
    places = how.places or LOCATORS[method].places.unit
    return Measurement(
        f"overlap of the {places} of two wordings of a fact",
        bound(known.mean, spread, BY_SUBJECT),
        {"baseline gap": baseline, "overlap": number(known.mean, spread, BY_SUBJECT)},
        chance=known.chance,
        effect_size=known.effect_size,
        asides={
            "same answer gap": same_answer,
            "permutation of facts": Test(p=facts_permuted_p(known.matrix, known.fact, seed)),
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
        settings={"wordings": int(np.bincount(facts.fact).max()), **found.settings, **beside.settings},
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


# --------------------------------------------------------------------------------------------- methods against others


def _ranked() -> list[str]:
    """The locators of single facts: those that the paper ranks, then any others that are registered."""
    others = (key for key, locator in LOCATORS.items() if locator.aim == "fact" and key not in ORDER)
    return [*ORDER, *others]


def _needs_ordering(study: Study, cell: Cell, claim: Claim) -> Specs:
    yield from (LocatedFacts(method, traced_facts(cell.dataset or "")) for method in _ranked())


@experiment(_needs_ordering)
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
        f"{a}-{b}": compare_pairs(overlaps[a], overlaps[b], clusters=clusters, seed=seed)
        for a, b in pairwise(ORDER)
    }
    smallest = min(compared.values(), key=lambda one: one.estimate)
    spreads = {
        name: bootstrap_mean(values, seed=seed, clusters=clusters) for name, values in overlaps.items()
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
