"""Section 3.2 on KN: do located neurons, doubled or zeroed, move answers as KN predicts, and more than random ones?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.experiments.evidence import asides, bound, difference, effects, number
from caploc.experiments.facts import BY_SUBJECT, OF_EQUATION_8, FactSet, Known, facts_of, fewest_facts
from caploc.experiments.scaled_facts import (
    ARMS,
    BOTH,
    DONE,
    DOUBLED,
    LARGEST,
    LAYER,
    LOCATED,
    MAGNITUDE,
    RANDOM_ARMS,
    RANDOM_SETS,
    SIGNS,
    UNIFORM,
    ZEROED,
    Scaled,
    ScaledFacts,
)
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study, family
from caploc.findings import Aside, Cell, Effect, Measurement, Plot, Test
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES

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
            f"{known.room:.2g} nats at most: shares count the direction alone, in which log odds, which have no "
            "ceiling, agree with P"
        ]
        return (
            [*notes, f"{nothing} facts left out: no neuron, or most are located for them"]
            if nothing
            else notes
        )


def _scaled(cell: Cell) -> ScaledFacts:
    return ScaledFacts(Known(facts_of(cell.dataset or "", wordings=1)))


def _scaled_known(study: Study, cell: Cell, claim: Claim) -> ScaledKnown:
    """What scaling does to the facts of the cell's dataset.

    Raises:
        NotRunError, FloorError: they cannot be had; or KN locates nothing for too many of them, or scaling what it
            locates changes most answers' probability by nothing.
    """
    scaled = _scaled(cell)
    facts, every = study.result(scaled.facts), study.result(scaled)
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


def _completed(found: ScaledKnown, measurement: Measurement) -> Measurement:
    return replace(
        measurement,
        asides={**measurement.asides, **_beside(found)},
        controls=_controls(found.known),
        n=len(found.known),
        draws=RESAMPLES,
        basis=[found, found.facts],
        unused=OF_EQUATION_8,
    )


on_scaled = family(lambda study, cell, claim: [_scaled(cell)], _scaled_known, _completed)
"""Claims about scaled activations."""


def _beside(found: ScaledKnown) -> dict[str, float]:
    numbers = {
        f"nats, {name}, {arm}": stats.defined_mean(found.known.change[:, done, ARMS[arm]])
        for done, name in DONE.items()
        for arm in ARMS
    }
    for done, name in DONE.items():
        numbers[f"as predicted, {name}, all facts"] = stats.defined_mean(
            found.every.as_predicted(done, LOCATED)
        )
    return {**numbers, "neurons located, mean": float(found.known.count.mean())}


def _controls(scaled: Scaled) -> dict[str, float]:
    """Shares that move as predicted under other neurons, and how well these match the located ones in magnitude."""
    found = {}
    for arm in (*RANDOM_ARMS, LARGEST):
        for done, name in DONE.items():
            found[f"as predicted, {name}, {arm}"] = stats.defined_mean(scaled.as_predicted(done, arm))
    own = stats.defined_mean(scaled.magnitude[:, ARMS[LOCATED]])
    for arm in (*RANDOM_ARMS, LARGEST):
        found[f"magnitude over that of the located, {arm}"] = (
            stats.defined_mean(scaled.magnitude[:, ARMS[arm]]) / own
        )
    return found


# ------------------------------------------------------------------------------------------ shares of answers that move


@on_scaled
def kn_double(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-double``: 85.1 % up and 14.9 % down, located; 72.3 and 27.7 %, random."""
    return _shares(found, study, DOUBLED)


