"""Do the neurons of GSM8K and Emotion overlap more than those of either with Code25K (section 5.4)?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from caploc.datasets import DATASETS
from caploc.experiments.commonality.splits import mean, to_split
from caploc.experiments.cross_dataset.report import finding_of
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study, pairs
from caploc.findings import Cell, Finding
from caploc.statistics import Agreement, Shards, agreement, defined_interval, resampled_pair_overlaps

CLOSE = ("gsm8k", "emotion")
THIRD = "code25k"
RESAMPLES = 1000


@ends_in_a_finding
def gsm8k_emotion_overlap(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``cross-gsm8k-emotion-overlap``: o(GSM8K, Emotion) - max(o(GSM8K, Code25K), o(Emotion, Code25K)).

    The interval is a bootstrap over the samples of each dataset, in shards; which rival is the larger is found anew in
    each resample. A resample holds fewer distinct samples than the whole, so that its masks are noisier and share
    less, in all three pairs alike. Controls: random sets with the same counts in every layer (what they share by
    expectation), and the untrained twin.
    """
    sigma = float(cell.sigma or 0)
    names = (*CLOSE, THIRD)
    missing = [name for name in names if name not in study.available()]
    if missing:
        raise NotRunError(f"this claim needs {', '.join(missing)} too; add --dataset {missing[0]}")
    threshold = study.settings.threshold(sigma)
    shards = [study.shards(name) for name in names]
    datasets = [to_split(one, threshold) for one in shards]
    whole = _agreements(datasets)
    overlaps = np.stack([one.overlap for one in whole])
    if not np.isfinite(overlaps).all():
        raise FloorError(
            f"floor effect: no neuron passes sigma {sigma:g} on one of {', '.join(names)}, so no overlap is defined"
        )
    differences = _lead(resampled_pair_overlaps(datasets, RESAMPLES, study.settings.seed))
    wide, narrow = defined_interval(differences), defined_interval(differences, 0.90)
    untrained = [to_split(study.shards(name, "untrained"), threshold) for name in names]
    fresh = np.stack([one.overlap for one in _agreements(untrained)])
    samples = {name: one.whole.count for name, one in zip(names, shards, strict=True)}
    return finding_of(
        study,
        [],
        cell,
        claim,
        "overlap of GSM8K and Emotion minus their larger overlap with Code25K",
        estimate=float(_lead(overlaps)[0]),
        interval=(wide.low, wide.high),
        interval_kind=f"95 % of {RESAMPLES} bootstraps over shards, the larger rival chosen in each",
        chance=float(_lead(np.stack([one.chance for one in whole]))[0]),
        quantities={
            "gap90_low": narrow.low,
            "gap90_high": narrow.high,
            **{f"{a}~{b}": float(value) for (a, b), (value,) in zip(pairs(names), overlaps, strict=True)},
        },
        controls={"untrained twin": mean(_lead(fresh))},
        n=sum(samples.values()),
        draws=RESAMPLES,
        notes=[
            "chance is the same difference for random sets with the same counts in every layer",
            *_few(samples),
        ],
        settings={"samples": samples},
    )


def _few(samples: Mapping[str, int]) -> list[str]:
    papers = {name: DATASETS[name].paper_samples or 0 for name in samples}
    return [
        f"{count} examples of {name}, the paper locates with {papers[name]} (section 5.3); overlap grows with their "
        "number"
        for name, count in samples.items()
        if count < papers[name]
    ]


def _lead(overlaps: np.ndarray) -> np.ndarray:
    """``overlaps [pairs, draws]``: the first pair's minus the larger of the rivals', nan where one is undefined."""
    lead: np.ndarray = overlaps[0] - overlaps[1:].max(0)
    return lead


def _agreements(shards: Sequence[Shards]) -> list[Agreement]:
    """Of each pair of datasets, the one in question first, located on all of their shards."""
    located = [one.locate([np.arange(one.count)]) for one in shards]
    return [agreement(a, b) for a, b in itertools.combinations(located, 2)]
