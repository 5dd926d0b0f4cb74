"""Section 3.2 on KN: do located neurons, doubled or zeroed, move an answer as KN predicts, and more than random ones?

`caploc.experiments.scaled_facts` names what is scaled and what it does to the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caploc.experiments.evidence import asides, bound, difference, effects, number
from caploc.experiments.facts import BY_SUBJECT, OF_EQUATION_8, FactSet, Known, facts_of, fewest_facts
from caploc.experiments.scaled_facts import (
    ARMS,
    DOUBLED,
    LARGEST,
    LAYER,
    LOCATED,
    MAGNITUDE,
    RANDOM_ARMS,
    RANDOM_SETS,
    UNIFORM,
    ZEROED,
    Scaled,
    ScaledFacts,
)
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Study, experiment
from caploc.findings import Aside, Basis, Cell, Effect, Measurement, Plot, Test
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.papers import Claim
from caploc.statistics import Effect as Compared
from caploc.statistics import (
    Interval,
    Ipp,
    binomial_interval,
    bootstrap_mean,
    compare_pairs,
    defined_mean,
    ipp,
    largest_rank_correlation,
    mcnemar,
    rank_correlations,
)
from caploc.statistics.bootstrap import RESAMPLES

DONE = {DOUBLED: "doubled", ZEROED: "zeroed"}
SIGNS = {"increase": 1, "decrease": -1}
BOTH = (DOUBLED, ZEROED)
BEST_CHOICE = "95 %, bootstrap over facts, the best choice found on one half and scored on the other"


# ------------------------------------------------------------------------------------- what all of its claims rest on


@dataclass(frozen=True, eq=False)
class ScaledKnown:
    """The facts, what scaling does to all of them (``every``), and to those that the model knows."""

    facts: FactSet
    every: Scaled
    known: Scaled

    @property
    def settings(self) -> Mapping[str, Any]:
        return {
            "threshold": DEFAULT_CUT.threshold,
            "random_sets": RANDOM_SETS,
            "resolution_nats": float(self.known.resolution.max()),
        }

    @property
    def notes(self) -> Sequence[str]:
        known, nothing = self.known, len(self.facts) - len(self.every)
        notes = [
            f"the answers have P {np.exp(known.clean).mean():.3f} on average, so that log P can rise by "
            f"{known.room:.2g} nats at most: the less, the less doubling can show"
        ]
        return [*notes, f"{nothing} facts left out: no neuron is located for them"] if nothing else notes

    @property
    def basis(self) -> list[Basis]:
        """What a measurement on them rests on."""
        return [self, self.facts]


def needs_scaled(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    """What every claim about scaled activations needs."""
    yield ScaledFacts(Known(facts_of(cell.dataset or "", wordings=1)))


def scaled_known(study: Study, cell: Cell) -> ScaledKnown:
    """What scaling does to the facts of the cell's dataset.

    Raises:
        NotRunError, FloorError: they cannot be had; or KN locates nothing for too many of them, or scaling what it
            locates changes most answers' probability by nothing.
    """
    known_facts = Known(facts_of(cell.dataset or "", wordings=1))
    facts, every = study.result(known_facts), study.result(ScaledFacts(known_facts))
    known, count = every.only(every.known), int(facts.known.sum())
    if len(known) < fewest_facts(study):
        raise FloorError(f"floor effect: KN locates nothing for {count - len(known)} of {count} known facts")
    for done, name in ((DOUBLED, "doubling"), (ZEROED, "zeroing")):
        tied = len(known) - int(sum(known.moved(done, LOCATED, sign).sum() for sign in (1, -1)))
        if tied * 2 > len(known):
            raise FloorError(
                f"floor effect: {name} the located neurons changes no probability by more than rounding in {tied} of "
                f"{len(known)} facts"
            )
    return ScaledKnown(facts, every, known)


def on_scaled(found: ScaledKnown, measurement: Measurement) -> Measurement:
    """The measurement with what every claim about scaled activations shows beside its own numbers."""
    return replace(
        measurement,
        asides={**measurement.asides, **_beside(found)},
        controls=_controls(found.known),
        n=len(found.known),
        draws=RESAMPLES,
        basis=found.basis,
        unused=OF_EQUATION_8,
    )


def _beside(found: ScaledKnown) -> dict[str, float]:
    numbers = {
        f"nats, {name}, {arm}": defined_mean(found.known.change[:, done, ARMS[arm]])
        for done, name in DONE.items()
        for arm in ARMS
    }
    for done, name in DONE.items():
        numbers[f"as predicted, {name}, all facts"] = defined_mean(found.every.as_predicted(done, LOCATED))
    return {**numbers, "neurons located, mean": float(found.known.count.mean())}


def _controls(scaled: Scaled) -> dict[str, float]:
    """Shares that move as predicted under other neurons, and how well these match the located ones in magnitude."""
    found = {}
    for arm in (*RANDOM_ARMS, LARGEST):
        for done, name in DONE.items():
            found[f"as predicted, {name}, {arm}"] = defined_mean(scaled.as_predicted(done, arm))
    own = defined_mean(scaled.magnitude[:, ARMS[LOCATED]])
    for arm in (*RANDOM_ARMS, LARGEST):
        found[f"magnitude over that of the located, {arm}"] = (
            defined_mean(scaled.magnitude[:, ARMS[arm]]) / own
        )
    return found


# ------------------------------------------------------------------------------------------ shares of answers that move


@experiment(needs_scaled)
def kn_double(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-double``: 85.1 % up and 14.9 % down, located; 72.3 and 27.7 %, random."""
    return _shares(study, cell, DOUBLED)


