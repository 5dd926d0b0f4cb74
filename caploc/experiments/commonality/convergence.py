"""Fig. 5, 7 and 8: does locating converge as the number of samples grows, and does a subset suffice (section 5.3)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caploc.experiments.commonality.report import finding_of
from caploc.experiments.commonality.splits import floor_effect, halves_of, mean, to_split
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.locating import ShardSums
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.neurons import Threshold
from caploc.statistics import defined_interval, mann_kendall, nested_overlaps, page_trend, subset_overlaps

ORDERS = 20


@dataclass(frozen=True)
class Curve:
    """Half-split overlap against the number of examples: ``sizes [S]`` and ``overlap [orders, S]``."""

    sizes: np.ndarray
    overlap: np.ndarray


def convergence_curve(shards: ShardSums, threshold: Threshold, seed: int) -> Curve:
    """`caploc.statistics.nested_overlaps` in ``ORDERS`` random orders, against the number of examples."""
    counts, overlap = nested_overlaps(to_split(shards, threshold), ORDERS, seed)
    return Curve(counts * len(shards.members[0]), overlap)


@ends_in_a_finding
def convergence(study: Study, cell: Cell, claim: str) -> Finding:
    """Claims ``convergence-*``: a rising trend (Page's test over orders) whose last doubling adds little.

    Only sizes at which no mask is empty enter the test. The estimate is what the last doubling adds.
    """
    shards, sigma = study.shards(cell.dataset or ""), float(cell.sigma or 0)
    curve = convergence_curve(shards, study.settings.threshold(sigma), study.settings.seed)
    defined = np.isfinite(curve.overlap).all(0)
    kept = curve.overlap[:, defined]
    quantities = {f"overlap at {size}": mean(curve.overlap[:, i]) for i, size in enumerate(curve.sizes)}
    if kept.shape[1] < 3 or not defined[-1]:
        return finding_of(
            study,
            cell,
            claim,
            "overlap gained by the last doubling",
            quantities=quantities,
            floor=floor_effect(halves_of(study, cell.dataset or "", sigma), sigma)
            or f"floor effect: masks are empty at all but {kept.shape[1]} of {len(curve.sizes)} sample sizes",
        )
    if np.ptp(kept) == 0:
        return finding_of(
            study,
            cell,
            claim,
            "overlap gained by the last doubling",
            quantities=quantities,
            floor=f"ceiling effect: the overlap is {kept[0, 0]:g} at every sample size",
        )
    last = kept[:, -1] - kept[:, -2]
    wide, narrow = defined_interval(last), defined_interval(last, 0.90)
    trend = page_trend(kept)
    tau = mann_kendall(kept.mean(0))
    quantities |= {
        "trend_tau": tau.statistic,
        "rise": float(kept[:, -1].mean() - kept[:, 0].mean()),
        "last_increment_low": wide.low,
        "last_increment_high": wide.high,
        "last_increment90_low": narrow.low,
        "last_increment90_high": narrow.high,
    }
    return finding_of(
        study,
        cell,
        claim,
        "overlap gained by the last doubling",
        estimate=float(last.mean()),
        interval=(wide.low, wide.high),
        interval_kind=f"95 % of {ORDERS} random orders",
        p_values={"trend": trend.p},
        quantities=quantities,
        settings={"orders": ORDERS, "sizes": [int(size) for size in curve.sizes]},
    )


@ends_in_a_finding
def subset_suffices(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``convergence-subset-suffices``: the mask of half the data against that of the DISJOINT other half.

    Against the full set a subset would be compared with itself in part; smaller subsets are in ``quantities``.
    """
    settings, sigma = study.settings, float(cell.sigma or 0)
    shards = study.shards(cell.dataset or "")
    result = halves_of(study, cell.dataset or "", sigma)
    spread = defined_interval(result.overlap)
    return finding_of(
        study,
        cell,
        claim,
        "overlap of half the data with the disjoint rest",
        estimate=mean(result.overlap),
        interval=(spread.low, spread.high),
        interval_kind=f"95 % of {settings.draws} random subsets",
        chance=mean(result.chance),
        quantities={
            f"a share of {share:g}": _subset_overlap(study, shards, sigma, share) for share in (0.125, 0.25)
        },
        controls={"untrained twin": mean(_untrained(study, cell, sigma))},
        floor=floor_effect(result, sigma),
    )


def _subset_overlap(study: Study, shards: ShardSums, sigma: float, share: float) -> float:
    settings = study.settings
    return mean(
        subset_overlaps(to_split(shards, settings.threshold(sigma)), share, settings.draws, settings.seed)
    )


def _untrained(study: Study, cell: Cell, sigma: float) -> np.ndarray:
    return halves_of(study, cell.dataset or "", sigma, "untrained").overlap
