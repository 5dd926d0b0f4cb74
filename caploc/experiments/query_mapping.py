"""Query-neuron mapping: what zeroing and doubling a query's own neurons, and those of other wordings of its fact, does
to its answer, at equal count, beside neurons as large, and at equal and other last tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from scipy import stats as distributions

from caploc import statistics as stats
from caploc.experiments.evidence import bound
from caploc.experiments.facts import OF_EQUATION_8, FactSet, Fewer, fewest_facts, passes_flops
from caploc.experiments.locating_facts import LocatedFacts, LocatedSets
from caploc.experiments.scaled_facts import MeasuredFacts, odds_of
from caploc.experiments.specs import FloorError, NotRunError
from caploc.experiments.study import Study, family
from caploc.experiments.wordings import BY_BOTH, Queries, last_tokens, query_facts
from caploc.findings import Bound, Cell, Measurement, Plot
from caploc.interventions.scaling import Scaling
from caploc.locators.knowledge_neurons import CUTS, DEFAULT_CUT, Cut
from caploc.locators.magnitude import Magnitude, magnitude
from caploc.neurons import NeuronMask
from caploc.papers import Claim
from caploc.statistics.crossed import CROSSED_DRAWS
from caploc.statistics.intervals import RESAMPLES
from caploc.streams import Stream, derived_seeds

EQUAL_COUNT = 15
"""Neurons of every set where sets are compared at equal count: about as many as the threshold locates."""

FACTORS = {"zeroed": 0.0, "doubled": 2.0}
MOST = 3
"""Neighbours of a query that end in its token, and as many that do not."""
NEAR, FAR = slice(0, MOST), slice(MOST, 2 * MOST)
NEIGHBOURS = 2 * MOST
ARMS: Mapping[str, int] = MappingProxyType(
    {
        "own, 15": 1,
        "neighbour, 15": NEIGHBOURS,
        "matched in magnitude, 15": MOST,
        "own": 1,
        "neighbour": NEIGHBOURS,
        "union": 1,
        "intersection": 1,
        "in two or more": 1,
        "neighbour alone": NEIGHBOURS,
        "matched to neighbour alone": NEIGHBOURS,
    }
)
"""Sets of each query and how many of each kind. ``15``: the largest scores, at equal count; the others by the
threshold. Of neighbours the first ``MOST`` end in the query's token. Matched sets hold nothing that is located for
either."""
STARTS = dict(zip(ARMS, np.cumsum([0, *ARMS.values()])[:-1].tolist(), strict=True))
SETS = sum(ARMS.values())


@dataclass(frozen=True, eq=False)
class Mapped:
    """F queries, one a fact, whose sets were zeroed and doubled.

    Attributes:
        change: ``[F, 2, SETS]`` rise of the answer's log odds in nats, zeroed and doubled; nan for a set there is not.
        query: ``[F]`` the prompt's number among those of the fact set.
        clean: ``[F]`` log P(answer) without intervention.
        count: ``[F, SETS]`` neurons.
    """

    change: np.ndarray
    query: np.ndarray
    clean: np.ndarray
    count: np.ndarray

    def fall(self, arm: str, which: slice = slice(None), factor: str = "zeroed") -> np.ndarray:
        """``[F]`` by how many nats the log odds fall (zeroed) or rise (doubled), mean over the arm's sets."""
        start = STARTS[arm]
        values = self.change[:, list(FACTORS).index(factor), start : start + ARMS[arm]][:, which]
        sign = -1 if factor == "zeroed" else 1
        there = np.isfinite(values)
        count = there.sum(1)
        return np.where(count > 0, sign * np.where(there, values, 0).sum(1) / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class ForMapping(Fewer):
    """As many as a share of 75 % is told from one of 90 % with."""

    on_cpu: ClassVar[int] = 96


@dataclass(frozen=True)
class MappedQueries(MeasuredFacts[Mapped]):
    """The sets of ``ARMS`` for the first wording of every fact that shares its last token with most of the others."""

    title = "scaled neurons of queries and their neighbours"
    what = "queries and neighbours"
    kept = Mapped
    choices = MappingProxyType({"arms": [*ARMS.items()], "cuts": [DEFAULT_CUT.threshold, EQUAL_COUNT]})

    def flops(self, study: Study) -> float:
        return passes_flops(study, self.facts, 2.0 * SETS / max(1, study.result(self.facts).wordings))

    def measured(self, study: Study, facts: FactSet) -> Mapped:
        stored = study.settings.store.compute_all(study.tasks(self.located))
        values = [torch.from_numpy(np.array(entry.arrays["values"])) for entry in stored]
        lm, last = study.weights(), last_tokens(facts)
        asked = [neighbours_of(np.flatnonzero(facts.fact == fact), last) for fact in range(len(facts))]
        sizes = [magnitude(lm, [facts.prompts[query]]) for query, _ in asked]
        found = []
        with Scaling(lm) as scaling:
            for fact, (query, neighbours) in enumerate(asked):
                (seed,) = derived_seeds(Stream.QUERY_SETS, study.settings.seed, fact)
                others = [None if one is None else values[one] for one in neighbours]
                sets = _sets(values[query], others, sizes[fact], seed)
                there = np.array([one is not None and bool(one.any()) for one in sets])
                none = torch.zeros_like(values[query], dtype=torch.bool)
                rows = torch.stack([none if one is None else one for one in sets])
                factors = np.repeat(list(FACTORS.values()), SETS).tolist()
                result = scaling.log_probs(facts.prompts[query], torch.cat([rows, rows]), factors)
                clean = float(result.clean.sum())
                change = odds_of(result.log_probs.sum(1).numpy()) - odds_of(np.array(clean))
                change = np.where(there, change.reshape(len(FACTORS), SETS), np.nan)
                found.append((change, query, clean, rows.sum((1, 2)).numpy()))
        return Mapped(*(np.stack([np.asarray(one) for one in column]) for column in zip(*found, strict=True)))


def neighbours_of(own: np.ndarray, last: np.ndarray) -> tuple[int, list[int | None]]:
    """Of a fact's prompts ``own`` the query, the first that ends in their commonest last token, and its ``NEIGHBOURS``:
    ``MOST`` that end in it and ``MOST`` that do not, None where there are fewer."""
    tokens, first, counts = np.unique(last[own], return_index=True, return_counts=True)
    commonest = min(range(len(tokens)), key=lambda one: (-counts[one], first[one]))
    query = int(own[first[commonest]])
    kinds = (own[(last[own] == last[query]) & (own != query)], own[last[own] != last[query]])
    padded = [[*kind[:MOST].tolist(), *[None] * MOST][:MOST] for kind in kinds]
    return query, [*padded[0], *padded[1]]


def _sets(
    scores: torch.Tensor, others: list[torch.Tensor | None], sizes: Magnitude, seed: int
) -> list[torch.Tensor | None]:
    """The sets of all arms, in order; None for one that there is not."""

    def located(cut: Cut) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        return cut.locate(scores).values, [None if one is None else cut.locate(one).values for one in others]

    def matched(one: torch.Tensor | None, apart: torch.Tensor, draws: int = 1) -> list[torch.Tensor | None]:
        if one is None or (one.sum(1) * 2 > one.shape[1]).any():
            return [None] * draws
        return list(sizes.random_like(NeuronMask(one), draws, seed, apart=apart))

    top, others_top = located(CUTS[f"top {EQUAL_COUNT}"])
    own, neighbours = located(DEFAULT_CUT)
    every = torch.stack([own, *(one for one in neighbours if one is not None)])
    alone = [None if one is None else one & ~own for one in neighbours]
    times = every.sum(0)
    return [
        top,
        *others_top,
        *matched(top, top | (times > 0), MOST),
        own,
        *neighbours,
        times > 0,
        times == len(every),
        times > 1,
        *alone,
        *(matched(one, times > 0)[0] for one in alone),
    ]


# ------------------------------------------------------------------------------------- what the claims on them rest on


@dataclass(frozen=True, eq=False)
class MappedFacts:
    """Queries with what scaling does, and bootstrap ``weights [draws, F]`` of subjects crossed with their templates."""

    queries: Queries
    mapped: Mapped
    weights: np.ndarray

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"threshold": DEFAULT_CUT.threshold, "equal count": EQUAL_COUNT, "neighbours": NEIGHBOURS}

    @property
    def notes(self) -> list[str]:
        p = float(np.exp(self.mapped.clean).mean())
        return [
            f"the answers have P {p:.3f} on average; log odds have no ceiling, as log P would have when doubled"
        ]

    def mean(self, values: np.ndarray, unit: str = "nats") -> Bound:
        """The mean over facts where it is defined."""
        usable = np.isfinite(values)
        total = self.weights @ usable.astype(float)
        drawn = (self.weights @ np.where(usable, values, 0))[total > 0] / total[total > 0]
        return bound(
            values[usable].mean(), stats.percentile_interval(drawn), BY_BOTH, unit=unit, n=int(usable.sum())
        )

    def kept(
        self, which: slice, factor: str = "zeroed", arms: tuple[str, str] = ("neighbour, 15", "own, 15")
    ) -> Bound:
        """The neighbours' effect over the own one, both summed over the facts that have such neighbours."""
        part, whole = self.mapped.fall(arms[0], which, factor), self.mapped.fall(arms[1], factor=factor)
        usable = np.isfinite(part) & np.isfinite(whole)
        estimate, interval = stats.ratio_of_sums(part[usable], whole[usable], self.weights[:, usable])
        return bound(estimate, interval, BY_BOTH, n=int(usable.sum()))


