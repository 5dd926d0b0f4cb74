"""Does CNL locate better than the methods before it? A key result of the summary, which the paper never measures.

It is compared with every other method of ``caploc.locators.compared()``, all averaged over the same samples, with sets
of equal size (`caploc.experiments.rival_sets`). A method that is registered takes part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from caploc.experiments.commonality_halves import mean
from caploc.experiments.evaluating import Items
from caploc.experiments.evidence import asides, difference, effects, finite
from caploc.experiments.rival_sets import (
    CNL,
    RESAMPLES,
    AllSamples,
    EqualSets,
    EqualSetsErased,
    Evidence,
    Overlaps,
    Samples,
    WithoutSets,
    half_splits,
    method_of,
    overlap_effect,
    resampled,
)
from caploc.experiments.specs import FloorError, Spec
from caploc.experiments.study import Study, experiment
from caploc.findings import Cell, Finding, Measurement, Outcome, Plot
from caploc.locators import LOCATORS
from caploc.metrics import chance_overlap
from caploc.papers import Claim
from caploc.rules import judge
from caploc.statistics import Effect, against_the_best, at_least_adjusted, compare_pairs


@dataclass(frozen=True, eq=False)
class Compared:
    """CNL against every method: ``sets`` located on all samples, their half-split overlaps, and what is left of the
    score where they are erased."""

    samples: Samples
    sets: Mapping[str, Bool[np.ndarray, "layers neurons"]]
    splits: Overlaps
    resamples: Overlaps
    scrambled: float
    erased: WithoutSets

    @classmethod
    def of(cls, study: Study, dataset: str, sigma: float) -> Compared:
        """Raises FloorError where CNL locates nothing, on all samples or in most halves."""
        samples, sets = study.result(AllSamples(dataset)), study.result(EqualSets(dataset, sigma))
        erased = study.result(EqualSetsErased(dataset, sigma))
        settings, threshold = study.settings, study.settings.threshold(sigma)
        splits = half_splits(samples, threshold, settings.draws, settings.seed)
        resamples = resampled(samples, threshold, settings.seed)
        for overlaps in (splits, resamples):
            empty = int(np.isnan(overlaps[CNL]).sum())
            if empty * 2 > len(overlaps[CNL]):
                raise FloorError(
                    f"floor effect: no neuron passes sigma {sigma:g} in {empty} of {len(overlaps[CNL])} splits"
                )
        control = samples.only(study.result(Evidence(CNL, dataset, "scrambled")))
        scrambled = mean(half_splits(control, threshold, settings.draws, settings.seed)[CNL])
        return cls(samples, sets, splits, resamples, scrambled, erased)

    def effects(self, decisive: bool, seed: int) -> dict[str, Effect]:
        """CNL minus each of the methods that decide, or of the others: overlap, and loss of score by erasure, paired
        over the evaluation items.

        Losses that agree on every item show two sets equal only as far as so many items can, unless the sets are one.
        """
        found = {}
        for key, chosen in self.sets.items():
            if key == CNL or decides(key) is not decisive:
                continue
            found[f"{key}-overlap"] = overlap_effect(self.splits, self.resamples, key, len(self.samples))
            loss = compare_pairs(self.erased.score[key], self.erased.score[CNL], seed=seed)
            if not np.array_equal(chosen, self.sets[CNL]):
                loss = at_least_adjusted(loss, self.erased.score[key] - self.erased.score[CNL])
            found[f"{key}-erasure"] = loss
        return found

    @property
    def by_method(self) -> dict[str, float]:
        """What stands behind the differences, method by method."""
        erased, own = self.erased, self.sets[CNL]
        numbers = {"neurons": float(own.sum())}
        numbers["score, nothing erased"] = float(erased.items.base["score"].mean())
        numbers["score, chance"] = erased.items.chance
        for key, chosen in self.sets.items():
            numbers[f"overlap, {key}"] = mean(self.splits[key])
            numbers[f"score, {key} erased"] = float(erased.score[key].mean())
            numbers[f"nats, {key} erased"] = float(erased.nll[key].mean())
            if key != CNL:
                numbers[f"share of CNL's neurons, {key}"] = float((chosen & own).sum() / own.sum())
        return numbers

    @property
    def controls(self) -> dict[str, float]:
        """CNL's overlap on text without meaning, and every method's by chance, sets placed at random in their
        layers."""
        chance = {
            f"chance, overlap, {key}": chance_overlap(one, one, by_layer=True)
            for key, one in self.sets.items()
        }
        return finite({f"scrambled text, overlap, {CNL}": self.scrambled, **chance})

    @property
    def notes(self) -> list[str]:
        samples, erased = self.samples, self.erased
        layers = {key: np.flatnonzero(chosen.any(1)).tolist() for key, chosen in self.sets.items()}
        notes = [
            f"every method averaged over the same {len(samples)} samples, sets of {self.sets[CNL].sum()} neurons; "
            "authors of methods for single facts use them on one prompt at a time (rival-aggregation)",
            f"layers of the neurons: {', '.join(f'{key} {where}' for key, where in layers.items())}",
        ]
        own = samples.evidence[CNL]
        notes += [
            f"the scores of {key} are those of {CNL} on these samples, and only the cut differs"
            for key, scores in samples.evidence.items()
            if key != CNL and scores.shape == own.shape and np.allclose(scores, own, atol=np.ptp(own) / 1e4)
        ]
        notes += [f"{key} left out: {why}" for key, why in samples.left_out.items()]
        if all(np.array_equal(score, erased.items.base["score"]) for score in erased.score.values()):
            notes.append(
                "no method's neurons cost any item its score: at this size, the loss tells none from another"
            )
        return notes


def decides(key: str) -> bool:
    """Whether the claim is about a method: about those that were made to locate single facts. Any other stands beside,
    such as plain magnitude."""
    return LOCATORS[key].aim == "fact"


def _needs(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    dataset = cell.dataset or ""
    yield Items(dataset)
    yield EqualSetsErased(dataset, float(cell.sigma or 0))
    yield Evidence(CNL, dataset, "scrambled")


@experiment(_needs)
def outperforms(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``general-cnl-outperforms``: overlap of halves, and loss of score by erasure, against every method.

    All methods see the same samples, and each names as many neurons as pass sigma, on all samples and on each half.
    What a method is, is fixed beforehand and in its strongest form under these terms. Of the paper's:

    ========= ======================================================================================================
    kn        scores at the last prompt token for the answer's first, mean over samples; the highest
    rome      causal tracing; these prompts name no subject, so all prompt tokens but the last are noised. Layers by
              the answer's probability with their MLP restored at the last prompt token, mean over samples
    kc        EAP-IG's edges, mean over samples; MLPs by the summed |score| of the edges that begin or end there
    magnitude mean |activation| times the norm of the output weights: what picks neurons inside a layer, and a rival
              of its own, which does not decide
    ========= ======================================================================================================

    p of an overlap is over samples (`caploc.experiments.rival_sets`), where the inventory asks for a permutation over
    splits, which are not independent; that of a loss flips signs of items. Both are Holm-corrected over methods and
    measures. The value is the smallest difference. Where a method that decides cannot be had, the others can refute
    the claim, but nothing supports it.
    """
    dataset, sigma = cell.dataset or "", float(cell.sigma or 0)
    floor = study.result(Items(dataset)).floor
    if floor is not None:
        raise FloorError(floor)
    found = Compared.of(study, dataset, sigma)
    seed, samples = study.settings.seed, found.samples
    parts = found.effects(True, seed)
    least = against_the_best(list(parts.values()))
    measured = Measurement(
        "CNL minus the other methods, overlap of halves and loss of score, the smallest difference",
        replace(
            difference(least.estimate, least.interval),
            method="95 %, of the part with the lowest bounds: overlaps bootstrapped over samples, losses over items",
        ),
        effects(parts),
        asides={**asides(found.effects(False, seed)), **found.by_method},
        controls=found.controls,
        n=len(samples),
        draws=study.settings.draws,
        basis=[found.erased.items],
        settings={
            "samples": len(samples),
            "items": len(found.erased.items),
            "resamples": RESAMPLES,
            "methods": {key: method_of(study, key).how for key in found.sets},
        },
        notes=found.notes,
        plots=[
            Plot(
                "splits",
                "Overlap of two halves by method, sets of equal size",
                {"groups": {key: found.splits[key].tolist() for key in found.sets}},
            )
        ],
    )
    missing = {key: why for key, why in samples.left_out.items() if decides(key)}
    if not missing or judge(claim, Finding(claim.id, cell, measured)).outcome is Outcome.REFUTED:
        return measured
    why = "; ".join(f"{LOCATORS[key].name} left out: {reason}" for key, reason in missing.items())
    return replace(measured, floor=f"not against every method, {why}")