@experiment(needs_scaled)
def kn_zero(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-zero``: 27.4 % up and 72.4 % down, located; 17.6 and 82.6 %, random."""
    return _shares(study, cell, ZEROED)


def _shares(study: Study, cell: Cell, done: int) -> Measurement:
    found = scaled_known(study, cell)
    scaled, seed = found.known, study.settings.seed
    located = {name: _located_share(scaled, done, sign) for name, sign in SIGNS.items()}
    random = {name: _random_share(scaled, done, sign, seed) for name, sign in SIGNS.items()}
    predicted = "increase" if done == DOUBLED else "decrease"
    moves = "likelier" if done == DOUBLED else "less likely"
    return on_scaled(
        found,
        Measurement(
            f"share of answers that get {moves}, located neurons {DONE[done]}",
            bound(*located[predicted]),
            {
                **{f"located-{name}": number(*share) for name, share in located.items()},
                **{f"random-{name}": number(*share) for name, share in random.items()},
            },
            chance=random[predicted][0],
            asides={
                **{
                    f"McNemar, {arm} sets": _mcnemar(scaled, done, arm)
                    for arm in RANDOM_ARMS
                    if scaled.has(arm)
                },
                **_further_shares(scaled, done),
            },
        ),
    )


@experiment(needs_scaled)
def kn_similar_to_random(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-similar-to-random``: the two differences of shares, against random sets matched by layer.

    Against uniform sets and sets matched by magnitude they stand beside. The value shown is the larger difference in
    size.
    """
    found = scaled_known(study, cell)
    scaled, seed = found.known, study.settings.seed
    compared = {name: _located_minus_random(scaled, done, LAYER, seed) for done, name in DONE.items()}
    beside = {
        f"{arm} sets, {name}": _located_minus_random(scaled, done, arm, seed)
        for arm in RANDOM_ARMS
        if arm != LAYER and scaled.has(arm)
        for done, name in DONE.items()
    }
    widest = max(compared.values(), key=lambda one: abs(one.estimate))
    return on_scaled(
        found,
        Measurement(
            "share that moves as KN predicts, located minus random",
            difference(widest.estimate, widest.interval, "facts; of the larger of the two differences"),
            effects(compared),
            effect_size=widest.effect_size,
            asides={
                **asides(beside),
                **{f"McNemar, {name}": _mcnemar(scaled, done, LAYER) for done, name in DONE.items()},
            },
            plots=[_choices(scaled)],
        ),
    )


@experiment(needs_scaled)
def kn_not_necessarily(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-not-necessarily``: shares that move against KN's prediction; the value is the smaller."""
    found = scaled_known(study, cell)
    against = {
        "doubled-decrease": bound(*_located_share(found.known, DOUBLED, -1)),
        "zeroed-increase": bound(*_located_share(found.known, ZEROED, 1)),
    }
    smaller = min(against.values(), key=lambda share: share.estimate or 0.0)
    quantity = "share of facts that move against KN's prediction, the smaller of two"
    return on_scaled(found, Measurement(quantity, smaller, against))


def _located_share(scaled: Scaled, done: int, sign: int) -> tuple[float, Interval]:
    """The share of facts whose answer moves so under the located neurons, with Wilson's interval."""
    moved = scaled.moved(done, LOCATED, sign)[:, 0]
    return float(moved.mean()), binomial_interval(int(moved.sum()), len(moved), method="wilson")


def _random_share(scaled: Scaled, done: int, sign: int, seed: int) -> tuple[float, Interval]:
    """The same under uniform sets, mean over a fact's sets; BCa over facts, those of one subject together.

    Wilson's interval where all sets agree, since a bootstrap of equal values has no width.
    """
    means = np.nanmean(scaled.moved(done, UNIFORM, sign), axis=1)
    if np.ptp(means) == 0 and means[0] in (0, 1):
        return float(means[0]), binomial_interval(int(means.sum()), len(means), method="wilson")
    return float(means.mean()), bootstrap_mean(means, seed=seed, clusters=scaled.clusters)


def _located_minus_random(scaled: Scaled, done: int, arm: str, seed: int) -> Compared:
    """Share that moves as KN predicts, located minus random: paired by fact, against the mean over its random sets."""
    located = scaled.as_predicted(done, LOCATED)[:, 0]
    random = np.nanmean(scaled.as_predicted(done, arm), axis=1)
    return compare_pairs(located, random, clusters=scaled.clusters, seed=seed)


def _mcnemar(scaled: Scaled, done: int, arm: str) -> Test:
    """Exact McNemar test of located against one random set a fact, the first."""
    return Test(p=mcnemar(scaled.as_predicted(done, LOCATED)[:, 0], scaled.as_predicted(done, arm)[:, 0]).p)


def _further_shares(scaled: Scaled, done: int) -> dict[str, float]:
    """Shares under every arm, and of those that move neither way."""
    found: dict[str, float] = {}
    for arm in ARMS:
        for name, sign in SIGNS.items():
            found[f"{arm}, {name}"] = defined_mean(scaled.moved(done, arm, sign))
        found[f"{arm}, neither"] = 1 - found[f"{arm}, increase"] - found[f"{arm}, decrease"]
    return found


def _choices(scaled: Scaled) -> Plot:
    """Shares that move as predicted: one of the located neurons, and as many as there are random sets a fact."""
    groups = {
        f"{name}: {arm}": np.nanmean(scaled.as_predicted(done, arm), axis=0).tolist()
        for done, name in DONE.items()
        for arm in ARMS
        if scaled.has(arm)
    }
    axis = "share of facts that move as KN predicts, one dot a choice of sets"
    return Plot("splits", "Located neurons against random ones", {"groups": groups, "axis": axis})


# -------------------------------------------------------------------------------- attribution and change, correlated


@experiment(needs_scaled)
def kn_no_strong_correlation(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-no-strong-correlation``: |Spearman rho| of attribution changed with the change of log P.

    Over facts and their sets, the located and those matched by layer, for doubling and for zeroing apart; the value is
    the larger, chosen anew in every resample, since a strong correlation under either contradicts the claim.
    """
    found = scaled_known(study, cell)
    scaled = found.known
    rows = _rows(scaled, (LOCATED, LAYER))
    estimate, interval = largest_rank_correlation(rows, scaled.clusters, study.settings.seed)
    if interval is None:
        raise FloorError("floor effect: the sets do not differ in attribution, or change nothing")
    sets = {"": (LOCATED, LAYER), ", located sets alone": (LOCATED,), ", sets by layer alone": (LAYER,)}
    if scaled.has(MAGNITUDE):
        sets[", located sets and those by magnitude"] = (LOCATED, MAGNITUDE)
    return on_scaled(
        found,
        Measurement(
            "rank correlation of the attribution changed with the change of log probability, its size",
            bound(estimate, interval, BY_SUBJECT, unit="correlation"),
            asides={
                f"rho, {DONE[done]}{which}": rho
                for which, arms in sets.items()
                for done, rho in enumerate(rank_correlations(_rows(scaled, arms)))
            },
        ),
    )


def _rows(scaled: Scaled, arms: Sequence[str]) -> np.ndarray:
    """``[F, 3, sets]`` attribution, change if doubled, change if zeroed, of all sets of these arms."""
    own = np.concatenate([scaled.attribution[:, ARMS[arm]] for arm in arms], axis=1)
    change = np.concatenate([scaled.change[..., ARMS[arm]] for arm in arms], axis=2)
    return np.concatenate([own[:, None], change], axis=1)


# ------------------------------------------------------------------------------------------------ the poster's IPP


@experiment(needs_scaled)
def kn_ipp(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-ipp``: performance is the mean share that moves as predicted, doubled and zeroed.

    A random choice takes one random set a fact, matched by layer; uniform sets, sets matched by magnitude and the other
    readings of performance stand beside.
    """
    found = scaled_known(study, cell)
    scaled, seed = found.known, study.settings.seed
    own = _ipp(scaled, BOTH, LAYER, seed)
    others = {
        "doubling alone": _ipp(scaled, (DOUBLED,), LAYER, seed),
        "zeroing alone": _ipp(scaled, (ZEROED,), LAYER, seed),
        **{f"{arm} sets": _ipp(scaled, BOTH, arm, seed) for arm in (UNIFORM, MAGNITUDE) if scaled.has(arm)},
    }
    beside: dict[str, Aside] = {name: other.estimate for name, other in others.items()}
    return on_scaled(
        found,
        Measurement(
            "IPP: share that moves as predicted, located minus the best random choice",
            Effect(own.estimate, (own.interval.low, own.interval.high), method=BEST_CHOICE),
            {"ipp": number(own.estimate, own.interval, "facts")},
            asides={
                "chosen and scored on the same facts (biased)": own.same_items,
                "against the mean choice": own.mean_choice,
                **beside,
                "mean size of the four differences": _unsigned(scaled),
            },
        ),
    )


def _ipp(scaled: Scaled, done: Sequence[int], arm: str, seed: int) -> Ipp:
    located = np.mean([scaled.as_predicted(one, LOCATED)[:, 0] for one in done], axis=0)
    random = np.mean([scaled.as_predicted(one, arm) for one in done], axis=0)
    return ipp(located, random.T, clusters=scaled.clusters, seed=seed)


def _unsigned(scaled: Scaled) -> float:
    """The mean size of the four differences of section 3.2 (11.4 points there), which forgets their signs."""
    differences = [
        scaled.moved(done, LOCATED, sign).mean() - scaled.moved(done, UNIFORM, sign).mean()
        for done in BOTH
        for sign in SIGNS.values()
    ]
    return float(np.abs(differences).mean())
