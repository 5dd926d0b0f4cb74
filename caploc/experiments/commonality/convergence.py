"""Fig. 5, 7 and 8: does locating converge as the number of samples grows, and does a subset suffice (section 5.3)?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caploc.experiments.commonality.report import finding_of
from caploc.experiments.commonality.splits import agreement, floor_effect, halves_of, interval, masks, mean
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.shards import ShardSums
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.neurons import Threshold
from caploc.statistics import mann_kendall, page_trend
from caploc.streams import Stream, stream

ORDERS = 20
SMALLEST_HALF = 4  # shards


@dataclass(frozen=True)
class Curve:
    """Half-split overlap against the number of examples: ``sizes [S]`` and ``overlap [orders, S]``."""

    sizes: np.ndarray
    overlap: np.ndarray


def convergence_curve(shards: ShardSums, threshold: Threshold, seed: int) -> Curve:
    """Nested subsamples that double, in ``ORDERS`` random orders; each is halved and the halves compared.

    Shards of odd and even place make the halves, so that a subsample's halves contain the smaller one's.
    """
    generator = stream(Stream.CONVERGENCE, seed)
    orders = [generator.permutation(len(shards.counts)) for _ in range(ORDERS)]
    counts = [len(shards.counts)]
    while counts[0] // 2 >= 2 * SMALLEST_HALF:
        counts.insert(0, counts[0] // 2)
    columns = []
    for count in counts:
        first = masks(shards, [order[:count:2] for order in orders], threshold)
        second = masks(shards, [order[1:count:2] for order in orders], threshold)
        columns.append(agreement(first, second).overlap)
    return Curve(np.array(counts) * len(shards.members[0]), np.stack(columns, axis=1))


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
    wide, narrow = interval(last), interval(last, 0.90)
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
    spread = interval(result.overlap)
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
    generator, count = stream(Stream.SUBSETS, study.settings.seed), len(shards.counts)
    size, threshold = max(1, round(share * count)), study.settings.threshold(sigma)
    orders = [generator.permutation(count) for _ in range(study.settings.draws)]
    subset = masks(shards, [order[:size] for order in orders], threshold)
    return mean(agreement(subset, masks(shards, [order[size:] for order in orders], threshold)).overlap)


def _untrained(study: Study, cell: Cell, sigma: float) -> np.ndarray:
    return halves_of(study, cell.dataset or "", sigma, "untrained").overlap
