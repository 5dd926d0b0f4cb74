"""Does CNL locate better than the methods before it? A key result of the summary, which the paper never measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from caploc.experiments.commonality_halves import mean
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.rivals.erased import Erased, erased_of, require_ability
from caploc.experiments.rivals.halves import RESAMPLES, Overlaps, half_splits, overlap_effect, resampled
from caploc.experiments.rivals.samples import STEPS, Samples, samples_of
from caploc.experiments.rivals.sets import CNL, MAGNITUDE, RIVALS, located
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding, Outcome, Plot
from caploc.metrics import chance_overlap
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.statistics import (
    Effect,
    against_the_best,
    compare_pairs,
    holm_parts,
    if_nothing_changed,
    part_quantities,
)


@dataclass(frozen=True, eq=False)
class Compared:
    """CNL against every method: ``sets`` located on all samples, their half-split overlaps, and what is left of the
    score where they are erased."""

    samples: Samples
    sets: Mapping[str, Bool[np.ndarray, "layers neurons"]]
    splits: Overlaps
    resamples: Overlaps
    scrambled: float
    erased: Erased

    def effects(self, method: str, seed: int) -> dict[str, Effect]:
        """CNL minus ``method``: overlap, and loss of score by erasure, paired over the evaluation items.

        Losses that agree on every item show two sets equal only as far as so many items can, unless the sets are one.
        """
        overlap = overlap_effect(self.splits, self.resamples, method, len(self.samples))
        loss = compare_pairs(self.erased.score[method], self.erased.score[CNL], seed=seed)
        if not np.array_equal(self.sets[method], self.sets[CNL]):
            loss = if_nothing_changed(loss, loss.items)
        return {f"{method}-overlap": overlap, f"{method}-erasure": loss}


@ends_in_a_finding
def outperforms(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``general-cnl-outperforms``: overlap of halves, and loss of score by erasure, against every method.

    All methods see the same samples, and each names as many neurons as pass sigma, on all samples and on each half
    (`sets.located`). What a method is, fixed beforehand and in its strongest form under these terms:

    ========== ======================================================================================================
    KN         scores at the last prompt token for the answer's first, mean over samples; the highest
    layers     causal tracing; these prompts name no subject, so all prompt tokens but the last are noised. Layers by
               the answer's probability with their MLP restored at the last prompt token, mean over samples
    circuits   EAP-IG's edges, mean over samples; MLPs by the summed |score| of the edges that begin or end there
    magnitude  mean |activation| times the norm of the output weights: what picks neurons inside a layer, and a rival
               of its own, which does not decide
    ========== ======================================================================================================

    p of an overlap is over samples (`halves`), where the inventory asks for a permutation over splits, which are not
    independent; that of a loss flips signs of items. Both are Holm-corrected over methods and measures. The estimate is
    the smallest difference. Where circuits cannot be had, the others can refute the claim, but nothing supports it.
    """
    found = _compared(study, cell)
    seed = study.settings.seed
    parts = {
        f"effect:{name}": effect
        for method in RIVALS
        if method in found.sets
        for name, effect in found.effects(method, seed).items()
    }
    least = against_the_best(list(parts.values()))
    finding = Finding(
        claim=claim,
        cell=cell,
        quantity="CNL minus the other methods, overlap of halves and loss of score, the smallest difference",
        n=len(found.samples),
        draws=study.settings.draws,
        estimate=least.estimate,
        interval=(least.interval.low, least.interval.high),
        interval_kind="95 %, of the part with the lowest bounds: overlaps bootstrapped over samples, losses over items",
        p_values=holm_parts(parts),
        quantities={
            **part_quantities(parts),
            **part_quantities(found.effects(MAGNITUDE, seed)),
            **_by_method(found),
        },
        controls=_controls(found),
        settings={"sigma": cell.sigma, **study.record(), **_settings(found)},
        notes=_notes(found),
        plots=[_plot(found)],
    )
    left_out, rule = found.samples.left_out, load_paper("capability_localization").claim(claim)
    if left_out is None or judge(rule, finding).outcome is Outcome.REFUTED:
        return finding
    return replace(finding, floor=f"not against every method, circuits are left out: {left_out}")


