"""How the masks of subsets of a study's datasets agree, and the figures of it.

Halves of one dataset, halves of two, growing subsamples, structured partitions: all are recombinations of the shards of
`caploc.experiments.locating`, so that none costs a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from caploc.experiments.locating import Scores, ShardSums, to_split
from caploc.experiments.specs import Spec
from caploc.experiments.study import PAPER_SIGMA, Located, Study, pairs
from caploc.findings import Bound, Cell, Effect, Plot, Range
from caploc.papers import Claim
from caploc.statistics import (
    Agreement,
    across,
    agreement,
    defined_interval,
    defined_mean,
    exchange_p,
    half_split,
    nested_overlaps,
)
from caploc.store import Entry

ORDERS = 20
"""Random orders in which a subsample grows."""
NEIGHBOURS = 100
"""Fig. 4 shows the largest score among so many neighbouring neurons."""

mean = partial(defined_mean, least=0.5)
"""The mean of the defined values, nan where fewer than half are defined."""


# ------------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Halves(Spec[Agreement]):
    """Random halves of one dataset at a sigma, under a control (`caploc.experiments.study.Study`)."""

    dataset: str
    sigma: float
    control: str = ""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Scores(self.dataset, self.control)

    def read(self, study: Study, entries: Iterator[Entry]) -> Agreement:
        shards, settings = study.result(Scores(self.dataset, self.control)), study.settings
        return half_split(to_split(shards, settings.threshold(self.sigma)), settings.draws, settings.seed)


@dataclass(frozen=True)
class Across(Spec[Agreement]):
    """A random half of one dataset against a random half of another, at a sigma."""

    dataset: str
    other: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Scores(self.dataset), Scores(self.other))

    def read(self, study: Study, entries: Iterator[Entry]) -> Agreement:
        settings = study.settings
        threshold = settings.threshold(self.sigma)
        first, second = (
            to_split(study.result(Scores(name)), threshold) for name in (self.dataset, self.other)
        )
        return across(first, second, settings.draws, settings.seed)


@dataclass(frozen=True)
class Exchanged(Spec[Mapping[str, float]]):
    """For each of two datasets, the p of "their shards are exchangeable" (`caploc.statistics.exchange_p`), both from
    the same permutations. The pair is named in alphabetical order."""

    pair: tuple[str, str]
    sigma: float

    @classmethod
    def of(cls, dataset: str, other: str, sigma: float) -> Exchanged:
        """Of two datasets in either order."""
        first, second = sorted((dataset, other))
        return cls((first, second), sigma)

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return map(Scores, self.pair)

    def read(self, study: Study, entries: Iterator[Entry]) -> Mapping[str, float]:
        a, b = (study.result(Scores(name)) for name in self.pair)
        totals, counts = np.concatenate([a.totals, b.totals]), np.concatenate([a.counts, b.counts])
        settings = study.settings
        pooled = to_split(ShardSums(totals, counts, (), a.whole), settings.threshold(self.sigma))
        return dict(zip(self.pair, exchange_p(pooled, len(a.counts), settings.seed), strict=True))


@dataclass(frozen=True, eq=False)
class Curve:
    """Half-split overlap against the number of examples: ``sizes [S]`` and ``overlap [orders, S]``."""

    sizes: np.ndarray
    overlap: np.ndarray


@dataclass(frozen=True)
class Growth(Spec[Curve]):
    """Halves of nested subsamples of a dataset that double, in ``ORDERS`` random orders
    (`caploc.statistics.nested_overlaps`)."""

    dataset: str
    sigma: float
    control: str = ""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Scores(self.dataset, self.control)

    def read(self, study: Study, entries: Iterator[Entry]) -> Curve:
        shards, settings = study.result(Scores(self.dataset, self.control)), study.settings
        splits = to_split(shards, settings.threshold(self.sigma))
        counts, overlap = nested_overlaps(splits, ORDERS, settings.seed)
        return Curve(counts * len(shards.members[0]), overlap)


# ------------------------------------------------------------------------------------------ what is made of them


def empty_masks(result: Agreement, sigma: float) -> str | None:
    """The floor effect that makes an overlap say nothing: too few masks with any neuron in them; None where enough
    have."""
    draws = len(result.overlap)
    if result.defined * 2 >= draws:
        return None
    return f"floor effect: no neuron passes sigma {sigma:g} in {draws - result.defined} of {draws} splits"


def empty_control(results: Sequence[Agreement], sigma: float) -> str | None:
    """As `empty_masks`, of controls: the first that says nothing."""
    reasons = [reason for one in results if (reason := empty_masks(one, sigma)) is not None]
    return f"{reasons[0]} of the control" if reasons else None


def pairwise(whole: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Agreement]:
    """How the masks ``[layers, neurons]`` of every two datasets agree, each one draw."""
    return {(a, b): agreement(whole[a][None], whole[b][None]) for a, b in pairs(list(whole))}


def bound_over(values: np.ndarray, over: str) -> Bound:
    """The mean of what was drawn, with its interval; ``over`` says what that was, such as "100 random half splits"."""
    return Bound(mean(values), _ends(values, 0.95), method=f"95 % of {over}")


def difference_over(values: np.ndarray, over: str) -> Effect:
    """As `bound_over`, of differences, with both intervals."""
    return Effect(mean(values), _ends(values, 0.95), _ends(values, 0.90), method=f"95 % of {over}")


def _ends(values: np.ndarray, level: float) -> Range:
    interval = defined_interval(values, level)
    return interval.low, interval.high


def ranks(located: Located) -> Mapping[str, Sequence[float]]:
    """For each kind of order, every example's place in it."""
    examples = located.examples
    answers = {text: place for place, text in enumerate(sorted({example.answer for example in examples}))}
    source = {key: place for place, key in enumerate(sorted(example.id for example in examples))}
    return {
        "prompt length": [float(example.answer_start) for example in located.tokenized],
        "answer": [float(answers[example.answer]) for example in examples],
        "source order": [float(source[example.id]) for example in examples],
    }


