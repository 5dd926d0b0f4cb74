"""ROME's own verification, repeated at every layer (section 3.2, figure 2; zsRE): is the located layer special?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.facts.report import interval_parts
from caploc.experiments.reliability.rome_edits import PROMPT, SUBJECT
from caploc.experiments.reliability.rome_report import (
    Measured,
    edits_finding,
    layer_curve,
    measured,
)
from caploc.experiments.specs import FloorError
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.interventions.rank_one.prompts import Token
from caploc.papers import load_paper
from caploc.statistics import (
    Effect,
    Ipp,
    at_least_mcnemar,
    compare_pairs,
    compare_successes,
    equivalence_p,
    holm,
    ipp,
    mcnemar_from_counts,
    part_quantities,
)


@ends_in_a_finding
def rome_layers_equal(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-rome-layers-equal``: efficacy at the located layer minus that at each other, the same edits.

    Which layer is located: `locate_layer`. The estimate is the mean over the other layers; the rule reads them one by
    one. Beside: the layers of the first half of the model and the located one's neighbours alone
    (``rome-counted-layers``), and edits at the prompt's last token.

    Edits that succeed in no layer at all are a floor effect: that facts can be edited is part of the claim.
    """
    one = _that_can_be_edited(measured(study, cell))
    margin = load_paper("capability_localization").claim(claim).rule.parameters["margin"]
    seed, success = study.settings.seed, one.edits.success()
    own = success[:, one.layer]
    effects = _by_layer(one, SUBJECT, seed)
    overall = compare_pairs(own, success[:, one.others].mean(1), clusters=one.edits.clusters, seed=seed)
    equal = holm([equivalence_p(own, success[:, layer], margin) for layer in one.others])
    half, near = range(one.edits.num_layers // 2), (one.layer - 1, one.layer + 1)
    readings = {
        "all layers": _share_equal(effects, one.others, margin),
        "the first half of the model": _share_equal(effects, half, margin),
        "the neighbours": _share_equal(effects, near, margin),
        "all layers, last prompt token": _share_equal(_by_layer(one, PROMPT, seed), one.others, margin),
    }
    at_prompt = one.edits.success(PROMPT).mean(0)
    finding = edits_finding(
        study,
        one,
        cell,
        claim,
        "share of edits that succeed, located layer minus another, mean over the others",
        estimate=overall.estimate,
        interval=(overall.interval.low, overall.interval.high),
        interval_kind=f"95 %, {overall.interval.kind} over facts, those of one subject together",
        effect_size=overall.effect_size,
        p_values={f"TOST, layer-{layer}": float(p) for layer, p in zip(one.others, equal, strict=True)},
        quantities={
            **part_quantities({f"effect:layer-{layer}": effect for layer, effect in effects.items()}),
            **{f"share shown equal, {name}": share for name, share in readings.items()},
            "located minus the others, last prompt token": float(
                at_prompt[one.layer] - at_prompt[one.others].mean()
            ),
        },
        notes=_too_few(len(success), margin),
        plots=[layer_curve(one)],
    )
    return replace(finding, published=None)  # the printed number is the layer's, not this difference's


@ends_in_a_finding
def rome_ipp(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``reliability-rome-ipp``: layers are the choices, the best of all but the located one chosen on one half of
    the facts and scored on the other.

    Beside: edits at the prompt's last token, and the located layer among the choices (``rome-ipp-maximum``), with which
    the best on the same facts cannot be beaten.
    """
    one = _that_can_be_edited(measured(study, cell))
    seed, success = study.settings.seed, one.edits.success()
    found = _ipp(one, SUBJECT, seed)
    own = success[:, one.layer]
    best = max(one.others, key=lambda layer: float(success[:, layer].mean()))
    interval = at_least_mcnemar(found.interval, own, success[:, best])
    return edits_finding(
        study,
        one,
        cell,
        claim,
        "IPP: share of edits that succeed, located layer minus the best other",
        estimate=found.estimate,
        interval=(interval.low, interval.high),
        interval_kind="95 %, bootstrap over facts, the best layer found on one half and scored on the other; at least "
        "that of the paired proportions with the best layer (Bonett & Price)",
        quantities={
            **interval_parts(claim, cell, {"ipp": (found.estimate, interval)}),
            "best other layer": float(best),
            "chosen and scored on the same facts (biased)": found.same_items,
            "against the mean layer": found.mean_choice,
            "located layer among the choices, same facts": float(own.mean() - success.mean(0).max()),
            "last prompt token": _ipp(one, PROMPT, seed).estimate,
        },
    )


def _ipp(one: Measured, token: Token, seed: int) -> Ipp:
    success = one.edits.success(token)
    return ipp(success[:, one.layer], success[:, one.others].T, clusters=one.edits.clusters, seed=seed)


def _by_layer(one: Measured, token: Token, seed: int) -> dict[int, Effect]:
    """By other layer, the located one's success minus its."""
    success = one.edits.success(token)
    return {
        layer: compare_successes(success[:, one.layer], success[:, layer], one.edits.clusters, seed)
        for layer in one.others
    }


def _share_equal(effects: dict[int, Effect], layers: Sequence[int], margin: float) -> float:
    """Of those of ``layers`` that are compared, the share shown to be equal."""
    chosen = [effects[layer] for layer in layers if layer in effects]
    return float(np.mean([effect.interval90.inside(-margin, margin) for effect in chosen]))


def _too_few(facts: int, margin: float) -> list[str]:
    """Whether so many facts could show equality at all, said where they could not."""
    least = mcnemar_from_counts(0, 0, facts, level=0.9).interval
    if least.inside(-margin, margin):
        return []
    return [
        f"{facts} edited facts are too few to show two layers equal within {margin:g}, even if all end alike "
        f"(90 % interval to {least.high:.3f})"
    ]


def _that_can_be_edited(one: Measured) -> Measured:
    if not one.edits.success().any():
        raise FloorError(f"floor effect: none of {len(one.edits)} facts can be edited in any layer")
    return one
