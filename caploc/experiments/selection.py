"""Consistency-aware selection: are facts edited better at neurons that are located for every wording?

A fact is located on four of its seven wordings and edited at k neurons (`caploc.experiments.consistent_edits`); what
follows is read on the three others. The neurons are chosen by the scores of one wording, by their mean over four, and
by the mean minus beta spreads (`caploc.locators.consistency_aware`): what consistency does is the difference of the
last two, and what averaging does that of the first two.

A weaker edit spares more, so that arms are compared twice: at the same number of neurons, and at the number at which
they cost other facts the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.experiments.consistent_edits import (
    ARMS,
    AWARE,
    BETAS,
    COMPARED,
    ERASED,
    HALF,
    LARGEST,
    LOCATING,
    MEAN,
    ONE,
    TWICE,
    UNION,
    UPDATED,
    WEIGHT_OF_OLD,
    EditedFacts,
    Edits,
)
from caploc.experiments.evidence import asides, effect, effects, number
from caploc.experiments.facts import OF_EQUATION_8, fewest_facts
from caploc.experiments.specs import FloorError, NotRunError
from caploc.experiments.study import Study, family
from caploc.experiments.wordings import Queries, query_facts
from caploc.findings import Cell, Measurement
from caploc.papers import Claim
from caploc.statistics.intervals import RESAMPLES

FLOORS: Mapping[str, tuple[float, float]] = MappingProxyType({ERASED: (0.2, 1.0), UPDATED: (0.1, 0.9)})
"""Success on held-out wordings that the best arm must reach, and that the worst must not exceed, for a difference to
show."""
ALLOWED = 0.02
"""By how much consistency may fall short of the plain mean and still count as no worse."""


# ------------------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True, eq=False)
class Found:
    """The facts with what was located for their prompts, and what both kinds of edits do to those evaluated."""

    queries: Queries
    edits: Mapping[str, Edits]

    def agreement(self, edits: Edits) -> np.ndarray:
        """``[F]`` mean overlap of the neurons that KN locates for the locating wordings of the facts edited."""
        queries, found = self.queries, []
        for fact in edits.fact.tolist():
            own = np.flatnonzero(queries.fact == fact)[:LOCATING]
            pairs = queries.overlap[np.ix_(own, own)]
            found.append(pairs[np.triu_indices(len(own), 1)].mean())
        return np.array(found)

    def inconsistent(self, edits: Edits) -> np.ndarray:
        """``[F]`` whether a fact's agreement lies below the median. FloorError: no fact's does."""
        agreement = self.agreement(edits)
        low = agreement < np.median(agreement)
        if min(low.sum(), (~low).sum()) * 4 < len(low):
            raise FloorError("facts cannot be halved: most agree equally over wordings")
        return np.asarray(low)


def _specs(cell: Cell) -> dict[str, EditedFacts]:
    return {how: EditedFacts(query_facts(cell.dataset or ""), how) for how in (ERASED, UPDATED)}


def _find(how: str) -> Any:
    def find(study: Study, cell: Cell, claim: Claim) -> Found:
        spec = _specs(cell)[how]
        edits = study.result(spec)
        if len(edits) < fewest_facts(study):
            raise FloorError(
                f"{len(edits)} facts are left to edit, fewer than the {fewest_facts(study)} that are needed"
            )
        best = edits.general[:, [ARMS.index((arm, 1.0)) for arm in COMPARED]].mean(0)
        floor, ceiling = FLOORS[how]
        if best.max() < floor or best.min() > ceiling:
            bound, least = ("floor", floor) if best.max() < floor else ("ceiling", ceiling)
            raise FloorError(
                f"{bound} effect: of the wordings held out, {best.min():.0%} to {best.max():.0%} are {how}, and a "
                f"difference shows {'from' if bound == 'floor' else 'up to'} {least:.0%}"
            )
        facts = study.result(spec.facts)
        return Found(Queries.of(facts, study.result(spec.located).sets), {how: edits})

    return find


def _completed(found: Found, measurement: Measurement) -> Measurement:
    ((how, edits),) = found.edits.items()
    settings: dict[str, Any] = {
        "neurons": int(edits.chosen[0]),
        "locating_wordings": LOCATING,
        "betas": dict(BETAS),
    }
    settings |= {"success": "by the first token of an answer"}
    if how == UPDATED:
        settings |= {"weight_of_old": WEIGHT_OF_OLD, "weight_of_new": float(edits.chosen[1])}
    return replace(
        measurement,
        asides={**measurement.asides, **{k: v for k, v in edits.numbers().items() if np.isfinite(v)}},
        n=len(edits),
        draws=RESAMPLES,
        basis=[found.queries],
        settings=settings,
        unused=OF_EQUATION_8,
    )


on_erased, on_updated = (
    family(lambda study, cell, claim, how=how: [_specs(cell)[how]], _find(how), _completed)
    for how in (ERASED, UPDATED)
)
"""Claims about facts that are erased, and about facts that are updated."""


@on_erased
def erase(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-cas-erase``."""
    return _better(found.edits[ERASED], study)