@on_scaled
def kn_zero(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-zero``: 27.4 % up and 72.4 % down, located; 17.6 and 82.6 %, random."""
    return _shares(found, study, ZEROED)


def _shares(found: ScaledKnown, study: Study, done: int) -> Measurement:
    scaled, seed = found.known, study.settings.seed
    moved, of_random = (scaled.as_predicted(done, arm).mean(1) for arm in (LOCATED, UNIFORM))
    # as printed: doubling random ones strengthens fewer answers, and zeroing them weakens more
    printed, first, second = (
        ("more often than random", moved, of_random)
        if done == DOUBLED
        else ("less often than random", of_random, moved)
    )
    compared = {
        "more often than not": _more_often_than_not(scaled, done, seed),
        printed: _compared(scaled, first, second, seed),
    }
    located = {name: _located_share(scaled, done, sign) for name, sign in SIGNS.items()}
    random = {name: _random_share(scaled, done, sign, seed) for name, sign in SIGNS.items()}
    predicted = "increase" if done == DOUBLED else "decrease"
    moves = "likelier" if done == DOUBLED else "less likely"
    return Measurement(
        f"share of answers that get {moves}, located neurons {DONE[done]}",
        bound(*located[predicted]),
        {
            **{f"located-{name}": number(*share) for name, share in located.items()},
            **{f"random-{name}": number(*share) for name, share in random.items()},
            **effects(compared),
        },
        chance=random[predicted][0],
        asides={
            **{f"McNemar, {arm} sets": _mcnemar(scaled, done, arm) for arm in RANDOM_ARMS if scaled.has(arm)},
            **_further_shares(scaled, done),
        },
    )


@on_scaled
def kn_similar_to_random(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-similar-to-random``: the two differences of shares, against random sets anywhere.

    Against sets matched by layer and by magnitude they stand beside. The value shown is the larger difference in size.
    """
    scaled, seed = found.known, study.settings.seed
    compared = {name: _located_minus_random(scaled, done, UNIFORM, seed) for done, name in DONE.items()}
    beside = {
        f"{arm} sets, {name}": _located_minus_random(scaled, done, arm, seed)
        for arm in RANDOM_ARMS
        if arm != UNIFORM and scaled.has(arm)
        for done, name in DONE.items()
    }
    widest = max(compared.values(), key=lambda one: abs(one.estimate))
    return Measurement(
        "share that moves as KN predicts, located minus random",
        difference(widest.estimate, widest.interval, "facts; of the larger of the two differences"),
        effects(compared),
        effect_size=widest.effect_size,
        asides={
            **asides(beside),
            **{f"McNemar, {name}": _mcnemar(scaled, done, UNIFORM) for done, name in DONE.items()},
        },
        plots=[_choices(scaled)],
    )


@on_scaled
def kn_not_necessarily(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-not-necessarily``: shares that move against KN's prediction; the value is the smaller."""
    against = {
        "doubled-decrease": bound(*_located_share(found.known, DOUBLED, -1)),
        "zeroed-increase": bound(*_located_share(found.known, ZEROED, 1)),
    }
    smaller = min(against.values(), key=lambda share: share.estimate or 0.0)
    quantity = "share of facts that move against KN's prediction, the smaller of two"
    return Measurement(quantity, smaller, against)


def _located_share(scaled: Scaled, done: int, sign: int) -> tuple[float, stats.Interval]:
    """The share of facts whose answer moves so under the located neurons, with Wilson's interval."""
    moved = scaled.moved(done, LOCATED, sign)[:, 0]
    return float(moved.mean()), stats.binomial_interval(int(moved.sum()), len(moved), method="wilson")


def _random_share(scaled: Scaled, done: int, sign: int, seed: int) -> tuple[float, stats.Interval]:
    """The same under uniform sets, mean over a fact's sets; BCa over facts, those of one subject together."""
    means = scaled.moved(done, UNIFORM, sign).mean(1)
    return float(means.mean()), stats.bounded_mean(means, seed=seed, clusters=scaled.clusters)


def _located_minus_random(scaled: Scaled, done: int, arm: str, seed: int) -> stats.Effect:
    """Share that moves as KN predicts, located minus random: paired by fact, against the mean over its random sets."""
    located, random = scaled.as_predicted(done, LOCATED)[:, 0], scaled.as_predicted(done, arm).mean(1)
    return _compared(scaled, located, random, seed)


def _more_often_than_not(scaled: Scaled, done: int, seed: int) -> stats.Effect:
    """Share that moves as KN predicts minus the share that moves against it, halved: above one half, ties aside."""
    with_it, against = (
        scaled.moved(done, LOCATED, sign)[:, 0] / 2 for sign in ((1, -1) if done == DOUBLED else (-1, 1))
    )
    return _compared(scaled, with_it, against, seed, 0.5)


def _compared(
    scaled: Scaled, first: np.ndarray, second: np.ndarray, seed: int, most: float = 1.0
) -> stats.Effect:
    """Paired by fact, differences up to ``most`` in size; facts that all move alike are no proof."""
    found = stats.compare_pairs(first, second, clusters=scaled.clusters, seed=seed)
    return stats.at_least_adjusted(found, first - second, clusters=scaled.clusters, limits=(-most, most))


def _mcnemar(scaled: Scaled, done: int, arm: str) -> Test:
    """Exact McNemar test of located against one random set a fact, the first."""
    return Test(
        p=stats.mcnemar(scaled.as_predicted(done, LOCATED)[:, 0], scaled.as_predicted(done, arm)[:, 0]).p
    )


def _further_shares(scaled: Scaled, done: int) -> dict[str, float]:
    """Shares under every arm, and of those that move neither way."""
    found: dict[str, float] = {}
    for arm in ARMS:
        for name, sign in SIGNS.items():
            found[f"{arm}, {name}"] = stats.defined_mean(scaled.moved(done, arm, sign))
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


@on_scaled
def kn_no_strong_correlation(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-no-strong-correlation``: |Spearman rho| of attribution changed with the change of log P.

    Over facts, of the located sets alone, for doubling and for zeroing apart; the value is the larger, chosen anew in
    every resample, since a strong correlation under either contradicts the claim. Pooled with random sets, whose
    attributions and effects are both small, the correlation would say that located sets differ from random ones.
    """
    scaled = found.known
    rows = _rows(scaled, (LOCATED,))
    estimate, interval = stats.largest_rank_correlation(rows, scaled.clusters, study.settings.seed)
    if interval is None:
        raise FloorError("nothing to correlate: the sets do not differ in attribution, or change nothing")
    sets = {"": (LOCATED,), ", located and uniform sets": (LOCATED, UNIFORM)}
    if scaled.has(LAYER):
        sets |= {", located sets and those by layer": (LOCATED, LAYER), ", sets by layer alone": (LAYER,)}
    if scaled.has(MAGNITUDE):
        sets[", located sets and those by magnitude"] = (LOCATED, MAGNITUDE)
    return Measurement(
        "rank correlation of the attribution changed with the change of log probability, its size",
        bound(estimate, interval, BY_SUBJECT, unit="correlation"),
        asides={
            f"rho, {DONE[done]}{which}": rho
            for which, arms in sets.items()
            for done, rho in enumerate(stats.rank_correlations(_rows(scaled, arms)))
        },
    )


def _rows(scaled: Scaled, arms: Sequence[str]) -> np.ndarray:
    """``[F, 3, sets]`` attribution, change if doubled, change if zeroed, of all sets of these arms."""
    own = np.concatenate([scaled.attribution[:, ARMS[arm]] for arm in arms], axis=1)
    change = np.concatenate([scaled.change[..., ARMS[arm]] for arm in arms], axis=2)
    return np.concatenate([own[:, None], change], axis=1)


# ------------------------------------------------------------------------------------------------ the poster's IPP


@on_scaled
def kn_ipp(found: ScaledKnown, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``reliability-kn-ipp``: performance is the mean share that moves as predicted, doubled and zeroed.

    A random choice takes one random set a fact, anywhere; sets matched by layer and by magnitude and the other readings
    of performance stand beside.
    """
    scaled, seed = found.known, study.settings.seed
    own = _ipp(scaled, BOTH, UNIFORM, seed)
    others = {
        "doubling alone": _ipp(scaled, (DOUBLED,), UNIFORM, seed),
        "zeroing alone": _ipp(scaled, (ZEROED,), UNIFORM, seed),
        **{f"{arm} sets": _ipp(scaled, BOTH, arm, seed) for arm in (LAYER, MAGNITUDE) if scaled.has(arm)},
    }
    beside: dict[str, Aside] = {name: other.estimate for name, other in others.items()}
    return Measurement(
        "IPP: share that moves as predicted, located minus the best random choice",
        Effect(own.estimate, (own.interval.low, own.interval.high), method=BEST_CHOICE),
        {"ipp": number(own.estimate, own.interval, "facts")},
        asides={
            "chosen and scored on the same facts (biased)": own.same_items,
            "against the mean choice": own.mean_choice,
            **beside,
            "mean size of the four differences": _unsigned(scaled),
        },
    )


def _ipp(scaled: Scaled, done: Sequence[int], arm: str, seed: int) -> stats.Ipp:
    located = np.mean([scaled.as_predicted(one, LOCATED)[:, 0] for one in done], axis=0)
    random = np.mean([scaled.as_predicted(one, arm) for one in done], axis=0)
    return stats.ipp(located, random.T, clusters=scaled.clusters, seed=seed)


def _unsigned(scaled: Scaled) -> float:
    """The mean size of the four differences of section 3.2 (11.4 points there), which forgets their signs."""
    differences = [
        scaled.moved(done, LOCATED, sign).mean() - scaled.moved(done, UNIFORM, sign).mean()
        for done in BOTH
        for sign in SIGNS.values()
    ]
    return float(np.abs(differences).mean())
