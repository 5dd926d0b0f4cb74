"""Whether located neurons go with the wording, with its last token, or with the fact: by what the sets of two prompts
share, and by what predicts the set of a wording that was not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import sparse

from caploc import statistics as stats
from caploc.experiments.evidence import effect, finite
from caploc.experiments.facts import OF_EQUATION_8, fewest_facts
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.specs import NotRunError, Spec, Task
from caploc.experiments.study import Study, experiment
from caploc.experiments.wordings import BY_BOTH, LocatedQueries, Queries, located_queries, on_queries
from caploc.findings import Cell, Effect, Measurement
from caploc.locators.knowledge_neurons import DEFAULT_CUT
from caploc.papers import Claim
from caploc.statistics.crossed import CROSSED_DRAWS
from caploc.store import Entry

LOOSEST = 0.1
"""Of a prompt's largest score: smaller ones predict nothing."""


# ----------------------------------------------------------------------------------------------------- what sets share


@on_queries
def last_token(found: LocatedQueries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-last-token``: overlap of two wordings of a fact at equal last tokens minus that at others."""
    equal, other = "same fact, equal last token", "same fact, other last token"
    return _contrast(
        found, study, "overlap of two wordings of a fact, equal minus other last tokens", equal, other
    )


@on_queries
def wording_effect(found: LocatedQueries, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-storage-query-dependent``: overlap of two facts in one wording minus that in two that end alike."""
    same, other = "other fact, same wording", "other fact, other wording, equal last token"
    return _contrast(
        found, study, "overlap of two facts, one wording minus two that end in one token", same, other
    )


CONTRASTS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "wording, whatever the last tokens": ("other fact, same wording", "other fact, other wording"),
        "wording, equal last tokens": (
            "other fact, same wording",
            "other fact, other wording, equal last token",
        ),
        "last token, within facts": ("same fact, equal last token", "same fact, other last token"),
        "last token, across facts": (
            "other fact, other wording, equal last token",
            "other fact, other wording, other last token",
        ),
        "fact, equal last tokens": (
            "same fact, equal last token",
            "other fact, other wording, equal last token",
        ),
        "fact, other last tokens": (
            "same fact, other last token",
            "other fact, other wording, other last token",
        ),
    }
)
"""What an effect of each is the difference of: mean overlaps over two kinds of pairs."""


def contrast(queries: Queries, kinds: tuple[str, str], weights: np.ndarray) -> Effect:
    """The mean overlap over pairs of one kind minus that over another; ``weights [draws, P]`` resample prompts."""

    def gap(drawn: np.ndarray) -> np.ndarray:
        first, second = (stats.pair_means(queries.overlap, queries.pairs[kind], drawn) for kind in kinds)
        return np.asarray(first - second)

    found = effect(stats.crossed_effect(gap, weights, len(queries.facts)))
    return replace(found, method=f"95 %, percentile over {BY_BOTH}")


def _contrast(found: LocatedQueries, study: Study, quantity: str, first: str, second: str) -> Measurement:
    """The mean overlap over one kind of pairs minus that over another; every contrast, and other thresholds, beside."""
    queries = found.queries
    queries.require(first, second)
    weights = queries.weights(study.settings.seed)
    value = contrast(queries, (first, second), weights)
    possible = {
        name: kinds for name, kinds in CONTRASTS.items() if all(queries.pairs[one].any() for one in kinds)
    }
    whole = np.ones((1, len(queries.fact)))
    means = {name: stats.pair_means(queries.overlap, one, whole)[0] for name, one in queries.pairs.items()}
    return Measurement(
        quantity,
        value,
        {quantity: value},
        asides={
            **{
                f"effect of the {name}": contrast(queries, kinds, weights) for name, kinds in possible.items()
            },
            **{
                f"the same, {cut}": contrast(own, (first, second), weights).estimate or 0.0
                for cut, own in found.by_cut.items()
                if own is not queries
            },
            **finite({f"overlap, {name}": mean for name, mean in means.items()}),
        },
        draws=CROSSED_DRAWS,
    )


# ------------------------------------------------------------------------------------------------- what predicts them


@dataclass(frozen=True)
class RelativeScores(Spec[Any]):
    """``[P, places]`` sparse: the scores of every prompt as shares of its largest one, those of ``LOOSEST`` or more."""

    located: LocatedFacts

    def tasks(self, study: Study) -> Iterable[Task]:
        return study.tasks(self.located)

    def read(self, study: Study, entries: Iterator[Entry]) -> Any:
        rows = []
        for entry in entries:
            values = entry.arrays["values"].astype(np.float64).ravel()
            largest = values.max()
            kept = (values > 0) & (values >= LOOSEST * largest)
            rows.append(sparse.csr_matrix(np.where(kept, values / largest if largest > 0 else 0.0, 0.0)))
        return sparse.vstack(rows).tocsr()


