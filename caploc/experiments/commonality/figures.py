"""The data of the figures in one model's report: Fig. 4 (neurons, datasets), Fig. 5/7/8, splits, completeness."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caploc.experiments.commonality.convergence import convergence_curve
from caploc.experiments.commonality.splits import halves_of, mean
from caploc.experiments.study import PAPER_SIGMA, Study
from caploc.findings import Plot
from caploc.papers import load_paper
from caploc.statistics import agreement, defined_interval

NEIGHBOURS = 100  # Fig. 4 shows the largest score among so many neighbouring neurons


def model_plots(study: Study, sigma: float, whole: Mapping[str, np.ndarray]) -> list[Plot]:
    """The plots of one model at one sigma; ``whole`` holds the datasets' masks ``[layers, neurons]``."""
    label = f"{study.model} at sigma {sigma:g}" if "/" not in study.model else f"sigma {sigma:g}"
    return [
        Plot(
            "heatmap",
            f"Fig. 4: largest {_heat_unit(study)} among {NEIGHBOURS} neighbouring neurons, {label}",
            _heat(study, whole),
        ),
        Plot("matrix", f"Overlap of neurons located on two datasets, {label}", _matrix(whole)),
        Plot("splits", f"Overlap of random halves, {label}", _splits(study, sigma, list(whole))),
        Plot(
            "convergence",
            f"Fig. 5/7/8: overlap of halves by number of samples, {label}",
            _curves(study, sigma, whole),
        ),
        Plot("completeness", f"Completeness error by layer, {label}", _completeness(study, list(whole))),
    ]


def _heat_unit(study: Study) -> str:
    return "|z|" if study.settings.reading.deviation == "absolute" else "z"


def _heat(study: Study, whole: Mapping[str, np.ndarray]) -> dict[str, object]:
    rows, threshold = [], study.settings.threshold(PAPER_SIGMA)
    for name in whole:
        z = study.shards(name).whole.scores().z(threshold.scope).numpy()
        if threshold.deviation == "absolute":
            z = np.abs(z)
        blocks = [
            layer[start : start + NEIGHBOURS].max()
            for layer in z
            for start in range(0, len(layer), NEIGHBOURS)
        ]
        rows.append(np.array(blocks))
    layers = next(iter(whole.values())).shape[0]
    return {"rows": list(whole), "values": np.stack(rows).tolist(), "layers": layers}


def _matrix(whole: Mapping[str, np.ndarray]) -> dict[str, object]:
    stacked = np.stack(list(whole.values()))
    results = [agreement(np.broadcast_to(mask, stacked.shape), stacked) for mask in stacked]
    return {
        "labels": list(whole),
        "values": [result.overlap.tolist() for result in results],
        "chance": [result.chance.tolist() for result in results],
    }


def _splits(study: Study, sigma: float, names: list[str]) -> dict[str, object]:
    groups, untrained, chance, published = {}, {}, {}, {}
    paper = load_paper("capability_localization")
    for name in names:
        result = halves_of(study, name, sigma)
        groups[name] = result.overlap[np.isfinite(result.overlap)].tolist()
        chance[name] = mean(result.chance)
        untrained[name] = mean(halves_of(study, name, sigma, "untrained").overlap)
        printed = paper.published("table1-overlap", study.model, name, sigma=sigma)
        if printed is not None:
            published[name] = float(printed.printed) / 100
    return {"groups": groups, "chance": chance, "untrained": untrained, "published": published}


def _curves(study: Study, sigma: float, whole: Mapping[str, np.ndarray]) -> dict[str, object]:
    def curves(control: str) -> tuple[list[int], dict[str, dict[str, list[float]]]]:
        found: dict[str, dict[str, list[float]]] = {}
        sizes: list[int] = []
        for name in whole:
            threshold = study.settings.threshold(sigma)
            curve = convergence_curve(study.shards(name, control), threshold, study.settings.seed)
            ends = [defined_interval(column) for column in curve.overlap.T]
            sizes = curve.sizes.tolist() if len(curve.sizes) > len(sizes) else sizes
            found[name] = {
                "x": curve.sizes.tolist(),
                "mean": [mean(column) for column in curve.overlap.T],
                "low": [end.low for end in ends],
                "high": [end.high for end in ends],
            }
        return sizes, found

    sizes, trained = curves("")
    return {"x": sizes, "curves": trained, "untrained": curves("untrained")[1]}


def _completeness(study: Study, names: list[str]) -> dict[str, object]:
    errors = {}
    for name in names:
        whole = study.shards(name).whole
        errors[name] = (whole.completeness / whole.count).tolist()
    return {"errors": errors}