def _compared(study: Study, cell: Cell) -> Compared:
    dataset, sigma = cell.dataset or "", float(cell.sigma or 0)
    require_ability(study, dataset)  # before hours of locating what is not there
    samples, settings = samples_of(study, dataset), study.settings
    threshold = settings.threshold(sigma)
    whole = located(samples, np.ones((1, len(samples))), threshold)
    sets = {method: found[0] for method, found in whole.items()}
    if not sets[CNL].any():
        raise FloorError(f"floor effect: no neuron passes sigma {sigma:g} on the whole set")
    erased = study.once(("rivals, erased", dataset, threshold), lambda: erased_of(study, dataset, sets))
    splits = half_splits(samples, threshold, settings.draws, settings.seed)
    resamples = resampled(samples, threshold, settings.seed)
    for overlaps in (splits, resamples):
        empty = int(np.isnan(overlaps[CNL]).sum())
        if empty * 2 > len(overlaps[CNL]):
            raise FloorError(
                f"floor effect: no neuron passes sigma {sigma:g} in {empty} of {len(overlaps[CNL])} splits"
            )
    control = replace(samples, commonality=samples.scrambled)
    scrambled = mean(half_splits(control, threshold, settings.draws, settings.seed)[CNL])
    return Compared(samples, sets, splits, resamples, scrambled, erased)


def _by_method(found: Compared) -> dict[str, float]:
    """What stands behind the differences, method by method."""
    erased, own = found.erased, found.sets[CNL]
    numbers = {"neurons": float(own.sum()), "score, nothing erased": float(erased.base.mean())}
    numbers["score, chance"] = erased.chance
    for method, chosen in found.sets.items():
        numbers[f"overlap, {method}"] = mean(found.splits[method])
        numbers[f"score, {method} erased"] = float(erased.score[method].mean())
        numbers[f"nats, {method} erased"] = float(erased.nll[method].mean())
        if method != CNL:
            numbers[f"share of CNL's neurons, {method}"] = float((chosen & own).sum() / own.sum())
    return numbers


def _controls(found: Compared) -> dict[str, float]:
    """CNL's overlap on text without meaning, and every method's by chance, sets placed at random in their layers."""
    controls = {
        f"chance, overlap, {name}": chance_overlap(one, one, by_layer=True)
        for name, one in found.sets.items()
    }
    return (
        {"scrambled text, overlap, CNL": found.scrambled, **controls}
        if np.isfinite(found.scrambled)
        else controls
    )


def _settings(found: Compared) -> dict[str, Any]:
    return {
        "samples": len(found.samples),
        "items": len(found.erased.base),
        "resamples": RESAMPLES,
        "kn_answer_tokens": 1,
        "tracing": "noise on all prompt tokens but the last, restored at the last",
        "eap_ig_steps": STEPS,
    }


def _notes(found: Compared) -> list[str]:
    samples, erased = found.samples, found.erased
    layers = {method: np.flatnonzero(chosen.any(1)).tolist() for method, chosen in found.sets.items()}
    notes = [
        f"every method averaged over the same {len(samples)} samples, sets of {found.sets[CNL].sum()} neurons; their "
        "authors use the others on one prompt at a time (rival-aggregation)",
        f"layers of the neurons: {', '.join(f'{method} {where}' for method, where in layers.items())}",
    ]
    if np.allclose(samples.knowledge, samples.commonality, atol=np.ptp(samples.commonality) / 1e4):
        notes.append("answers of one token: KN's scores are CNL's, and only the cut differs")
    if all(np.array_equal(score, erased.base) for score in erased.score.values()):
        notes.append(
            "no method's neurons cost any item its score: at this size, the loss tells none from another"
        )
    return [*notes, *erased.notes]


def _plot(found: Compared) -> Plot:
    groups = {method: found.splits[method].tolist() for method in found.sets}
    return Plot("splits", "Overlap of two halves by method, sets of equal size", {"groups": groups})