def _mapped_spec(cell: Cell) -> MappedQueries:
    return MappedQueries(ForMapping(query_facts(cell.dataset or "")))


def _mapped(study: Study, cell: Cell, claim: Claim) -> MappedFacts:
    """Raises NotRunError, FloorError: there are no such facts, or too few of them have neighbours."""
    spec = _mapped_spec(cell)
    facts, mapped = study.result(spec.facts), study.result(spec)
    none = LocatedSets.of_places([[]] * len(facts.prompts), 1)
    queries = Queries.of(facts, none)
    at = mapped.query.astype(int)
    weights = stats.crossed_weights(
        queries.subject[at], queries.template[at], queries.relation[at], study.settings.seed
    )
    found = MappedFacts(queries, mapped, weights)
    for which, name in ((NEAR, "its last token"), (FAR, "another last token")):
        have = int(np.isfinite(mapped.fall("neighbour, 15", which)).sum())
        if have < fewest_facts(study):
            raise NotRunError(
                f"{have} facts of {facts.dataset} have a located neighbour of the query with {name}, and "
                f"{fewest_facts(study)} are the fewest an interval can be taken over; give facts in more wordings"
            )
    return found


def _with_mapped(found: MappedFacts, measurement: Measurement) -> Measurement:
    return replace(
        measurement,
        n=measurement.n or len(found.mapped.query),
        draws=measurement.draws or CROSSED_DRAWS,
        basis=[found.queries, found],
        unused=OF_EQUATION_8,
    )


