"""Runs the experiments of group D on planted scores and judges what they find."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caploc.experiments import commonality as experiments
from caploc.experiments.study import TWINS, Experiment
from caploc.findings import Cell, Finding, Verdict
from caploc.tests.experiments.planted import CONTROLS, PAPER, PlantedStudy, judged, noise

A = [(0, 3), (0, 77), (1, 5), (1, 200), (2, 9), (2, 130), (3, 4), (3, 249)]
B = [(layer, neuron + 1) for layer, neuron in A[:-1]] + [(3, 0)]
HALF_A = A[::2] + B[1::2]
DATASETS = ("gsm8k", "imdb")

EXPERIMENTS: Mapping[str, Experiment] = {
    "table1-overlap": experiments.overlap,
    "abstract-gsm8k-overlap": experiments.overlap,
    "table1-iou": experiments.iou,
    "table1-both-high": experiments.both_high,
    "table1-neuron": experiments.neuron_ratio,
    "table1-commonality": experiments.commonality,
    "control-untrained-overlap": experiments.trained_minus_untrained,
    "table1-partition-independence": experiments.independence,
    "convergence-llama2-7b": experiments.convergence,
    "convergence-subset-suffices": experiments.subset_suffices,
    "fig4-dataset-overlap": experiments.dataset_overlap,
    "method-default-sigma6": experiments.default_sigma,
    "eq8-literal-variance": experiments.neuron_ratio.with_options(dispersion="variance"),
}


def study_of(
    first: np.ndarray,
    second: np.ndarray | None = None,
    controls: Mapping[str, np.ndarray] | None = None,
    **options: object,
) -> PlantedStudy:
    """Two datasets, the second of noise unless given; their controls are noise unless given."""
    data = {("gsm8k", ""): first, ("imdb", ""): noise(90, len(first)) if second is None else second}
    for name in DATASETS:
        for number, control in enumerate(CONTROLS):
            scores = (controls or {}).get("untrained" if control in TWINS else control)
            data[name, control] = noise(91 + number, len(first)) if scores is None else scores
    return PlantedStudy(data, **options)  # type: ignore[arg-type]


def run(claim: str, study: PlantedStudy, sigma: float = 6, dataset: str = "gsm8k") -> tuple[Finding, Verdict]:
    """The finding, which must be complete and strict JSON, and its verdict."""
    overall = claim == "fig4-dataset-overlap"
    cell = Cell("llama2-7b", None if overall else dataset, sigma)
    assert all(need.study is study for need in EXPERIMENTS[claim].needs(study, cell, PAPER.claim(claim)))
    finding, verdict = judged(EXPERIMENTS[claim], study, cell, claim)
    assert (finding.claim, finding.cell) == (claim, cell)
    return finding, verdict
