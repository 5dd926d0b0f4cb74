"""What explains that halves overlap? The size of neurons, how scores are averaged, training, the type of text.

Halves of anything overlap where some neurons are large on every text. So located status is regressed on properties that
say nothing about the answer, and the overlap is shown beside the one that these properties alone would give. All of it
comes from scores that Table 1 and the comparison of methods have stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from caploc.experiments.commonality_halves import Across, Growth, Halves, difference_of, mean
from caploc.experiments.dataset_types import types_of
from caploc.experiments.evidence import effect, finite
from caploc.experiments.locating import LocatedOn, Magnitudes, Scores, ShardSums, masks, whole_mask
from caploc.experiments.rival_sets import (
    CNL,
    SIZES,
    Evidence,
    Samples,
    half_splits,
    method_of,
    overlap_effect,
    resampled,
)
from caploc.experiments.specs import ENDINGS, FloorError, Spec, Task, keyed
from caploc.experiments.study import TWINS, Study, experiment
from caploc.findings import Aside, Cell, Count, Measurement
from caploc.locators.magnitude import output_norms
from caploc.neurons import Threshold
from caploc.papers import Claim
from caploc.statistics import Bootstrapped, firth
from caploc.store import Entry

KN = "kn"
METHODS = (CNL, KN, SIZES)
"""Compared at equal counts; the last tells the size of neurons of equal rank."""
ACTIVATION, OUTPUT, LAYER, FREQUENCY = "activation", "output norm", "layer", "frequency"
WITHOUT_SCORES = (ACTIVATION, OUTPUT, LAYER)
"""The properties that say nothing of the answer. How often a neuron passes eq. (8) on one example does."""
SMALLEST = 1e-6
"""Of the largest: a neuron that is never active has no logarithm."""


@dataclass(frozen=True)
class OutputNorms(Spec[np.ndarray]):
    """``[layers, neurons]`` the norms of neurons' output weights."""

    def tasks(self, study: Study) -> Iterable[Task]:
        yield keyed(
            study, "output norms", {}, lambda: {"norms": output_norms(study.weights()).numpy(force=True)}
        )

    def read(self, study: Study, entries: Iterator[Entry]) -> np.ndarray:
        (entry,) = entries
        return np.asarray(entry.arrays["norms"])

    def flops(self, study: Study) -> float:
        return float(study.lm.num_parameters)


def properties(
    shards: ShardSums, sizes: np.ndarray, norms: np.ndarray, threshold: Threshold
) -> dict[str, np.ndarray]:
    """``[layers * neurons, columns]`` of each property: log mean |activation|, log norm of the output weights, layer (a
    column for each but the first), and the share of examples (shards) on which alone the neuron passes eq. (8). All but
    layers are in standard deviations; a property that does not vary has no column."""
    activation = sizes / np.maximum(norms, SMALLEST * norms.max())
    alone = masks(shards, [np.array([one]) for one in range(len(shards.counts))], threshold)
    own = np.repeat(np.eye(shards.layers), shards.neurons, axis=0)[:, 1:]
    found = {
        ACTIVATION: np.log(np.maximum(activation, SMALLEST * activation.max())).ravel(),
        OUTPUT: np.log(np.maximum(norms, SMALLEST * norms.max())).ravel(),
        FREQUENCY: alone.mean(0).ravel(),
    }
    return {LAYER: own, **{name: _standardized(values) for name, values in found.items()}}


def _standardized(values: np.ndarray) -> np.ndarray:
    spread = values.std()
    columns = 1 if spread > SMALLEST else 0
    return ((values - values.mean()) / (spread or 1.0))[:, None][:, :columns]


