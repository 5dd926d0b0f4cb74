""" "It is independent of our partitioning method of the dataset" (section 5.3): random and structured partitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caploc.experiments.commonality.report import finding_of
from caploc.experiments.commonality.splits import floor_effect, halves_of, mean, to_split
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.locating import ShardSums
from caploc.experiments.study import Located, Study
from caploc.findings import Cell, Finding, Plot
from caploc.statistics import defined_interval, partition_gap


@ends_in_a_finding
def independence(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table1-partition-independence``.

    The estimate is the range of the overlap over random and structured partitions. Structured ones put the shorter
    prompts, the first answers in the alphabet, or the source's first records into one half. The gap to the worst of
    them has an interval: both it and random splits are bootstrapped within their halves, which stay disjoint.
    """
    settings, sigma, dataset = study.settings, float(cell.sigma or 0), cell.dataset or ""
    shards = study.shards(dataset)
    result = halves_of(study, dataset, sigma)
    threshold = settings.threshold(sigma)
    structured = {name: halves_by(shards, rank) for name, rank in ranks(study.located(dataset)).items()}
    overlaps = {}
    for name, (first, second) in structured.items():
        overlaps[name] = float(to_split(shards, threshold).overlap([first], [second])[0])
    defined = result.overlap[np.isfinite(result.overlap)]
    every = np.array([*defined, *overlaps.values()])
    worst = min(overlaps, key=lambda name: np.nan_to_num(overlaps[name], nan=2.0))
    gap = defined_interval(
        partition_gap(to_split(shards, threshold), structured[worst], settings.draws, settings.seed)
    )
    return finding_of(
        study,
        cell,
        claim,
        "range of the overlap over random and structured partitions",
        estimate=float(np.ptp(every)) if len(every) else None,
        chance=mean(result.chance),
        quantities={
            "range_random_structured": float(np.ptp(every)) if len(every) else float("nan"),
            "standard deviation over random splits": float(defined.std(ddof=1))
            if len(defined) > 1
            else float("nan"),
            "mean over random splits": mean(result.overlap),
            "worst_structured_gap_low": gap.low,
            "worst_structured_gap_high": gap.high,
            **{f"overlap by {name}": value for name, value in overlaps.items()},
        },
        settings={"worst": worst, "shard_size": len(shards.members[0])},
        floor=floor_effect(result, sigma),
        plots=[_plot(study, cell, defined, overlaps)] if settings.has_figures(sigma) else (),
    )


def _plot(study: Study, cell: Cell, random: np.ndarray, structured: Mapping[str, float]) -> Plot:
    groups = {"random": random.tolist(), **{f"by {name}": [value] for name, value in structured.items()}}
    return Plot(
        "splits", f"Overlap over {study.settings.draws} random partitions, {cell.label}", {"groups": groups}
    )


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
