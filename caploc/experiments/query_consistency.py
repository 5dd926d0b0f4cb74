"""Consistency: do the wordings of a fact lead to one set of neurons, and is that set the fact's?

A fact has no fixed set of its own for either of two reasons, which are told apart: its wordings share less than half
(inconsistent), or no more than those of unrelated facts of its relation (unspecific).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats as distributions

from caploc import statistics as stats
from caploc.experiments.evidence import bound, effect, finite
from caploc.experiments.facts import BY_SUBJECT, OF_EQUATION_8, Chosen, FactSet, fewest_facts
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import FloorError, Need, NotRunError
from caploc.experiments.study import Study, experiment
from caploc.experiments.wordings import (
    WORDINGS,
    Fixed,
    LocatedQueries,
    Queries,
    fixed_sets,
    last_tokens,
    located_queries,
    on_queries,
    query_facts,
    templates,
)
from caploc.findings import Bound, Cell, Measurement, Plot, Test
from caploc.locators.knowledge_neurons import KnowledgeNeuronScores
from caploc.papers import Claim
from caploc.statistics.classes import MODE_SAMPLES
from caploc.statistics.intervals import RESAMPLES

SAME, EQUAL_LAST = "same fact", "same fact, equal last token"
DECIDING_CUTS = ("threshold 0.1", "threshold 0.2", "threshold 0.3")
STATIC = 0.3
"""The static threshold of CS2 "as an example" in the caption of the violins."""
FAITHFUL = 0.8
SIZE_FACTOR = 4.0
"""By how much two models must differ in size for the claim on size to be about them."""


# ------------------------------------------------------------------------------------------------ facts without a set


@on_queries
def inconsistent_exists(found: LocatedQueries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-inconsistent-exists``: the share of facts without a set of their own, at three thresholds."""
    queries, seed, fewest = found.queries, study.settings.seed, fewest_facts(study)
    queries.require(EQUAL_LAST)
    decided = {cut: fixed_sets(found.by_cut[cut], EQUAL_LAST, seed, fewest) for cut in DECIDING_CUTS}
    own = decided["threshold 0.2"]
    parts = {cut: _share(one.fails, queries, seed) for cut, one in decided.items()}
    beside = {"equal last token": own}
    with suppress(
        NotRunError
    ):  # relations of fewer answers than wordings have no pseudo-facts over all pairs
        beside["all pairs"] = fixed_sets(queries, SAME, seed, fewest)
    return Measurement(
        "share of facts without a set of their own, among wordings of equal last token",
        parts["threshold 0.2"],
        parts,
        asides={
            **{
                f"{name}, {where}": _share(values, queries, seed)
                for where, one in beside.items()
                for name, values in _causes(one).items()
            },
            **_by_wordings(queries),
            **_overlaps(queries, beside),
            f"CS2 below {STATIC:g} (static), {WORDINGS} wordings": _mean(queries.consistency()[1] < STATIC),
        },
        controls=finite({f"pseudo-facts, {where}": _mean(one.chance) for where, one in beside.items()}),
        n=int(own.defined.sum()),
        plots=[_dots(queries, own)],
    )


def _causes(one: Fixed) -> Mapping[str, np.ndarray]:
    return {
        "no set of their own": one.fails,
        "inconsistent": one.inconsistent,
        "unspecific": one.unspecific,
        f"overlap {FAITHFUL:.0%} or more": np.where(one.defined, one.overlap >= FAITHFUL, np.nan),
    }


def _share(values: np.ndarray, queries: Queries, seed: int) -> Bound:
    """The mean of 0 and 1 over the facts where it is defined."""
    usable = np.isfinite(values)
    if not usable.any():
        raise FloorError("no fact has what is to be counted")
    clusters = queries.facts.clusters[usable]
    interval = stats.bounded_mean(values[usable], seed=seed, clusters=clusters)
    return bound(values[usable].mean(), interval, BY_SUBJECT, n=int(usable.sum()))


def _mean(values: np.ndarray) -> float:
    return stats.defined_mean(values.astype(float))


def _by_wordings(queries: Queries) -> dict[str, float]:
    """CS and CS2 of the first so many wordings: both depend on the number, the mean overlap does not."""
    place = np.arange(len(queries.fact)) - queries.facts.first[queries.fact]
    found: dict[str, float] = {}
    for wordings in range(2, queries.facts.wordings + 1):
        every, several = queries.consistency(place < wordings)
        found |= {f"CS, {wordings} wordings": _mean(every), f"CS2, {wordings} wordings": _mean(several)}
    return finite(found)