def explained_by(located: np.ndarray, found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The overlap that properties alone would give, and the share of the deviance they explain: each by itself, those
    without scores together, and all; and the log odds of being located a standard deviation, all together."""
    shown: dict[str, float] = {}
    every = tuple(found)
    sets = {**{name: (name,) for name in every}, ", ".join(WITHOUT_SCORES): WITHOUT_SCORES, "all": every}
    for name, chosen in sets.items():
        fitted = firth(np.column_stack([found[one] for one in chosen]), located.ravel())
        shown[f"overlap by {name}"] = fitted.overlap
        shown[f"deviance explained by {name}"] = fitted.explained
        if name == "all":
            names = [one for one in every for _ in range(found[one].shape[1])]
            shown |= {
                f"log odds a standard deviation, {one}": float(value)
                for one, value in zip(names, fitted.coefficients, strict=True)
                if one != LAYER
            }
    return shown


def _needs(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    dataset, sigma = cell.dataset or "", float(cell.sigma or 0)
    yield from (Halves(dataset, sigma), Magnitudes(dataset), OutputNorms())
    yield from (Growth(dataset, sigma, control) for control in ("", *TWINS))
    yield from (Across(dataset, other, sigma) for other in study.available() if other != dataset)
    yield from (Evidence(key, dataset) for key in METHODS)


@experiment(_needs)
def overlap_explained(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Control ``control-overlap-explained``: what the overlap of halves would be if located neurons had nothing in
    common but mean activation, output norm and layer; and what else bears on it.

    Beside it, each property by itself and how often a neuron passes by itself; CNL against KN, both averaged over the
    same samples and with sets of equal size; the model against its untrained twins on as many samples, at each number
    that both have; and overlap with halves of datasets of the same type minus that with other types.
    """
    dataset, sigma = cell.dataset or "", float(cell.sigma or 0)
    threshold, shards = study.settings.threshold(sigma), study.result(Scores(dataset))
    located = whole_mask(shards, threshold)
    if not located.any():
        raise FloorError(f"floor effect: no neuron passes sigma {sigma:g} on the whole set")
    sizes, norms = study.result(Magnitudes(dataset)).values.double().numpy(), study.result(OutputNorms())
    shown = explained_by(located, properties(shards, sizes, norms, threshold))
    value = shown.pop(f"overlap by {', '.join(WITHOUT_SCORES)}")
    halves = study.result(Halves(dataset, sigma)).mean()
    notes = ["probabilities are fitted to the very neurons they are about, so they explain a little too much"]
    beside: dict[str, Aside] = {"overlap of halves": halves.value, "located": float(located.sum()), **shown}
    for found in (_methods, _types):
        try:
            beside |= found(study, dataset, sigma)
        except ENDINGS as ending:
            notes.append(str(ending))
    return Measurement(
        "overlap of two sets by activation, output norm and layer alone",
        Count(value),
        asides=beside,
        controls=_grown(study, dataset, sigma),
        n=len(study.located(dataset).tokenized),
        draws=study.settings.draws,
        basis=[LocatedOn.of(study, dataset)],
        notes=notes,
    )


def _methods(study: Study, dataset: str, sigma: float) -> dict[str, Aside]:
    """CNL and KN at equal counts and equal aggregation. Raises what `Evidence` does."""
    settings, threshold = study.settings, study.settings.threshold(sigma)
    evidence = {key: study.result(Evidence(key, dataset)) for key in METHODS}
    ranks = {key: partial(method_of(study, key).rank, study.lm) for key in METHODS}
    samples = Samples(evidence, ranks)
    splits = half_splits(samples, threshold, settings.draws, settings.seed)
    gap = overlap_effect(splits, resampled(samples, threshold, settings.seed), KN, len(samples))
    of = f"{len(samples)} samples, as many neurons"
    means = finite({f"overlap of halves, {key}, {of}": mean(splits[key]) for key in METHODS})
    return {**means, f"{CNL} minus {KN}, {of}": effect(gap)}


def _types(study: Study, dataset: str, sigma: float) -> dict[str, Aside]:
    """Overlap with datasets of the same type minus that with others; nothing where either is missing."""
    types = types_of(study.available())
    others = {name: study.result(Across(dataset, name, sigma)).mean() for name in types if name != dataset}
    same = [one for name, one in others.items() if types[name] == types.get(dataset)]
    different = [one for name, one in others.items() if types[name] != types.get(dataset)]
    if dataset not in types or not (same and different):
        return {}
    gap = Bootstrapped.mean(same) - Bootstrapped.mean(different)
    means = {"same type": Bootstrapped.mean(same).value, "other types": Bootstrapped.mean(different).value}
    return {
        **finite({f"overlap with halves of the {name}": one for name, one in means.items()}),
        "same type minus other types": difference_of(gap, f"{study.settings.draws} random half splits"),
    }


def _grown(study: Study, dataset: str, sigma: float) -> dict[str, float]:
    """The model's overlap and its twins' mean at each number of samples that all have."""
    own = study.result(Growth(dataset, sigma))
    twins = [study.result(Growth(dataset, sigma, twin)) for twin in TWINS]
    found: dict[str, float] = {}
    for size in twins[0].sizes:
        if size in own.sizes:
            found[f"trained, {size} samples"] = own.at(size).value
            found[f"untrained, {size} samples"] = mean(np.array([one.at(size).value for one in twins]))
    return finite(found)
