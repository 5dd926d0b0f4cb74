"""How many neurons are trained: one share is printed for all sigmas and models (section 5.4)."""

from __future__ import annotations

import numpy as np

from caploc.experiments.commonality.splits import to_split
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.enhancement.runs import trained_datasets
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.papers import load_paper
from caploc.statistics import percentile_interval, resampled_masks
from caploc.streams import Stream, stream

SIGMAS = (3.0, 6.0)
PAPER = "capability_localization"


@ends_in_a_finding
def param_share(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table2-param-share``: located over all neurons at sigma 3 and at sigma 6, mean over what is trained on.

    Every model is judged (ambiguity ``one-share-for-all``), at both sigmas whatever the run's; the estimate is the
    share at the cell's own. Intervals are bootstraps over shards, within each dataset.
    """
    early = study.early
    names, own = trained_datasets(early), cell.sigma or SIGMAS[-1]
    draws = {sigma: _shares(early, names, sigma) for sigma in dict.fromkeys((*SIGMAS, own))}
    ends = {sigma: percentile_interval(shares[1:].mean(1), 0.95) for sigma, shares in draws.items()}
    quantities: dict[str, float] = {}
    for sigma in SIGMAS:
        start = f"number:located-sigma{sigma:g}"
        quantities |= {f"{start}:low": ends[sigma].low, f"{start}:high": ends[sigma].high}
    low, high = (
        (1 - max(ends[sigma].high for sigma in SIGMAS)),
        (1 - min(ends[sigma].low for sigma in SIGMAS)),
    )
    quantities |= {"number:all-but-located:low": low, "number:all-but-located:high": high}
    for sigma, shares in draws.items():
        quantities |= {
            f"located at sigma {sigma:g}, {name}": float(shares[0, index]) for index, name in enumerate(names)
        }
    printed = load_paper(PAPER).claim(claim).numbers[0].printed
    return Finding(
        claim=claim,
        cell=cell,
        quantity="share of the neurons that is located and trained",
        unit="share",
        estimate=float(draws[own][0].mean()),
        interval=(ends[own].low, ends[own].high),
        interval_kind=f"95 % of {early.settings.draws} bootstraps over shards",
        quantities=quantities,
        n=sum(len(early.located(name).tokenized) for name in names),
        draws=early.settings.draws,
        published=printed,
        settings={**early.record(), "sigma": cell.sigma, "checkpoint": early.model, "trained_on": names},
        notes=[f"{early.model}, an early checkpoint, is located, as it is the one trained"]
        if early is not study
        else [],
    )


def _shares(study: Study, names: list[str], sigma: float) -> np.ndarray:
    """``[1 + draws, datasets]`` shares of the whole sets, then of their bootstraps."""
    generator = stream(Stream.TRAINED_SHARE, study.settings.seed)
    columns = []
    for name in names:
        shards = to_split(study.shards(name), study.settings.threshold(sigma))
        located = resampled_masks(shards, study.settings.draws, generator)
        columns.append(located.reshape(len(located), -1).mean(1))
    return np.stack(columns, axis=1)
