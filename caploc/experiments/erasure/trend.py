"""Does a lower threshold, and so more erased neurons, cost more (Table 3, sigma 12, 6 and 3)?"""

from __future__ import annotations

import numpy as np

from caploc.experiments.endings import FloorError, ends_in_a_finding
from caploc.experiments.erasure.arms import located_mask
from caploc.experiments.erasure.measured import located_outcomes, nothing_located
from caploc.experiments.erasure.report import WHOSE, finding_of
from caploc.experiments.evaluation_data import evaluation_items
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import compare_doses

SIGMAS = (12.0, 6.0, 3.0)
"""Weakest erasure first."""


@ends_in_a_finding
def sigma_trend(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table3-sigma-trend``: the loss of score at sigma 12, 6 and 3, whatever sigmas the run asks for.

    Where nothing passes a sigma, nothing is erased and nothing lost. A loss that falls from one sigma to the next lower
    one is a reversal (`caploc.statistics.compare_doses`). The loss in nats stands beside.
    """
    dataset, seed = cell.dataset or "", study.settings.seed
    items = evaluation_items(study, dataset)
    if items.floor is not None:
        raise FloorError(items.floor)
    counts = [located_mask(study, dataset, sigma).count for sigma in SIGMAS]
    if not any(counts):
        raise nothing_located(dataset, SIGMAS[-1])
    outcomes = [located_outcomes(study, dataset, sigma) for sigma in SIGMAS]
    lost = np.stack([items.base["score"] - one["score"] for one in outcomes])
    nats = np.stack([one["nll"] - items.base["nll"] for one in outcomes])
    clusters = list(items.clusters)
    response = compare_doses(lost, clusters=clusters, seed=seed)
    in_nats = compare_doses(nats, clusters=clusters, seed=seed)
    quantities: dict[str, float] = {"rise of the nats lost": in_nats.step}
    for sigma, count, points, loss in zip(SIGMAS, counts, lost, nats, strict=True):
        quantities[f"neurons located, sigma {sigma:g}"] = float(count)
        quantities[f"loss of score, sigma {sigma:g}"] = float(points.mean())
        quantities[f"nats lost, sigma {sigma:g}"] = float(loss.mean())
    return finding_of(
        study,
        [items],
        cell,
        claim,
        "mean rise of the loss from one sigma to the next lower one",
        estimate=response.step,
        interval=(response.interval.low, response.interval.high),
        interval_kind=f"95 %, {response.interval.kind} over items",
        p_values={**response.p_values, **{f"{name}, nats": p for name, p in in_nats.p_values.items()}},
        quantities=quantities,
        draws=0,
        notes=[WHOSE],
    )