def _overlaps(queries: Queries, beside: Mapping[str, Fixed]) -> dict[str, float]:
    means = {f"overlap of two wordings, {where}": _mean(one.overlap) for where, one in beside.items()}
    sizes = queries.sets.counts
    return finite({**means, "neurons located for a prompt": sizes.mean(), "empty sets": (sizes == 0).sum()})


def _dots(queries: Queries, own: Fixed) -> Plot:
    groups = {
        "equal last token": own.overlap,
        "other last token": queries.by_fact("same fact, other last token"),
        "pseudo-facts, equal last token": own.chance,
        "their 95 % point": own.limit,
    }
    shown = {name: values[np.isfinite(values)].tolist() for name, values in groups.items()}
    data = {
        "groups": {name: values for name, values in shown.items() if values},
        "axis": "overlap, one dot a fact",
    }
    return Plot("splits", f"Overlap of two wordings of a fact, {queries.facts.dataset}", data)


# ----------------------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True, eq=False)
class _Classes:
    """CS2 of the facts, of pseudo-facts in their place, and the quantiles of a Gaussian, as many."""

    real: np.ndarray
    pseudo: np.ndarray
    gaussian: np.ndarray

    @classmethod
    def of(cls, queries: Queries, seed: int, fewest: int) -> _Classes:
        real = queries.consistency()[1]
        real = real[np.isfinite(real)]
        if len(real) < fewest or np.ptp(real) == 0:
            raise FloorError(
                f"facts cannot be told apart: CS2 is defined for {len(real)} of them, or the same for all"
            )
        made = [one[0] for one in queries.pseudo_facts(SAME, seed, draws=1) if one]
        pseudo = queries.consistency_of(made)[1] if made else np.zeros(0)
        quantiles = distributions.norm.ppf((np.arange(len(real)) + 0.5) / len(real))
        return cls(real, pseudo[np.isfinite(pseudo)], quantiles)

    @property
    def each(self) -> Mapping[str, np.ndarray]:
        """By name, those that a threshold can cut."""
        named = {"facts": self.real, "pseudo-facts": self.pseudo, "a Gaussian": self.gaussian}
        return {name: one for name, one in named.items() if len(one) > 3 and np.ptp(one) > 0}


@on_queries
def inconsistent_otsu(found: LocatedQueries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-inconsistent-otsu``: whether Otsu's threshold on CS2 tells two classes apart, or cuts one in two."""
    classes = _Classes.of(found.queries, study.settings.seed, fewest_facts(study))
    modes = stats.one_mode(classes.real, study.settings.seed)
    split = stats.otsu(classes.real)
    own = replace(
        effect(modes.excess(split.eta2, len(classes.real))),
        method=f"95 %, spread of {MODE_SAMPLES} samples with one mode",
    )
    shares = {name: _below(values) for name, values in classes.each.items()}
    etas = {name: stats.otsu(values).eta2 for name, values in classes.each.items()}
    overlap = found.queries.by_fact(SAME)
    of_overlap = stats.otsu(overlap[np.isfinite(overlap)]) if np.ptp(overlap[np.isfinite(overlap)]) else None
    return Measurement(
        "variance of CS2 between the classes of Otsu's threshold, above that of one mode",
        own,
        {"two classes": own},
        asides={
            "Otsu's threshold": split.threshold,
            **{f"below Otsu's threshold, {name}": share for name, share in shares.items()},
            **{f"variance between the classes, {name}": eta2 for name, eta2 in etas.items()},
            "variance between the classes, one mode": float(modes.eta2.mean()),
            "one mode (Silverman)": Test(p=modes.p_modes),
            **({"variance between the classes, overlap": of_overlap.eta2} if of_overlap else {}),
            f"CS2 below {STATIC:g} (static)": _mean(classes.real < STATIC),
        },
        n=len(classes.real),
        draws=MODE_SAMPLES,
        settings={"wordings": WORDINGS},
    )


@on_queries
def classes_differ(found: LocatedQueries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-classes-differ``: Welch's test between classes that the tested variable makes, on the facts and on
    what has no classes."""
    classes = _Classes.of(found.queries, study.settings.seed, fewest_facts(study))
    tests = {name: _welch(values) for name, values in classes.each.items()}
    own = tests.pop("facts")
    return Measurement(
        "Welch's t of CS2 between the classes that CS2 makes",
        own,
        asides={f"Welch's t, {name}": one for name, one in tests.items()},
        n=len(classes.real),
        settings={"wordings": WORDINGS},
        notes=[
            "the classes are made by the variable that is tested: t says nothing of whether there are any"
        ],
    )


def _below(values: np.ndarray) -> float:
    return float((values < stats.otsu(values).threshold).mean())


def _welch(values: np.ndarray) -> Test:
    """Between the sides of Otsu's threshold."""
    above = values >= stats.otsu(values).threshold
    found = distributions.ttest_ind(values[above], values[~above], equal_var=False)
    return Test(float(found.statistic), p=float(found.pvalue), unit="t", n=len(values))


# --------------------------------------------------------------------------------------------------- three locators

HOW: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "integrated gradients": {},
        "integrated gradients before the nonlinearity": {"value": "pre"},
        "one gradient": {"quadrature": "gauss-legendre", "steps": 1},
    }
)
"""Three locators, as readings of eq. (7)'s method (ambiguity ``three-locators``)."""


