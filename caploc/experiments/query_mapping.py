"""Query-neuron mapping: whether located neurons go with the wording, with its last token, or with the fact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from caploc import statistics as stats
from caploc.experiments.evidence import effect
from caploc.experiments.facts import OF_EQUATION_8
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.study import Study, family
from caploc.experiments.wordings import WORDINGS, Queries, queries_of, query_facts
from caploc.findings import Cell, Measurement
from caploc.papers import Claim
from caploc.statistics.crossed import CROSSED_DRAWS

BY_BOTH = "subjects crossed with templates"


def _located(cell: Cell) -> LocatedFacts:
    return LocatedFacts("kn", query_facts(cell.dataset or ""))


def _queries(study: Study, cell: Cell, claim: Claim) -> Queries:
    """The prompts with their located sets. Raises NotRunError, FloorError: there are none."""
    located = _located(cell)
    return queries_of(study.result(located.facts), study.result(located))


def _completed(found: Queries, measurement: Measurement) -> Measurement:
    return replace(
        measurement,
        n=len(found.facts),
        draws=CROSSED_DRAWS,
        basis=[found.facts],
        settings={"wordings": WORDINGS, **measurement.settings},
        unused=OF_EQUATION_8,
    )


on_queries = family(lambda study, cell, claim: [_located(cell)], _queries, _completed)
"""Claims about the sets located for the wordings of facts."""


@on_queries
def last_token(found: Queries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-last-token``: overlap of two wordings of a fact at equal last tokens minus that at others."""
    equal, other = "same fact, equal last token", "same fact, other last token"
    return _contrast(
        found, study, "overlap of two wordings of a fact, equal minus other last tokens", equal, other
    )


def _contrast(found: Queries, study: Study, quantity: str, first: str, second: str) -> Measurement:
    """The mean overlap over one kind of pairs minus that over another; that of every kind beside it."""
    found.require(first, second)
    weights = found.weights(study.settings.seed)

    def gap(drawn: np.ndarray) -> np.ndarray:
        one, other = (stats.pair_means(found.overlap, found.pairs[kind], drawn) for kind in (first, second))
        return one - other

    effect_ = effect(stats.crossed_effect(gap, weights, len(found.facts)))
    whole = np.ones((1, len(found.fact)))
    means = {name: stats.pair_means(found.overlap, pairs, whole)[0] for name, pairs in found.pairs.items()}
    value = replace(effect_, method=f"95 %, percentile over {BY_BOTH}")
    return Measurement(
        quantity,
        value,
        {"effect": value},
        asides={f"overlap, {name}": float(mean) for name, mean in means.items() if np.isfinite(mean)},
    )