@on_updated
def update(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-cas-update``."""
    return _better(found.edits[UPDATED], study)


def _better(edits: Edits, study: Study) -> Measurement:
    seed, general, cost = study.settings.seed, edits.general, edits.cost
    parts = {
        "one wording, equal count": edits.more(general, AWARE, ONE),
        "one wording, equal locality": edits.more_at_equal(general, cost, AWARE, ONE, seed),
        f"plain mean, equal count, {ALLOWED:g} allowed": edits.more(general, AWARE, MEAN, ALLOWED),
        f"plain mean, equal locality, {ALLOWED:g} allowed": edits.more_at_equal(
            general, cost, AWARE, MEAN, seed, ALLOWED
        ),
    }
    beside = {
        "plain mean minus one wording, equal count": edits.more(general, MEAN, ONE),
        "plain mean minus one wording, equal locality": edits.more_at_equal(general, cost, MEAN, ONE, seed),
        "locality, minus one wording": edits.more(edits.kept, AWARE, ONE),
        "locality, minus plain mean": edits.more(edits.kept, AWARE, MEAN),
        **{f"{arm} minus plain mean, equal count": edits.more(general, arm, MEAN) for arm in (HALF, TWICE)},
    }
    return Measurement(
        "success on wordings held out, consistency-aware minus one wording, equal count",
        effect(parts["one wording, equal count"]),
        effects(parts),
        asides=asides(beside),
    )


@on_erased
def locality(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-cas-locality``: what one wording's neurons cost beyond consistent ones, where both erase as much."""
    edits, seed = _with_text(found.edits[ERASED]), study.settings.seed
    costs = {"other facts": edits.cost, "general text": edits.text}
    parts = {
        name: edits.more_at_equal(-values, edits.general, AWARE, ONE, seed) for name, values in costs.items()
    }
    beside = {}
    for name, values in costs.items():
        beside[f"{name}, beyond plain mean"] = edits.more_at_equal(-values, edits.general, AWARE, MEAN, seed)
        beside[f"{name}, equal count"] = edits.more(-values, AWARE, ONE)
        beside[f"{name}, equal count, beyond plain mean"] = edits.more(-values, AWARE, MEAN)
    return Measurement(
        "nats lost on other facts of the relation where as much is erased, one wording minus consistency-aware",
        effect(parts["other facts"], unit="nats"),
        effects(parts, unit="nats"),
        asides=asides(beside),
    )


def _with_text(edits: Edits) -> Edits:
    if not np.isfinite(edits.text).all():
        raise NotRunError(
            "no general text could be had here: give a --data-root with counterfact or known_1000"
        )
    return edits


@on_erased
def average_gain(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-cas-average-gain``: 8 and 9 points over the two baselines."""
    edits = found.edits[ERASED]
    compared = {f"over {name}": edits.more(edits.average, AWARE, name) for name in (ONE, UNION)}
    keys = {"over-one-query": f"over {ONE}", "over-all-queries": f"over {UNION}"}
    numbers = {
        key: number(compared[name].estimate, compared[name].interval, "facts") for key, name in keys.items()
    }
    return Measurement(
        "mean of reliability, generalization and locality: consistency-aware minus one wording",
        effect(compared[f"over {ONE}"]),
        {**effects(compared), **numbers},
        asides=asides({f"over {name}": edits.more(edits.average, AWARE, name) for name in (MEAN, LARGEST)}),
        notes=["an edit that does nothing scores a third: locality is 1, the rest 0"],
    )


@on_erased
def on_consistent(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-cas-on-consistent``: the gain on facts that agree less over wordings minus that on the others."""
    edits = found.edits[ERASED]
    low = found.inconsistent(edits)
    gain = edits.general[:, ARMS.index((AWARE, 1.0))] - edits.general[:, ARMS.index((ONE, 1.0))]
    compared = _between(gain, low, edits.clusters, study.settings.seed)
    return Measurement(
        "gain over one wording on facts that agree less over wordings, minus that on the others",
        effect(compared),
        {"inconsistent minus consistent": effect(compared)},
        controls={
            "gain, inconsistent": float(gain[low].mean()),
            "gain, consistent": float(gain[~low].mean()),
        },
    )


def _between(values: np.ndarray, low: np.ndarray, clusters: np.ndarray, seed: int) -> stats.Effect:
    """The mean of the facts that are ``low`` minus that of the others, resampled by subject."""
    weights = np.concatenate([np.ones((1, len(low))), stats.cluster_weights(clusters, seed)])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = [(weights[:, which] @ values[which]) / weights[:, which].sum(1) for which in (low, ~low)]
    difference = means[0] - means[1]
    draws = difference[1:][np.isfinite(difference[1:])]
    p = (1 + int((draws <= 0).sum())) / (1 + len(draws))
    return stats.effect_of_draws(float(difference[0]), draws, p, len(low))


@on_erased
def generalizes_less(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-edit-generalizes-less``: one wording's neurons erased; the wording's own answer against those held
    out, with subjects and templates resampled, crossed."""
    edits, queries = found.edits[ERASED], found.queries
    low, at = found.inconsistent(edits), ARMS.index((ONE, 1.0))
    reliable = [float(edits.first[which, at].mean()) for which in (low, ~low)]
    if min(reliable) < FLOORS[ERASED][0]:
        raise FloorError(
            f"floor effect: of the wording that was located, {min(reliable):.0%} of answers are erased"
        )
    first = np.array([np.flatnonzero(queries.fact == fact)[0] for fact in edits.fact])
    held = np.stack([np.flatnonzero(queries.fact == fact)[LOCATING:] for fact in edits.fact])
    weights = queries.weights(study.settings.seed)

    def gap(which: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """``[draws]``"""
        own, others = weights[:, first[which]], weights[:, held[which]]
        with np.errstate(invalid="ignore", divide="ignore"):
            rate = (own * edits.first[which, at]).sum(1) / own.sum(1)
            general = (others * edits.held[which, at]).sum((1, 2)) / others.sum((1, 2))
        return np.asarray(rate - general)

    units = len(edits)
    parts = {
        "gap of inconsistent facts": stats.crossed_effect(lambda drawn: gap(low, drawn), weights, units),
        "beyond that of consistent facts": stats.crossed_effect(
            lambda drawn: gap(low, drawn) - gap(~low, drawn), weights, units
        ),
    }
    return Measurement(
        "answers of the located wording erased minus those of wordings held out, beyond that of consistent facts",
        effect(parts["beyond that of consistent facts"]),
        effects(parts),
        controls={
            f"{name}, {whose} facts": float(values[which].mean())
            for whose, which in (("inconsistent", low), ("consistent", ~low))
            for name, values in (
                ("reliability", edits.first[:, at]),
                ("generalization", edits.general[:, at]),
            )
        },
    )


@on_erased
def union_costs(found: Found, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-union-costs``: the union of four wordings' neurons against one wording's."""
    edits = _with_text(found.edits[ERASED])
    parts = {
        "wordings held out": edits.more(edits.general, UNION, ONE),
        "other facts, locality lost": edits.more(-edits.kept, UNION, ONE),
        "general text, nats lost": edits.more(edits.text, UNION, ONE),
    }
    return Measurement(
        "success on wordings held out, union of four wordings minus one wording",
        effect(parts["wordings held out"]),
        effects(parts),
        asides=asides(
            {
                "plain mean at equal count, wordings held out": edits.more(edits.general, MEAN, ONE),
                "plain mean at equal count, locality lost": edits.more(-edits.kept, MEAN, ONE),
                "other facts, nats lost": edits.more(edits.cost, UNION, ONE),
            }
        ),
    )