@dataclass(frozen=True)
class LocatedBy(LocatedFacts):
    """What KN locates by one of ``HOW``."""

    how: str = "integrated gradients"

    @property
    def title(self) -> str:
        return f"{self.how} on facts"

    def method_of(self, study: Study) -> KnowledgeNeuronScores:
        return KnowledgeNeuronScores(replace(study.settings.attribution, **HOW[self.how]))


@dataclass(frozen=True)
class EndingAlike(Chosen):
    """The wordings that end in the token that most wordings of their relation end in, of facts with three or more.

    NotRunError: too few facts have so many.
    """

    def choose(self, study: Study, facts: FactSet) -> FactSet:
        last, relation = last_tokens(facts), templates(facts)[1]
        marked = np.zeros(len(last), bool)
        for one in range(relation.max() + 1):
            tokens, counts = np.unique(last[relation == one], return_counts=True)
            marked |= (relation == one) & (last == tokens[counts.argmax()])
        usable = np.bincount(facts.fact, marked, len(facts)) >= 3
        if usable.sum() < fewest_facts(study):
            raise NotRunError(
                f"{facts.dataset} has {usable.sum()} facts with three wordings that end in one token, and "
                f"{fewest_facts(study)} are the fewest an interval can be taken over; give facts in more wordings"
            )
        return facts.only(np.flatnonzero(usable), marked)


def _three(cell: Cell) -> Iterator[LocatedBy]:
    facts = EndingAlike(query_facts(cell.dataset or ""))
    return (LocatedBy("kn", facts, how=how) for how in HOW)


