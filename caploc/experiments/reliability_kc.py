"""Section 3.2 on KC: does a circuit that runs alone recall its fact, and how large is one that does (zsRE)?

`caploc.experiments.fact_circuits` names the circuits and what each makes of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.experiments.evidence import bound, effect, finite, number
from caploc.experiments.fact_circuits import (
    DEGREES,
    LOCATED,
    NODES,
    RANDOM_ARMS,
    RANDOM_CIRCUITS,
    UNIFORM,
    WHOLE,
    Alone,
    ControlAlone,
    EnteredShare,
    RunAlone,
    WithWrongAnswers,
    cut_notes,
    cut_settings,
    places_of,
)
from caploc.experiments.facts import (
    BY_SUBJECT,
    OF_EQUATION_8,
    FactSet,
    FirstFacts,
    Known,
    facts_of,
    fewest_facts,
)
from caploc.experiments.locating_facts import FactLocations
from caploc.experiments.reliability_kn import BEST_CHOICE
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Study, family
from caploc.findings import Aside, Cell, Effect, Measurement, Plot, Test
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES

BOTH = (UNIFORM, DEGREES)
CONTROL_FACTS = 20
WRONG, UNTRAINED = "wrong answers", "an untrained model"


# ------------------------------------------------------------------------------------- what all of its claims rest on


@dataclass(frozen=True, eq=False)
class KnownAlone:
    """The facts, what circuits make of all of them (``every``) and of those that the model knows, and what circuits
    located for answers that the model does not hold make of these (``controls``). ``clusters`` and ``entered``, the
    share of the parameters in the matrices that edges enter, are those of the known facts; ``paired[name]`` says which
    of these a control's are, in its order."""

    facts: FactSet
    located: FactLocations
    every: Alone
    known: Alone
    controls: Mapping[str, Alone]
    paired: Mapping[str, np.ndarray]
    clusters: np.ndarray
    entered: np.ndarray

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            **cut_settings(self.located),
            "random_circuits": RANDOM_CIRCUITS,
            "control_facts": CONTROL_FACTS,
        }

    @property
    def notes(self) -> Sequence[str]:
        shared = {arm: stats.defined_mean(self.known.of("shared", arm)) for arm in BOTH}
        notes = [
            *cut_notes(self.located),
            f"random circuits with the degrees of the located ones have {shared[DEGREES]:.0%} of their edges, uniform "
            f"ones {shared[UNIFORM]:.0%}: the former are a weak control, the latter an easy one (random-circuit)",
        ]
        for name, alone in self.controls.items():
            own, whole = (int(alone.recalled(arm).sum()) for arm in (LOCATED, WHOLE))
            right = int(self.known.recalled()[self.paired[name]].sum())
            notes.append(
                f"of {len(alone)} facts, circuits located for {_of(name)} recall {own} (the whole model "
                f"{whole}), those located for the model's own answers {right}"
            )
        return notes

    def gaps(self, seed: int) -> dict[str, stats.Effect]:
        """The recall of the located circuits minus that of each control, for the same facts."""
        own = self.known.recalled()[:, 0]
        return {
            name: stats.compare_successes(own[at], alone.recalled()[:, 0], self.clusters[at], seed)
            for name, alone in self.controls.items()
            for at in (self.paired[name],)
        }