def halves_by(shards: ShardSums, rank: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The shards with the lowest mean rank, and the others."""
    order = np.argsort([np.mean([rank[index] for index in shard]) for shard in shards.members], kind="stable")
    return order[: len(order) // 2], order[len(order) // 2 :]


# ------------------------------------------------------------------------------------------------------ figures


def partition_plot(
    study: Study, cell: Cell, random: np.ndarray, structured: Mapping[str, float]
) -> list[Plot]:
    """Overlaps over random partitions, and those of structured ones; none where the study draws no figures."""
    if not study.settings.has_figures(float(cell.sigma or 0)):
        return []
    groups = {"random": random.tolist(), **{f"by {name}": [value] for name, value in structured.items()}}
    title = f"Overlap over {study.settings.draws} random partitions, {cell.label}"
    return [Plot("splits", title, {"groups": groups})]


def model_plots(study: Study, cell: Cell, claim: Claim, whole: Mapping[str, np.ndarray]) -> list[Plot]:
    """Fig. 4 (neurons, datasets), splits, Fig. 5/7/8 and completeness of one model at one sigma; none where the study
    draws no figures there. ``whole`` holds the datasets' masks ``[layers, neurons]``."""
    sigma = float(cell.sigma or 0)
    if not study.settings.has_figures(sigma):
        return []
    label = f"{study.model} at sigma {sigma:g}" if "/" not in study.model else f"sigma {sigma:g}"
    unit = "|z|" if study.settings.reading.deviation == "absolute" else "z"
    return [
        Plot(
            "heatmap",
            f"Fig. 4: largest {unit} among {NEIGHBOURS} neighbouring neurons, {label}",
            _heat(study, whole),
        ),
        Plot("matrix", f"Overlap of neurons located on two datasets, {label}", overlap_matrix(whole)),
        Plot("splits", f"Overlap of random halves, {label}", _splits(study, cell, claim, list(whole))),
        Plot(
            "convergence",
            f"Fig. 5/7/8: overlap of halves by number of samples, {label}",
            _curves(study, sigma, list(whole)),
        ),
        Plot("completeness", f"Completeness error by layer, {label}", _completeness(study, list(whole))),
    ]


def overlap_matrix(whole: Mapping[str, np.ndarray]) -> dict[str, object]:
    """The overlaps of every two masks, and what chance gives."""
    stacked = np.stack(list(whole.values()))
    results = [agreement(np.broadcast_to(mask, stacked.shape), stacked) for mask in stacked]
    return {
        "labels": list(whole),
        "values": [result.overlap.tolist() for result in results],
        "chance": [result.chance.tolist() for result in results],
    }


def _heat(study: Study, whole: Mapping[str, np.ndarray]) -> dict[str, object]:
    rows, threshold = [], study.settings.threshold(PAPER_SIGMA)
    for name in whole:
        z = study.result(Scores(name)).whole.scores().z(threshold.scope).numpy()
        if threshold.deviation == "absolute":
            z = np.abs(z)
        blocks = [
            layer[start : start + NEIGHBOURS].max()
            for layer in z
            for start in range(0, len(layer), NEIGHBOURS)
        ]
        rows.append(np.array(blocks))
    layers = next(iter(whole.values())).shape[0]
    return {"rows": list(whole), "values": np.stack(rows).tolist(), "layers": layers}


def _splits(study: Study, cell: Cell, claim: Claim, names: Sequence[str]) -> dict[str, object]:
    groups, untrained, chance, published = {}, {}, {}, {}
    for name in names:
        result = study.result(Halves(name, float(cell.sigma or 0)))
        groups[name] = result.overlap[np.isfinite(result.overlap)].tolist()
        chance[name] = mean(result.chance)
        untrained[name] = mean(study.result(Halves(name, float(cell.sigma or 0), "untrained")).overlap)
        printed = claim.printed_number(cell, "", {"quantity": "overlap", "dataset": name})
        if printed is not None:
            published[name] = float(printed.printed) / 100
    return {"groups": groups, "chance": chance, "untrained": untrained, "published": published}


def _curves(study: Study, sigma: float, names: Sequence[str]) -> dict[str, object]:
    def curves(control: str) -> tuple[list[int], dict[str, dict[str, list[float]]]]:
        found: dict[str, dict[str, list[float]]] = {}
        sizes: list[int] = []
        for name in names:
            curve = study.result(Growth(name, sigma, control))
            ends = [defined_interval(column) for column in curve.overlap.T]
            sizes = curve.sizes.tolist() if len(curve.sizes) > len(sizes) else sizes
            found[name] = {
                "x": curve.sizes.tolist(),
                "mean": [mean(column) for column in curve.overlap.T],
                "low": [end.low for end in ends],
                "high": [end.high for end in ends],
            }
        return sizes, found

    sizes, trained = curves("")
    return {"x": sizes, "curves": trained, "untrained": curves("untrained")[1]}


def _completeness(study: Study, names: Sequence[str]) -> dict[str, object]:
    errors = {}
    for name in names:
        whole = study.result(Scores(name)).whole
        errors[name] = (whole.completeness / whole.count).tolist()
    return {"errors": errors}
