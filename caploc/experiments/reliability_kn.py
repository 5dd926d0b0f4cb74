"""Section 3.2 on KN: do located neurons, doubled or zeroed, move answers as KN predicts, and more than random ones?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caploc import statistics as stats
from caploc.experiments.evidence import asides, bound, difference, effects, number
from caploc.experiments.facts import (
    BY_SUBJECT,
    OF_EQUATION_8,
    FactSet,
    Known,
    facts_of,
    fewest_facts,
    passes_flops,
)
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import FloorError, Spec, Task, keyed
from caploc.experiments.study import Study, family
from caploc.findings import Aside, Cell, Effect, Measurement, Plot, Test
from caploc.interventions.scaling import Scaling
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.locators.magnitude import Magnitude, magnitude
from caploc.neurons import NeuronMask
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES
from caploc.store import Entry
from caploc.streams import Stream, derived_seeds

RANDOM_SETS = 10
"""For each fact. It has a located set of its own, so the sampling error of sets averages out over facts."""
RESOLUTION = 1e-6
"""Nats a token. Float32 logits of size 10 resolve no less; a smaller change is none, and counts as a tie."""

DOUBLED, ZEROED = BOTH = 0, 1
FACTORS = (2.0, 0.0)
DONE = {DOUBLED: "doubled", ZEROED: "zeroed"}
SIGNS = {"increase": 1, "decrease": -1}
BEST_CHOICE = "95 %, bootstrap over facts, the best choice found on one half and scored on the other"
LOCATED, LAYER, UNIFORM, MAGNITUDE, LARGEST = "located", "by layer", "uniform", "by magnitude", "largest"
ARMS: Mapping[str, slice] = MappingProxyType(
    {
        LOCATED: slice(0, 1),
        LAYER: slice(1, 1 + RANDOM_SETS),
        UNIFORM: slice(1 + RANDOM_SETS, 1 + 2 * RANDOM_SETS),
        MAGNITUDE: slice(1 + 2 * RANDOM_SETS, 1 + 3 * RANDOM_SETS),
        LARGEST: slice(1 + 3 * RANDOM_SETS, 2 + 3 * RANDOM_SETS),
    }
)
"""Sets of each fact: located; random with its count in every layer; random with its count; nearest to it in magnitude,
layer by layer; the largest in magnitude, as many in every layer. Random sets hold nothing that is located."""
RANDOM_ARMS = (UNIFORM, LAYER, MAGNITUDE)
"""The first is the paper's, "random activation values" anywhere, and decides; the others stand beside."""
SURE = 1e-7
"""The least 1 - P that float32 logits resolve."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """F facts for which something is located, with ``ARMS`` of S sets each.

    Attributes:
        change: ``[F, 2, S]`` rise of log P(answer), in nats, ``DOUBLED`` and ``ZEROED``; nan for a set there is not.
        attribution: ``[F, S]`` the sum of the set's attributions.
        magnitude: ``[F, S]`` the mean magnitude of the set's neurons.
        clean: ``[F]`` log P(answer) without intervention.
        resolution: ``[F]`` changes up to this size are none.
        count: ``[F]`` located neurons.
        clusters: ``[F]`` numbers of the subjects.
        known: ``[F]`` whether the model answers rightly.
    """

    change: np.ndarray
    attribution: np.ndarray
    magnitude: np.ndarray
    clean: np.ndarray
    resolution: np.ndarray
    count: np.ndarray
    clusters: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.clean)

    def only(self, chosen: np.ndarray) -> Scaled:
        """Some of the facts, chosen by a bool for each."""
        return Scaled(*(getattr(self, one.name)[chosen] for one in fields(self)))

    def has(self, arm: str) -> bool:
        """Whether every fact has the arm's sets."""
        return bool(np.isfinite(self.change[:, :, ARMS[arm]]).all())

    def moved(self, done: int, arm: str, sign: int) -> np.ndarray:
        """``[F, sets]`` 1 where the answer gets likelier (``sign`` 1) or less likely (-1), else 0; nan for no set."""
        change = self.change[:, done, ARMS[arm]]
        moved = (sign * change > self.resolution[:, None]).astype(float)
        return np.where(np.isnan(change), np.nan, moved)

    def as_predicted(self, done: int, arm: str) -> np.ndarray:
        """``moved`` in KN's direction: likelier if doubled, less likely if zeroed."""
        return self.moved(done, arm, 1 if done == DOUBLED else -1)

    def log_odds(self, done: int, arm: str) -> np.ndarray:
        """``[F]`` mean change over the arm's sets of the log odds of the answer, log P - log (1 - P), in nats: as log P
        where P is small, and without a ceiling where it is large."""
        clean = self.clean[:, None]
        return np.asarray((odds_of(clean + self.change[:, done, ARMS[arm]]) - odds_of(clean)).mean(1))

    @property
    def room(self) -> float:
        """By how many nats log P(answer) could rise on average, at most."""
        return float(-self.clean.mean())