def _needs(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    every = RunAlone(_facts(cell))
    yield from (every, EnteredShare(every.located))
    yield from _controls(cell).values()


def _known_alone(study: Study, cell: Cell, claim: Claim) -> KnownAlone:
    """What circuits make of the facts of the cell's dataset, in their original wording.

    Raises:
        NotRunError, FloorError: they cannot be had, or are not known.
    """
    run = RunAlone(_facts(cell))
    facts, every = study.result(run.facts), study.result(run)
    number, controls, paired = np.cumsum(facts.known) - 1, {}, {}
    for name, spec in _controls(cell).items():
        at = places_of(study.result(spec.facts), facts)
        known = facts.known[at]
        if known.any():
            controls[name], paired[name] = study.result(spec).only(known), number[at[known]]
    entered = study.result(EnteredShare(run.located))[facts.known]
    clusters, own = facts.clusters[facts.known], every.only(facts.known)
    return KnownAlone(facts, study.result(run.located), every, own, controls, paired, clusters, entered)


def _facts(cell: Cell) -> Known:
    return Known(facts_of(cell.dataset or "", wordings=1))


def _controls(cell: Cell) -> dict[str, ControlAlone]:
    own = RunAlone(_facts(cell))
    few = FirstFacts(own.facts, CONTROL_FACTS)
    return {
        WRONG: ControlAlone(WithWrongAnswers(few), own.located),
        UNTRAINED: ControlAlone(few, own.located, "untrained"),
    }


def _completed(found: KnownAlone, measurement: Measurement) -> Measurement:
    return replace(
        measurement,
        n=measurement.n or len(found.known),
        draws=RESAMPLES,
        basis=[found, found.facts],
        unused=OF_EQUATION_8,
    )


on_circuits = family(_needs, _known_alone, _completed)
"""Claims about circuits that run alone."""


def recall_readings(found: KnownAlone, top: int = 1) -> dict[str, float]:
    """The recall of the located circuits under other readings, and that of other cuts."""
    known, every, other = found.known, found.every, 1 if top > 1 else 10
    return finite(
        {
            "every token of the answer": stats.defined_mean(known.recalled(top=top, ranked="worst")),
            "among the facts' answers": stats.defined_mean(known.recalled(top=top, ranked="candidate")),
            "all facts, those not known too": stats.defined_mean(every.recalled(top=top)),
            f"rank {other} or better": stats.defined_mean(known.recalled(top=other)),
            **{cut: stats.defined_mean(known.recalled(cut, top)) for cut in known.cuts},
            "median rank": float(np.median(known.of("first"))),
        }
    )


def recall_controls(found: KnownAlone, top: int = 1) -> dict[str, float]:
    """The recall of random circuits, and of circuits located for answers that the model does not hold."""
    shown = {
        f"random circuits, {arm}": stats.defined_mean(found.known.recalled(arm, top)) for arm in RANDOM_ARMS
    }
    for name, alone in found.controls.items():
        shown[f"circuits located for {_of(name)}"] = stats.defined_mean(alone.recalled(LOCATED, top))
        shown[f"the whole model, {_of(name)}"] = stats.defined_mean(alone.recalled(WHOLE, top))
    for arm in BOTH:
        shown[f"located edges in random circuits, {arm}"] = stats.defined_mean(found.known.of("shared", arm))
    return shown


def _of(control: str) -> str:
    return control if control == WRONG else f"the answers in {control}"


# ----------------------------------------------------------------------------------------------- recall, size, the IPP


@on_circuits
def kc_recall(found: KnownAlone, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kc-recall``: the share of known facts whose answer the circuit alone ranks first (12.3 %),
    and how much more that is, fact by fact, than of circuits located for an answer that the model does not hold."""
    first = found.known.recalled()[:, 0]
    share, interval = (
        float(first.mean()),
        stats.binomial_interval(int(first.sum()), len(first), method="wilson"),
    )
    return Measurement(
        "share of facts whose answer the circuit alone ranks first",
        bound(share, interval),
        {
            **{name: effect(one) for name, one in found.gaps(study.settings.seed).items()},
            **dict.fromkeys(("recall", "recall-introduction"), number(share, interval)),
        },
        chance=stats.defined_mean(found.known.recalled(UNIFORM)),
        asides=recall_readings(found),
        controls=recall_controls(found),
        plots=[_choices(found)],
    )


@on_circuits
def kc_recalled_param_share(found: KnownAlone, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kc-param-share``: the parameters in the circuits that recall their fact alone (2.6 %).

    The p value is of recalled against other facts, one fact a subject, since circuits of one subject may be alike.
    """
    known, seed = found.known, study.settings.seed
    recalled, shares = known.recalled()[:, 0] == 1, known.of("share")[:, 0]
    fewest = fewest_facts(study)
    if recalled.sum() < fewest:
        raise FloorError(
            f"too few facts: circuits recall {recalled.sum()} of {len(known)} known facts, and {fewest} are the "
            "fewest an interval can be taken over"
        )
    mean, clusters = (
        stats.defined_mean(shares[recalled]),
        np.unique(found.clusters[recalled], return_inverse=True)[1],
    )
    interval = stats.bootstrap_mean(shares[recalled], seed=seed, clusters=clusters)
    asides: dict[str, Aside] = dict(
        finite(
            {
                "all known facts": stats.defined_mean(shares),
                "facts that are not recalled": stats.defined_mean(shares[~recalled]),
                "in the matrices that edges enter": stats.defined_mean(found.entered[recalled]),
                "smallest": float(shares[recalled].min()),
                "largest": float(shares[recalled].max()),
                "facts recalled": float(recalled.mean()),
                **{
                    f"{cut}, recalled": stats.defined_mean(known.of("share", cut)[known.recalled(cut) == 1])
                    for cut in known.cuts
                },
            }
        )
    )
    one = np.unique(found.clusters, return_index=True)[1]
    if 0 < recalled[one].sum() < len(one):
        test = stats.stratified_permutation(shares[one], recalled[one], seed=seed)
        asides["recalled against other facts"] = Test(p=test.p)
    return Measurement(
        "share of the parameters in the nodes of circuits that recall their fact",
        bound(mean, interval, BY_SUBJECT, unit="share"),
        dict.fromkeys(("share", "share-introduction"), number(mean, interval, BY_SUBJECT, unit="share")),
        n=int(recalled.sum()),
        asides=asides,
        controls={
            **{f"random circuits, {arm}": stats.defined_mean(known.of("share", arm)) for arm in RANDOM_ARMS},
            **{
                f"circuits of {name}": stats.defined_mean(alone.of("share"))
                for name, alone in found.controls.items()
            },
        },
    )


@on_circuits
def kc_ipp(found: KnownAlone, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kc-ipp``: recall at rank 1, located minus the best random choice (10.5 % on the poster).

    A random choice takes one random circuit a fact, of as many edges, drawn either uniformly or with the same degrees;
    each way alone, random nodes with all edges between them, and other readings of recall stand beside.
    """
    seed = study.settings.seed
    own = _ipp(found, BOTH, seed)
    others = {
        **{f"random circuits, {arm}": _ipp(found, (arm,), seed) for arm in (*BOTH, NODES)},
        "every token of the answer": _ipp(found, BOTH, seed, ranked="worst"),
        "rank 10 or better": _ipp(found, BOTH, seed, top=10),
    }
    return Measurement(
        "IPP: share of facts recalled, circuit minus the best random choice",
        Effect(own.estimate, (own.interval.low, own.interval.high), method=BEST_CHOICE),
        {"ipp": number(own.estimate, own.interval, "facts")},
        asides=finite(
            {
                "recall of the circuit": stats.defined_mean(found.known.recalled()),
                "chosen and scored on the same facts (biased)": own.same_items,
                "against the mean choice": own.mean_choice,
                **{name: other.estimate for name, other in others.items()},
            }
        ),
        controls=recall_controls(found),
    )


def _ipp(found: KnownAlone, arms: Sequence[str], seed: int, top: int = 1, ranked: str = "first") -> stats.Ipp:
    located = found.known.recalled(LOCATED, top, ranked)[:, 0]
    random = np.concatenate([found.known.recalled(arm, top, ranked) for arm in arms], axis=1)
    return stats.ipp(located, random.T, clusters=found.clusters, seed=seed)


def _choices(found: KnownAlone) -> Plot:
    """The recall of the located circuits, and of as many choices as there are random circuits a fact."""
    arms = (LOCATED, *RANDOM_ARMS, *found.known.cuts)
    groups = {arm: found.known.recalled(arm).mean(0).tolist() for arm in arms}
    axis = "share of facts whose answer the circuit alone ranks first, one dot a choice of circuits"
    return Plot("splits", "Circuits alone: located against random ones", {"groups": groups, "axis": axis})