@experiment(lambda study, cell, claim: _three(cell))
def three_locators(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-inconsistent-three-locators``: the share of facts without a set of their own under all three."""
    seed, fails, overlaps = study.settings.seed, {}, {}
    for spec in _three(cell):
        queries = Queries.of(study.result(spec.facts), study.result(spec).sets)
        own = fixed_sets(queries, EQUAL_LAST, seed, fewest_facts(study))
        fails[spec.how], overlaps[spec.how] = own.fails, _mean(own.overlap)
    each = np.stack(list(fails.values()))
    every = np.where(np.isfinite(each).all(0), each.min(0), np.nan)
    value = _share(every, queries, seed)
    usable = each[:, np.isfinite(every)]
    return Measurement(
        "share of facts without a set of their own under each of three locators",
        value,
        asides={
            **{f"no set of their own, {how}": _share(one, queries, seed) for how, one in fails.items()},
            **{f"overlap of two wordings, {how}": mean for how, mean in overlaps.items()},
            "under all three, if they were independent": float(usable.mean(1).prod()),
            "under any": float(usable.max(0).mean()),
        },
        n=usable.shape[1],
        draws=RESAMPLES,
        basis=[queries],
        settings={"wordings": queries.facts.wordings, "locators": list(HOW)},
        unused=OF_EQUATION_8,
    )


# ------------------------------------------------------------------------------------------- sizes, and relations


def _by_size(studies: Sequence[Study]) -> tuple[Study, Study]:
    """The smallest and the largest model. Raises NotRunError where they are of about one size."""
    first, *_, last = sorted(studies, key=lambda one: one.lm.num_parameters)
    factor = last.lm.num_parameters / first.lm.num_parameters
    if factor < SIZE_FACTOR:
        raise NotRunError(
            f"{first.model} and {last.model} differ in size by a factor of {factor:.2g}; this claim takes one of "
            f"{SIZE_FACTOR:g}, as between gpt2 and llama2-7b: name such models with --model"
        )
    return first, last


def _needs_sizes(studies: Sequence[Study], cell: Cell, claim: Claim) -> Iterator[Need]:
    located = located_queries(replace(cell, dataset="pararel"))
    return (Need(one, located) for one in _by_size(studies))


@experiment(_needs_sizes)
def inconsistent_size(study: Sequence[Study], cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-inconsistent-size``: the share of facts without a set of their own, the largest model of all minus the
    smallest, over the facts that both know. ``study``: those of all models."""
    small, large = _by_size(study)
    located, seed, fewest = (
        located_queries(replace(cell, dataset="pararel")),
        small.settings.seed,
        fewest_facts(small),
    )
    found: dict[Study, Queries] = {
        one: Queries.of(one.result(located.facts), one.result(located).sets) for one in (small, large)
    }
    fails = {
        one: dict(
            zip(
                (fact.id for fact in own.facts.facts),
                fixed_sets(own, EQUAL_LAST, seed, fewest).fails,
                strict=True,
            )
        )
        for one, own in found.items()
    }
    clusters = {fact.id: fact.cluster for fact in found[small].facts.facts}
    both = [
        name
        for name, value in fails[small].items()
        if np.isfinite([value, fails[large].get(name, np.nan)]).all()
    ]
    if len(both) < fewest:
        raise FloorError(
            f"{small.model} and {large.model} know {len(both)} facts both, fewer than the {fewest} needed"
        )
    first, second = (np.array([fails[one][name] for name in both]) for one in (large, small))
    of_subjects = [clusters[name] for name in both]
    compared = stats.at_least_adjusted(
        stats.compare_pairs(first, second, clusters=of_subjects, seed=seed),
        first - second,
        clusters=of_subjects,
    )
    value = effect(compared)
    shares = {
        f"no set of their own, {one.model}": float(values.mean())
        for one, values in ((large, first), (small, second))
    }
    sizes = {
        f"share of the neurons in a set, {one.model}": float(own.sets.counts.mean() / own.sets.places)
        for one, own in found.items()
    }
    return Measurement(
        "share of facts without a set of their own, the largest model minus the smallest",
        value,
        {"larger minus smaller": value},
        asides={**shares, **sizes},
        n=len(both),
        draws=RESAMPLES,
        basis=list(found.values()),
        unused=OF_EQUATION_8,
    )


@on_queries
def relation_spread(found: LocatedQueries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-relation-spread``: the standard deviation of a fact's mean overlap between relations.

    The component of the variance is unbiased, and its resamples are shifted by what resampling adds to it.
    """
    queries = found.queries
    queries.require(SAME)
    overlap = queries.by_fact(SAME)
    relation = np.unique(queries.relation[queries.facts.first], return_inverse=True)[1]
    if relation.max() == 0:
        raise NotRunError(f"{queries.facts.dataset} has one relation; give facts of several")
    weights = stats.cluster_weights(queries.facts.clusters, study.settings.seed)
    component = float(_between(overlap, relation, np.ones((1, len(overlap))))[0])
    drawn = _between(overlap, relation, weights)
    shifted = drawn - np.nanmean(drawn) + component
    spread = stats.defined_interval(np.sqrt(np.maximum(shifted, 0)))
    means = {
        f"overlap, {name}": float(overlap[relation == one].mean())
        for one, name in enumerate(_names(queries, relation))
    }
    return Measurement(
        "standard deviation between relations of a fact's mean overlap of two wordings",
        bound(np.sqrt(max(component, 0.0)), spread, BY_SUBJECT),
        asides={**means, "no relations (analysis of variance)": _anova(overlap, relation)},
        settings={"relations": int(relation.max()) + 1},
    )


def _names(queries: Queries, relation: np.ndarray) -> list[str]:
    """A template of each relation, its first."""
    first = queries.facts.first
    texts = [queries.facts.examples[index] for index in first.tolist()]
    chosen = [texts[int(np.flatnonzero(relation == one)[0])] for one in range(relation.max() + 1)]
    return [one.prompt.replace(one.subject, "[X]") if one.subject else one.prompt for one in chosen]


def _between(values: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``[draws]`` the variance component between groups of ``values [F]`` weighted by ``weights [draws, F]``."""
    members = np.equal.outer(np.arange(groups.max() + 1), groups).astype(float)
    size = weights @ members.T
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weights * values) @ members.T / size
        within = (weights * values**2) @ members.T - size * mean**2
        total, present = size.sum(1), (size > 0).sum(1)
        residual = within.clip(0).sum(1, where=size > 0) / (total - present)
        grand = (weights @ values) / total
        ms = (size * (mean - grand[:, None]) ** 2).sum(1, where=size > 0) / (present - 1)
        effective = (total - (size**2).sum(1) / total) / (present - 1)
        return np.asarray((ms - residual) / effective)


def _anova(values: np.ndarray, groups: np.ndarray) -> Test:
    found = distributions.f_oneway(*(values[groups == one] for one in range(groups.max() + 1)))
    return Test(float(found.statistic), p=float(found.pvalue), unit="F")
