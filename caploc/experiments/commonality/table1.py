"""Table 1: overlap, IoU and neuron ratio of neurons located on two halves of one dataset (section 5.3, eq. 9)."""

from __future__ import annotations

import dataclasses
from typing import Literal, cast, get_args

import numpy as np

from caploc.experiments.commonality.report import finding_of
from caploc.experiments.commonality.splits import (
    across_of,
    floor_effect,
    halves_of,
    mean,
    to_split,
    whole_mask,
    whole_ratio,
)
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.neurons import Dispersion
from caploc.statistics import defined_interval, matched_overlaps, permutation_p, resampled_masks
from caploc.streams import Stream, stream

SPLITS = "95 % of {} random half splits"
PAPER_SIGMAS = (3.0, 6.0, 12.0)


@ends_in_a_finding
def overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-overlap`` (and ``abstract-gsm8k-overlap``): the overlap of the two halves' masks."""
    return _agreement(study, cell, claim, "overlap")


@ends_in_a_finding
def iou(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-iou``: the IoU of the two halves' masks."""
    return _agreement(study, cell, claim, "iou")


@ends_in_a_finding
def both_high(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-both-high``: overlap and IoU of ONE cell, both high. The estimate is the overlap."""
    finding = overlap(study, cell, claim)
    result = halves_of(study, cell.dataset or "", _sigma(cell))
    ends = {name: defined_interval(getattr(result, name)) for name in ("overlap", "iou")}
    quantities = {f"{name}_{end}": getattr(ends[name], end) for name in ends for end in ("low", "high")}
    return dataclasses.replace(finding, quantities={**finding.quantities, **quantities})


@ends_in_a_finding
def neuron_ratio(study: Study, cell: Cell, claim: str, dispersion: str | None = None) -> Finding:
    """Claims ``table1-neuron`` and ``eq8-literal-variance``: located over all neurons, on the whole set.

    ``dispersion`` is that of the study's reading unless given. The interval is a bootstrap over shards. Under "std" no
    more than 1/sigma^2 can pass (Chebyshev).
    """
    shards, sigma = study.shards(cell.dataset or ""), _sigma(cell)
    threshold = study.settings.threshold(sigma)
    if dispersion is not None:
        threshold = dataclasses.replace(threshold, dispersion=cast(Dispersion, dispersion))
    generator = stream(Stream.SHARDS, study.settings.seed)
    located = resampled_masks(to_split(shards, threshold), study.settings.draws, generator).sum((1, 2))
    ratios = located / shards.totals.shape[1]
    spread = defined_interval(ratios[1:])
    quantities = {"located": float(located[0]), "neurons": float(shards.totals.shape[1])}
    std = threshold.dispersion == "std"
    if std:
        quantities["chebyshev_bound"] = 1 / sigma**2
    return finding_of(
        study,
        cell,
        claim,
        f"neuron ratio under {'the standard deviation' if std else 'the literal variance'}",
        unit="share",
        estimate=float(ratios[0]),
        interval=(spread.low, spread.high),
        interval_kind=f"95 % of {study.settings.draws} bootstraps over shards",
        quantities=quantities,
        settings={"dispersion": threshold.dispersion},
        floor=None if located[0] else f"floor effect: no neuron passes sigma {sigma:g} on the whole set",
    )


@ends_in_a_finding
def default_sigma(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``method-default-sigma6``: which reading of eq. (8) selects as few neurons as Table 1 prints.

    The estimate is the share under the standard deviation; ``ratio_std`` and ``ratio_variance`` are the shares under
    both readings, ``ratio_std_at_3`` and so on those at the other sigmas that the paper uses.
    """
    finding = neuron_ratio(study, cell, claim, dispersion="std")
    shards, threshold = study.shards(cell.dataset or ""), study.settings.threshold(_sigma(cell))
    ratios = {
        f"ratio_{dispersion}": whole_ratio(shards, dataclasses.replace(threshold, dispersion=dispersion))
        for dispersion in get_args(Dispersion)
    }
    for sigma in PAPER_SIGMAS:
        swept = dataclasses.replace(threshold, sigma=sigma, dispersion="std")
        ratios[f"ratio_std_at_{sigma:g}"] = whole_ratio(shards, swept)
    return dataclasses.replace(finding, quantities={**finding.quantities, **ratios})


def _agreement(study: Study, cell: Cell, claim: str, quantity: Literal["overlap", "iou"]) -> Finding:
    shards, sigma = study.shards(cell.dataset or ""), _sigma(cell)
    result = halves_of(study, cell.dataset or "", _sigma(cell))
    values = getattr(result, quantity)
    spread = defined_interval(values)
    observed = mean(values)
    threshold = study.settings.threshold(sigma)
    null = matched_overlaps(
        whole_mask(shards, threshold).sum(1), shards.neurons, study.settings.seed, quantity
    )
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
        quantities={"located": float(whole_mask(shards, threshold).sum())},
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


def _sigma(cell: Cell) -> float:
    return float(cell.sigma or 0)
