"""Table 1: overlap, IoU and neuron ratio of neurons located on two halves of one dataset (section 5.3, eq. 9)."""

from __future__ import annotations

import dataclasses

import numpy as np

from caploc.experiments.commonality.report import finding_of, not_run_if_unavailable
from caploc.experiments.commonality.splits import (
    across_of,
    floor_effect,
    halves_of,
    interval,
    masks,
    mean,
    whole_mask,
)
from caploc.experiments.shards import ShardSums, resampled
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import permutation_p

SPLITS = "95 % of {} random half splits"
# Matched random sets are drawn as counts, which costs nothing: enough for p to reach any level after correction.
RANDOM_SETS = 9999


@not_run_if_unavailable
def overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-overlap`` (and ``abstract-gsm8k-overlap``): the overlap of the two halves' masks."""
    return _agreement(study, cell, claim, "overlap")


@not_run_if_unavailable
def iou(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-iou``: the IoU of the two halves' masks."""
    return _agreement(study, cell, claim, "iou")


@not_run_if_unavailable
def both_high(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-both-high``: overlap and IoU of ONE cell, both high. The estimate is the overlap."""
    finding = overlap(study, cell, claim)
    result = halves_of(study, cell.dataset or "", _sigma(cell))
    ends = {name: interval(getattr(result, name)) for name in ("overlap", "iou")}
    quantities = {f"{name}_{end}": getattr(ends[name], end) for name in ends for end in ("low", "high")}
    return dataclasses.replace(finding, quantities={**finding.quantities, **quantities})


@not_run_if_unavailable
def neuron_ratio(study: Study, cell: Cell, claim: str, dispersion: str = "std") -> Finding:
    """Claims ``table1-neuron`` ("std") and ``eq8-literal-variance``: located over all neurons, on the whole set.

    The interval is a bootstrap over shards. Under "std" no more than 1/sigma^2 can pass (Chebyshev).
    """
    shards, sigma = study.shards(cell.dataset or ""), _sigma(cell)
    generator, everything = np.random.default_rng([study.settings.seed, 2]), np.arange(len(shards.counts))
    chosen = [everything] + [resampled(generator, everything) for _ in range(study.settings.draws)]
    located = masks(shards, chosen, sigma, "variance" if dispersion == "variance" else "std").sum((1, 2))
    ratios = located / shards.totals.shape[1]
    spread = interval(ratios[1:])
    quantities = {"located": float(located[0]), "neurons": float(shards.totals.shape[1])}
    if dispersion == "std":
        quantities["chebyshev_bound"] = 1 / sigma**2
    return finding_of(
        study,
        cell,
        claim,
        f"neuron ratio under {'the standard deviation' if dispersion == 'std' else 'the literal variance'}",
        unit="share",
        estimate=float(ratios[0]),
        interval=(spread.low, spread.high),
        interval_kind=f"95 % of {study.settings.draws} bootstraps over shards",
        quantities=quantities,
        settings={"dispersion": dispersion},
        floor=None if located[0] else f"floor effect: no neuron passes sigma {sigma:g} on the whole set",
    )


def _agreement(study: Study, cell: Cell, claim: str, quantity: str) -> Finding:
    shards, sigma = study.shards(cell.dataset or ""), _sigma(cell)
    result = halves_of(study, cell.dataset or "", _sigma(cell))
    values = getattr(result, quantity)
    spread = interval(values)
    observed = mean(values)
    null = _matched_random(shards, sigma, study.settings.seed, quantity)
    found = bool(np.isfinite(observed) and np.isfinite(null).all())
    return finding_of(
        study,
        cell,
        claim,
        "IoU of two halves" if quantity == "iou" else "overlap of two halves",
        estimate=observed,
        interval=(spread.low, spread.high),
        interval_kind=SPLITS.format(study.settings.draws),
        chance=float(null.mean()),
        p_values={"matched random sets": permutation_p(observed, null)} if found else {},
        quantities={"located": float(whole_mask(shards, sigma).sum())},
        controls=_controls(study, cell, quantity),
        floor=floor_effect(result, sigma),
    )


def _controls(study: Study, cell: Cell, quantity: str) -> dict[str, float]:
    dataset, sigma = cell.dataset or "", _sigma(cell)
    controls = {
        "untrained twin": mean(getattr(halves_of(study, dataset, sigma, "untrained"), quantity)),
        "scrambled text": mean(getattr(halves_of(study, dataset, sigma, "scrambled"), quantity)),
    }
    for other in study.available():
        if other != cell.dataset:
            result = across_of(study, dataset, other, sigma)
            controls[f"text of {other}"] = mean(getattr(result, quantity))
    return controls


def _matched_random(shards: ShardSums, sigma: float, seed: int, quantity: str) -> np.ndarray:
    """``quantity`` of ``RANDOM_SETS`` pairs of random sets, each with the whole set's count in every layer.

    Two uniformly random sets of a neurons among N share a hypergeometric number, so the sets need not be drawn.
    """
    per_layer = whole_mask(shards, sigma).sum(1)
    generator = np.random.default_rng([seed, 3])
    shared = generator.hypergeometric(
        per_layer, shards.neurons - per_layer, per_layer, size=(RANDOM_SETS, len(per_layer))
    ).sum(1)
    count = per_layer.sum()
    if count == 0:
        return np.full(RANDOM_SETS, np.nan)
    return shared / (2 * count - shared) if quantity == "iou" else shared / count


def _sigma(cell: Cell) -> float:
    return float(cell.sigma or 0)