def odds_of(log_p: np.ndarray) -> np.ndarray:
    """Log odds of probabilities, of which none counts as closer to 1 than can be told."""
    capped = np.minimum(log_p, -SURE)
    return np.asarray(capped - np.log(-np.expm1(capped)))


@dataclass(frozen=True)
class ScaledFacts(Spec[Scaled]):
    """The located and the random neurons of every one of ``facts``, in its original wording, doubled and zeroed."""

    facts: Spec[FactSet]

    @property
    def title(self) -> str:
        return "scaled neurons of facts"

    @property
    def _located(self) -> LocatedFacts:
        return LocatedFacts("kn", self.facts)

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (self.facts, self._located)

    def tasks(self, study: Study) -> Iterable[Task]:
        facts, settings = study.result(self.facts), study.settings
        depends_on = {
            "facts": facts.data_fingerprint,
            "method": settings.attribution.settings,
            "seed": settings.seed,
            "random sets": [RANDOM_SETS, "disjoint from the located"],
            "threshold": DEFAULT_CUT.threshold,
        }
        yield keyed(study, "scaled activations", depends_on, lambda: vars(self._scaled(study, facts)))

    def read(self, study: Study, entries: Iterator[Entry]) -> Scaled:
        (entry,) = entries
        return Scaled(**{one.name: entry.arrays[one.name] for one in fields(Scaled)})

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, 2.0 * ARMS[LARGEST].stop)

    def _scaled(self, study: Study, facts: FactSet) -> Scaled:
        prompts = [facts.prompts[index] for index in facts.first]
        tasks = study.tasks(self._located)
        scores = study.settings.store.compute_all([tasks[index] for index in facts.first])
        lm = study.weights()
        sizes = magnitude(lm, prompts)
        found: list[tuple[np.ndarray | float, ...]] = []
        with Scaling(lm) as scaling:
            for index, (prompt, entry) in enumerate(zip(prompts, scores, strict=True)):
                values = torch.from_numpy(np.array(entry.arrays["values"]))
                located = DEFAULT_CUT.locate(values)
                if not 0 < 2 * located.count <= located.values.numel():
                    continue
                sets, is_there = _sets(located, sizes, study.settings.seed, index)
                result = scaling.log_probs(
                    prompt, torch.cat([sets, sets]), np.repeat(FACTORS, len(sets)).tolist()
                )
                change = (result.log_probs - result.clean).sum(1).reshape(2, -1).numpy()
                found.append(
                    (
                        np.where(is_there, change, np.nan),
                        (sets * values).sum((1, 2)).numpy(),
                        sizes.mean_of(sets).numpy(),
                        float(result.clean.sum()),
                        max(result.rounding, RESOLUTION) * prompt.num_answer_tokens,
                        located.count,
                        facts.clusters[index],
                        facts.known[index],
                    )
                )
        if not found:
            return _of_no_fact()
        return Scaled(*(np.stack(column) for column in zip(*found, strict=True)))


def _of_no_fact() -> Scaled:
    none, no_sets = np.zeros(0), np.zeros((0, ARMS[LARGEST].stop))
    change = np.zeros((0, 2, ARMS[LARGEST].stop))
    return Scaled(change, no_sets, no_sets, none, none, none, none.astype(int), none.astype(bool))


def _sets(located: NeuronMask, sizes: Magnitude, seed: int, fact: int) -> tuple[Tensor, np.ndarray]:
    """``[S, layers, neurons]`` the sets of all arms, and ``[S]`` which of them are there.

    Where more than half of a layer is located, no others of it can match them.
    """
    drawn = derived_seeds(Stream.FACT_SETS, seed, fact)[0]
    generator, free = np.random.default_rng(drawn), ~located.values.numpy(force=True)
    sets = np.zeros((ARMS[LARGEST].stop, *free.shape), bool)
    is_there = np.ones(len(sets), bool)
    for one in sets[ARMS[UNIFORM]]:
        one.ravel()[generator.choice(np.flatnonzero(free), located.count, replace=False)] = True
    sets[ARMS[LOCATED]], sets[ARMS[LARGEST]] = ~free, sizes.top_like(located).values.numpy(force=True)
    if (free.sum(1) < located.per_layer).any():
        is_there[ARMS[LAYER]] = is_there[ARMS[MAGNITUDE]] = False
        return torch.from_numpy(sets), is_there
    for one in sets[ARMS[LAYER]]:
        for layer, count in enumerate(located.per_layer):
            one[layer, generator.choice(np.flatnonzero(free[layer]), count, replace=False)] = True
    sets[ARMS[MAGNITUDE]] = sizes.random_like(located, RANDOM_SETS, drawn).numpy(force=True)
    return torch.from_numpy(sets), is_there


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