@experiment(lambda study, cell, claim: [RelativeScores(located_queries(cell))])
def kl_is_simplification(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``ql-kl-is-simplification``: recall of an unseen wording's set, by fact and wording minus by fact alone."""
    located = located_queries(cell)
    queries = Queries.of(study.result(located.facts), study.result(located).sets)
    recall = predicted_recall(queries, study.result(RelativeScores(located)))
    usable = np.isfinite(recall["fact"]) & np.isfinite(recall["fact and wording"])
    if len(np.unique(queries.fact[usable])) < fewest_facts(study):
        raise NotRunError(
            f"{queries.facts.dataset} has too few facts whose wordings are asked about other facts, too, to predict "
            "sets from them; give relations of several subjects"
        )
    weights = queries.weights(study.settings.seed) * usable

    def gain(first: str, second: str) -> Effect:
        gap = np.nan_to_num(recall[first] - recall[second])

        def mean(drawn: np.ndarray) -> np.ndarray:
            total = (drawn * usable).sum(1)
            return np.where(
                total > 0, drawn @ np.where(usable, gap, 0) / np.where(total > 0, total, 1), np.nan
            )

        found = effect(stats.crossed_effect(mean, weights, len(queries.facts)))
        return replace(found, method=f"95 %, percentile over {BY_BOTH}")

    value = gain("fact and wording", "fact")
    return Measurement(
        "recall of the set of an unseen wording, predicted from fact and wording minus from the fact alone",
        value,
        {"query minus fact": value},
        asides={
            "fact and last token, minus fact": gain("fact and last token", "fact"),
            "wording alone, minus fact": gain("wording", "fact"),
            **finite({f"recall, {name}": values[usable].mean() for name, values in recall.items()}),
        },
        n=len(np.unique(queries.fact[usable])),
        draws=CROSSED_DRAWS,
        basis=[queries],
        settings={"threshold": DEFAULT_CUT.threshold, "wordings": queries.facts.wordings},
        unused=OF_EQUATION_8,
    )


def predicted_recall(queries: Queries, scores: Any) -> dict[str, np.ndarray]:
    """``[P]`` by predictor: the share of each prompt's set that is among as many neurons predicted without it; nan
    where a predictor knows nothing of it, as of a wording that no other fact is asked in.

    The fact predicts the mean score of its other wordings; wording and last token add the mean deviation, from such
    means, of other subjects' prompts in that wording, or in other wordings that end in its token.
    """
    names = ("fact", "fact and wording", "fact and last token", "wording")
    found = {name: np.full(len(queries.fact), np.nan) for name in names}
    for relation in np.unique(queries.relation):
        rows = np.flatnonzero(queries.relation == relation)
        own = scores[rows]
        used = np.flatnonzero(own.getnnz(axis=0))
        values = own[:, used].toarray()
        fact, template, last, subject = (
            getattr(queries, name)[rows] for name in ("fact", "template", "last", "subject")
        )
        siblings = np.equal.outer(fact, fact) & ~np.eye(len(rows), dtype=bool)
        others = ~np.equal.outer(subject, subject)
        same, alike = np.equal.outer(template, template), np.equal.outer(last, last)
        base = _row_means(siblings) @ values
        deviation = values - base
        guesses = {
            "fact": base,
            "fact and wording": base + _row_means(others & same) @ deviation,
            "fact and last token": base + _row_means(others & ~same & alike) @ deviation,
            "wording": _row_means(others & same) @ values,
        }
        sets = queries.sets.members[rows][:, used].toarray() > 0
        for name, guess in guesses.items():
            found[name][rows] = _recall(guess, sets)
    return found


def _row_means(marked: np.ndarray) -> np.ndarray:
    """``[n, n]`` weights that average the marked columns of each row; nan without any."""
    count = marked.sum(1, keepdims=True)
    return np.where(count > 0, marked / np.maximum(count, 1), np.nan)


def _recall(guess: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """``[n]`` the share of each set among as many places as it has, those of the largest guess."""
    found = np.full(len(guess), np.nan)
    for row, (values, own) in enumerate(zip(guess, sets, strict=True)):
        count = int(own.sum())
        if count and np.isfinite(values).all():
            found[row] = own[np.argsort(-values, kind="stable")[:count]].mean()
    return found