on_mapped = family(lambda study, cell, claim: [_mapped_spec(cell)], _mapped, _with_mapped)
"""Claims about zeroed and doubled sets of queries and their neighbours."""


def _too_weak(found: MappedFacts, study: Study) -> str | None:
    """Why nothing can be said where the own neurons do little."""
    own, least = found.mean(found.mapped.fall("own, 15")), study.settings.margin("least-own-effect")
    assert own.interval is not None
    if own.interval[0] >= least:
        return None
    return (
        f"too small an effect to compare with: zeroing a query's own {EQUAL_COUNT} neurons costs its answer "
        f"{own.estimate:.2f} nats of log odds (95 %: at least {own.interval[0]:.2f}); of less than {least:g} no "
        "share is judged"
    )


@on_mapped
def query_kn_mapping(found: MappedFacts, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-query-kn-mapping``: how much of the own neurons' effect as many of a neighbour's have, equal last
    tokens."""
    mapped = found.mapped
    value = found.kept(NEAR)
    falls = {
        f"nats, {factor}, {arm}{where}": found.mean(mapped.fall(arm, which, factor))
        for factor in FACTORS
        for arm in ARMS
        for where, which in _parts_of(arm)
        if np.isfinite(mapped.fall(arm, which, factor)).sum() > 1
    }
    return Measurement(
        "effect of a neighbour's 15 neurons over that of the own 15, zeroed, equal last tokens",
        value,
        asides={
            "kept, other last tokens": found.kept(FAR),
            "kept, all neighbours": found.kept(slice(None)),
            "kept, by the threshold, equal last tokens": found.kept(NEAR, arms=("neighbour", "own")),
            "kept, by the threshold, other last tokens": found.kept(FAR, arms=("neighbour", "own")),
            "gap in nats, equal last tokens": found.mean(
                mapped.fall("own, 15") - mapped.fall("neighbour, 15", NEAR)
            ),
            "gap in nats, all neighbours": found.mean(mapped.fall("own, 15") - mapped.fall("neighbour, 15")),
            **falls,
            **{
                f"neurons, {arm}": float(mapped.count[:, start : start + ARMS[arm]].mean())
                for arm, start in STARTS.items()
            },
        },
        plots=[_effects(mapped)],
        floor=_too_weak(found, study),
    )


def _parts_of(arm: str) -> list[tuple[str, slice]]:
    if ARMS[arm] != NEIGHBOURS:
        return [("", slice(None))]
    return [(", equal last token", NEAR), (", other last token", FAR)]


def _effects(mapped: Mapped) -> Plot:
    groups = {
        "own": mapped.fall("own, 15"),
        "neighbour, equal last token": mapped.fall("neighbour, 15", NEAR),
        "neighbour, other last token": mapped.fall("neighbour, 15", FAR),
        "matched in magnitude": mapped.fall("matched in magnitude, 15"),
    }
    shown = {name: values[np.isfinite(values)].tolist() for name, values in groups.items()}
    return Plot(
        "splits",
        f"What zeroing {EQUAL_COUNT} neurons costs the answer",
        {"groups": shown, "axis": "nats of log odds, one dot a fact"},
    )


@on_mapped
def gap_by_class(found: MappedFacts, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-query-kn-gap-by-class``: rank correlation of CS2 of the other wordings with the share kept."""
    located = LocatedFacts("kn", _mapped_spec(cell).facts)
    queries = found.queries.with_sets(study.result(located).sets)
    others = np.ones(len(queries.fact), bool)
    others[found.mapped.query.astype(int)] = False
    consistency = queries.consistency(others)[1]

    def correlation(which: slice) -> Bound:
        own, part = found.mapped.fall("own, 15"), found.mapped.fall("neighbour, 15", which)
        with np.errstate(invalid="ignore", divide="ignore"):
            rows = np.stack([consistency, part / np.where(own > 0, own, np.nan)], axis=1)
        usable = np.isfinite(rows).all(1)
        clusters = queries.facts.clusters[usable]
        if len(np.unique(clusters)) < fewest_facts(study) or (np.ptp(rows[usable], axis=0) == 0).any():
            raise FloorError(
                "facts cannot be ranked: too few, or no difference between them in consistency or in effect"
            )
        interval = stats.bootstrap_interval(rows[usable], _rho, seed=study.settings.seed, clusters=clusters)
        return bound(
            _rho(rows[usable]), interval, "facts, by subject", unit="correlation", n=int(usable.sum())
        )

    value = correlation(slice(None))
    return Measurement(
        "rank correlation of CS2 of the other wordings with the share of the own effect that neighbours' neurons have",
        value,
        asides={
            "equal last tokens": correlation(NEAR),
            "other last tokens": correlation(FAR),
            "CS2 of the other wordings": stats.defined_mean(consistency),
        },
        draws=RESAMPLES,
        floor=_too_weak(found, study),
    )


def _rho(rows: np.ndarray) -> float:
    return float(distributions.spearmanr(rows[:, 0], rows[:, 1]).statistic)


@on_mapped
def exclusive_neurons(found: MappedFacts, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-exclusive-neighbor-neurons``: what neurons of a neighbour alone do, minus others as large."""
    mapped = found.mapped

    def beyond(which: slice, factor: str = "zeroed") -> Bound:
        alone = mapped.fall("neighbour alone", which, factor)
        values = alone - mapped.fall("matched to neighbour alone", which, factor)
        if np.isfinite(values).sum() < fewest_facts(study):
            raise FloorError(
                f"too few facts: {np.isfinite(values).sum()} have neurons that are located for a neighbour alone"
            )
        return found.mean(values)

    value = beyond(slice(None))
    return Measurement(
        "nats of log odds that zeroing a neighbour's own neurons costs, minus that of neurons as large",
        value,
        asides={
            "equal last tokens": beyond(NEAR),
            "other last tokens": beyond(FAR),
            "doubled": beyond(slice(None), "doubled"),
            "nats, neighbour alone": found.mean(mapped.fall("neighbour alone")),
            "nats, matched to neighbour alone": found.mean(mapped.fall("matched to neighbour alone")),
        },
    )
