"""How the masks of subsets of a study's datasets agree, and the figures of it.

Halves of one dataset, halves of two, growing subsamples, structured partitions: all are recombinations of the shards of
`caploc.experiments.locating`, so that none costs a pass of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from caploc.experiments.locating import Scores, ShardSums, to_split
from caploc.experiments.specs import Spec
from caploc.experiments.study import PAPER_SIGMA, TWINS, Located, Study, pairs
from caploc.findings import Bound, Cell, Effect, Plot, Range
from caploc.papers import Claim
from caploc.statistics import (
    Agreement,
    Bootstrapped,
    Curve,
    OneMore,
    Resplit,
    across,
    agreement,
    defined_interval,
    defined_mean,
    exchange_p,
    growing,
    half_split,
    split_by,
)
from caploc.store import Entry

ORDERS = 20
"""Random orders in which a subsample grows."""
LEAST_AGREEMENT = 0.5
"""Of two halves, for their curve to be followed beyond the samples that there are."""
BOOTSTRAP = "bootstrap over examples"
NEIGHBOURS = 100
"""Fig. 4 shows the largest score among so many neighbouring neurons."""

mean = partial(defined_mean, least=0.5)
"""The mean of the defined values, nan where fewer than half are defined."""


# ------------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Halves(Spec[Resplit]):
    """Random halves of one dataset at a sigma, under a control (`caploc.experiments.study.Study`)."""

    dataset: str
    sigma: float
    control: str = ""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Scores(self.dataset, self.control)

    def read(self, study: Study, entries: Iterator[Entry]) -> Resplit:
        shards, settings = study.result(Scores(self.dataset, self.control)), study.settings
        return half_split(to_split(shards, settings.threshold(self.sigma)), settings.draws, settings.seed)


@dataclass(frozen=True)
class Across(Spec[Resplit]):
    """A random half of one dataset against a random half of another, at a sigma."""

    dataset: str
    other: str
    sigma: float

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        return (Scores(self.dataset), Scores(self.other))

    def read(self, study: Study, entries: Iterator[Entry]) -> Resplit:
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


@dataclass(frozen=True)
class Growth(Spec[Curve]):
    """Halves of nested subsamples of a dataset that double, in ``ORDERS`` random orders
    (`caploc.statistics.growing`)."""

    dataset: str
    sigma: float
    control: str = ""

    def after(self, study: Study) -> Iterable[Spec[Any]]:
        yield Scores(self.dataset, self.control)

    def read(self, study: Study, entries: Iterator[Entry]) -> Curve:
        shards, settings = study.result(Scores(self.dataset, self.control)), study.settings
        splits = to_split(shards, settings.threshold(self.sigma))
        counts, found = growing(splits, ORDERS, settings.seed)
        return Curve(counts * len(shards.members[0]), found)


# ------------------------------------------------------------------------------------------ what is made of them


def empty_masks(result: Resplit, sigma: float) -> str | None:
    """The floor effect that makes an overlap say nothing: too few masks with any neuron in them; None where enough
    have."""
    draws, defined = len(result.all.overlap), result.all.defined
    if defined * 2 >= draws:
        return None
    return f"floor effect: no neuron passes sigma {sigma:g} in {draws - defined} of {draws} splits"


def empty_control(results: Sequence[Resplit], sigma: float) -> str | None:
    """As `empty_masks`, of controls: the first that says nothing."""
    reasons = [reason for one in results if (reason := empty_masks(one, sigma)) is not None]
    return f"{reasons[0]} of the control" if reasons else None


def pairwise(whole: Mapping[str, np.ndarray]) -> dict[tuple[str, str], Agreement]:
    """How the masks ``[layers, neurons]`` of every two datasets agree, each one draw."""
    return {(a, b): agreement(whole[a][None], whole[b][None]) for a, b in pairs(list(whole))}


def bound_over(values: np.ndarray, over: str) -> Bound:
    """The mean of what was drawn, with its interval; ``over`` says what that was, such as "100 bootstraps"."""
    return Bound(mean(values), _ends(values, 0.95), method=f"95 % of {over}")


def difference_over(values: np.ndarray, over: str) -> Effect:
    """As `bound_over`, of differences, with both intervals."""
    return Effect(mean(values), _ends(values, 0.95), _ends(values, 0.90), method=f"95 % of {over}")


def bound_of(found: Bootstrapped, of: str) -> Bound:
    """A level within [0, 1], with its interval over samples of examples; ``of`` says what it is the mean of."""
    one = found.interval()
    # an interval that is undefined stays so
    low, high = (float(np.clip(end, 0, 1)) for end in (one.low, one.high))
    return Bound(found.value, (low, high), method=f"95 %, {BOOTSTRAP}, {of}")


def difference_of(found: Bootstrapped, of: str) -> Effect:
    """As `bound_of`, of differences, with both intervals."""
    wide, narrow = found.interval(), found.interval(0.90)
    return Effect(
        found.value, (wide.low, wide.high), (narrow.low, narrow.high), method=f"95 %, {BOOTSTRAP}, {of}"
    )


@dataclass(frozen=True)
class Beyond:
    """Agreement at more samples than there are: by the line ``held`` to the root, and by the line that is ``free``
    (`caploc.statistics.Curve.at`). ``unbounded``: nothing bounds it from above, as halves of what there is agree by
    less than half: neurons that do not stand out yet may do so with more samples, and planted ones have done so."""

    held: Bootstrapped
    free: Bootstrapped
    unbounded: bool

    @classmethod
    def of(cls, curve: Curve, size: float, quantity: str = "overlap") -> Beyond:
        measured = curve.at(curve.sizes[-1]).value  # the overlap, whatever the masks are measured by
        return cls(
            curve.at(size, quantity),
            curve.at(size, quantity, steepest=-np.inf),
            size > curve.sizes[-1] and not measured >= LEAST_AGREEMENT,  # nan included
        )


def gained(later: Beyond, earlier: Beyond, of: str) -> Effect:
    """``later`` minus ``earlier``, both by the same line; the intervals hold those of either line."""
    held, free = difference_of(later.held - earlier.held, of), difference_of(later.free - earlier.free, of)
    return dataclasses.replace(
        held,
        interval=_either(held.interval, free.interval),
        interval90=_either(held.interval90, free.interval90),
    )


def twins_of(study: Study, datasets: Sequence[str], sigma: float, quantity: str) -> list[np.ndarray]:
    """``[datasets][TWINS]`` how far halves of each untrained twin agree."""
    return [
        np.array([study.result(Halves(name, sigma, twin)).mean(quantity).value for twin in TWINS])
        for name in datasets
    ]


def beyond_twins(own: Bootstrapped, twins: OneMore, unbounded: bool, of: str) -> Effect:
    """By how much halves agree more than those of one more untrained twin are predicted to on as many examples, with
    the interval of what they do beyond 95 % of twins (`OneMore.beyond`); ``unbounded``: more examples may yet tell the
    two apart (`Beyond`)."""
    (value, *wide), (_, *narrow) = (twins.beyond(own, level) for level in (0.95, 0.90))
    if unbounded:
        wide[1] = narrow[1] = 1.0
    return Effect(
        value, (wide[0], wide[1]), (narrow[0], narrow[1]), method=f"95 %, {BOOTSTRAP} and over {of}"
    )


def bound_beyond(found: Beyond, of: str) -> Bound:
    """A level with the interval that holds those of either line, open above where nothing bounds it."""
    held = bound_of(found.held, of)
    low, high = _either(held.interval, bound_of(found.free, of).interval)
    return dataclasses.replace(held, interval=(low, 1.0 if found.unbounded else high))


def _either(one: Range | None, other: Range | None) -> Range:
    ends = np.array([one, other], dtype=float)
    return float(ends[:, 0].min()), float(ends[:, 1].max())  # nan where one of them is


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


def structured_overlaps(
    study: Study, dataset: str, sigma: float, shards: ShardSums
) -> tuple[dict[str, float], dict[str, Bootstrapped]]:
    """By kind of order: the overlap of the two halves that it makes, of the examples and of bootstrap samples."""
    splits, seed = to_split(shards, study.settings.threshold(sigma)), study.settings.seed
    found = {
        name: split_by(splits, mean_ranks(shards, rank), seed).mean()
        for name, rank in ranks(study.located(dataset)).items()
    }
    return {name: one.value for name, one in found.items()}, found


def mean_ranks(shards: ShardSums, rank: Sequence[float]) -> np.ndarray:
    """``[shards]`` the mean rank of each one's examples."""
    return np.array([np.mean([rank[index] for index in shard]) for shard in shards.members])


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
        result = study.result(Halves(name, float(cell.sigma or 0))).all
        groups[name] = result.overlap[np.isfinite(result.overlap)].tolist()
        chance[name] = mean(result.chance)
        untrained[name] = study.result(Halves(name, float(cell.sigma or 0), "untrained")).mean().value
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
            columns = curve.gathered().T
            ends = [defined_interval(column) for column in columns]
            sizes = curve.sizes.tolist() if len(curve.sizes) > len(sizes) else sizes
            found[name] = {
                "x": curve.sizes.tolist(),
                "mean": [mean(column) for column in columns],
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
