"""Across datasets: is the overlap of two halves more than text in general would give, and do datasets share neurons?"""

from __future__ import annotations

import numpy as np

from caploc.experiments.commonality.figures import model_plots
from caploc.experiments.commonality.report import finding_of
from caploc.experiments.commonality.splits import (
    across_of,
    floor_effect,
    halves_of,
    mean,
    to_split,
    whole_mask,
)
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.locating import ShardSums
from caploc.experiments.study import NotRunError, Study, pairs
from caploc.findings import Cell, Finding
from caploc.neurons import Threshold
from caploc.statistics import (
    Agreement,
    agreement,
    defined_interval,
    exchange_p,
    holm,
    hypergeometric_p,
    layer_matched_p,
)
from caploc.statistics.splits import EXCHANGES


@ends_in_a_finding
def commonality(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-commonality``: two halves of one dataset overlap more than halves of two datasets, and more than
    two halves of scrambled text.

    The estimate is the difference to the *nearest* other dataset. Its p value comes from permuting shards between the
    two datasets; the largest over the other datasets counts, which needs no correction, since every one must differ
    (an intersection-union test, Berger 1982).
    """
    settings, sigma, dataset = study.settings, float(cell.sigma or 0), cell.dataset or ""
    study.shards(dataset)  # not run, where it cannot be had
    others = [name for name in study.available() if name != dataset]
    if not others:
        raise NotRunError("needs a second dataset to compare with; give another --dataset")
    within = halves_of(study, dataset, sigma)
    between = {name: across_of(study, dataset, name, sigma) for name in others}
    means = {name: mean(result.overlap) for name, result in between.items()}
    nearest = max(others, key=lambda name: np.nan_to_num(means[name], nan=-1.0))
    difference = within.overlap - between[nearest].overlap
    spread = defined_interval(difference)
    random_text = halves_of(study, dataset, sigma, "scrambled")
    gap = within.overlap - random_text.overlap
    threshold = settings.threshold(sigma)
    p_values = {name: _exchange_p(study, dataset, name, threshold) for name in others}
    wide, narrow = defined_interval(gap), defined_interval(gap, 0.90)
    return finding_of(
        study,
        cell,
        claim,
        "overlap within the dataset minus overlap with the nearest other",
        estimate=mean(difference),
        interval=(spread.low, spread.high),
        interval_kind=f"95 % of {settings.draws} random half splits",
        chance=mean(within.chance),
        p_values={
            "permutation": float(np.max(list(p_values.values()))),  # nan where one of them is
            **{f"against {name}": p for name, p in p_values.items()},
        },
        quantities={
            "within": mean(within.overlap),
            "random_text_gap_low": wide.low,
            "random_text_gap_high": wide.high,
            "random_text_gap90_low": narrow.low,
            "random_text_gap90_high": narrow.high,
        },
        controls={
            **{f"text of {name}": value for name, value in means.items()},
            "scrambled text": mean(random_text.overlap),
        },
        settings={"nearest": nearest, "permutations": EXCHANGES},
        floor=floor_effect(within, sigma) or _empty_control(random_text, between[nearest], sigma),
    )


@ends_in_a_finding
def trained_minus_untrained(study: Study, cell: Cell, claim: str) -> Finding:
    """Control ``control-untrained-overlap``: is a trained model's overlap above its untrained twin's?"""
    settings, sigma, dataset = study.settings, float(cell.sigma or 0), cell.dataset or ""
    trained = halves_of(study, dataset, sigma)
    fresh = halves_of(study, dataset, sigma, "untrained")
    difference = trained.overlap - fresh.overlap
    wide, narrow = defined_interval(difference), defined_interval(difference, 0.90)
    return finding_of(
        study,
        cell,
        claim,
        "half-split overlap, trained minus untrained",
        estimate=mean(difference),
        interval=(wide.low, wide.high),
        interval_kind=f"95 % of {settings.draws} random half splits, the same for both",
        chance=mean(fresh.chance),
        quantities={"gap90_low": narrow.low, "gap90_high": narrow.high, "trained": mean(trained.overlap)},
        controls={"untrained twin": mean(fresh.overlap)},
        floor=floor_effect(trained, sigma) or _empty_control(fresh, fresh, sigma),
    )


@ends_in_a_finding
def dataset_overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fig4-dataset-overlap``: whole-set masks of every two datasets share more neurons than chance.

    p values ``pair:a~b``: hypergeometric, Holm-corrected; ``layer:a~b``: random sets with the same counts in every
    layer, Holm-corrected. The estimate is the mean overlap over pairs; the plots are the model's (Fig. 4, 5).
    """
    sigma, names = float(cell.sigma or 0), study.available()
    if len(names) < 2:
        raise NotRunError("needs two datasets to compare; give another --dataset")
    threshold = study.settings.threshold(sigma)
    whole = {name: whole_mask(study.shards(name), threshold) for name in names}
    found = pairs(names)
    results = {pair: agreement(whole[pair[0]][None], whole[pair[1]][None]) for pair in found}
    overlaps = np.array([result.overlap[0] for result in results.values()])
    chances = np.array([result.chance[0] for result in results.values()])
    empty = [name for name in names if not whole[name].any()]
    p_values: dict[str, float] = {}
    if not empty:
        uniform = holm([_hypergeometric(whole[a], whole[b]) for a, b in found])
        layered = holm([layer_matched_p(whole[a], whole[b], study.settings.seed) for a, b in found])
        for index, (a, b) in enumerate(found):
            p_values[f"pair:{a}~{b}"] = float(uniform[index])
            p_values[f"layer:{a}~{b}"] = float(layered[index])
    return finding_of(
        study,
        cell,
        claim,
        "mean overlap of the masks of two datasets",
        estimate=float(overlaps.mean()) if not empty else None,
        interval=(float(overlaps.min()), float(overlaps.max())) if not empty else None,
        interval_kind="smallest and largest over pairs of datasets",
        chance=float(chances.mean()) if not empty else None,
        p_values=p_values,
        quantities={f"{a}~{b}": float(result.overlap[0]) for (a, b), result in results.items()},
        controls={"untrained twin": _untrained_mean(study, names, sigma)},
        floor=f"floor effect: no neuron passes sigma {sigma:g} on {', '.join(empty)}" if empty else None,
        plots=model_plots(study, sigma, whole) if study.settings.has_figures(sigma) else (),
    )


def _exchange_p(study: Study, dataset: str, other: str, threshold: Threshold) -> float:
    """p of "the two datasets' shards are exchangeable" (`caploc.statistics.exchange_p`), both datasets' from the same
    permutations."""
    pair = tuple(sorted((dataset, other)))

    def make() -> tuple[float, float]:
        a, b = (study.shards(name) for name in pair)
        totals, counts = np.concatenate([a.totals, b.totals]), np.concatenate([a.counts, b.counts])
        pooled = to_split(ShardSums(totals, counts, (), a.whole), threshold)
        return exchange_p(pooled, len(a.counts), study.settings.seed)

    both = study.once(("exchange", pair, threshold), make)
    return both[pair.index(dataset)]


def _hypergeometric(a: np.ndarray, b: np.ndarray) -> float:
    return hypergeometric_p(int((a & b).sum()), int(a.sum()), int(b.sum()), a.size)


def _untrained_mean(study: Study, names: list[str], sigma: float) -> float:
    threshold = study.settings.threshold(sigma)
    whole = {name: whole_mask(study.shards(name, "untrained"), threshold)[None] for name in names}
    return mean(np.array([agreement(whole[a], whole[b]).overlap[0] for a, b in pairs(names)]))


def _empty_control(first: Agreement, second: Agreement, sigma: float) -> str | None:
    for result in (first, second):
        if reason := floor_effect(result, sigma):
            return f"{reason} of the control"
    return None
