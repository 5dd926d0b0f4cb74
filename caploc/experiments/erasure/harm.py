"""Does erasing the located neurons hurt more than erasing as many others (Table 3)?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.erasure.arms import LARGEST, LAYER, LOCATED, MAGNITUDE, TWIN, UNIFORM, located_mask
from caploc.experiments.erasure.measured import Erasures, few_by_layer, with_something_to_lose
from caploc.experiments.erasure.report import WHOSE, beside, finding_of, magnitudes, plot_of
from caploc.experiments.evaluation_data import LEVEL
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import (
    Effect,
    compare_pairs,
    compare_with_random,
    holm_parts,
    if_nothing_changed,
    mcnemar,
    part_quantities,
)

FEW_NEURONS, LOWER_SIGMA = 10, 2.0
"""Where fewer neurons are located, a lower sigma stands beside."""


@ends_in_a_finding
def located_hurts_more(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table3-located-hurts-more``: score without random neurons minus score without the located ones.

    For each dataset, the neurons located on its locating part; datasets whose base is at floor, or that locate nothing
    at sigma, are named and left out. Random sets matched by layer decide (`caploc.statistics.compare_with_random`:
    rank of the located set, Holm over datasets, intervals over items and a further set); uniform sets, sets matched in
    magnitude, the largest neurons and the loss in nats stand beside. The estimate is the smallest effect, since the
    claim needs every dataset.
    """
    sigma = float(cell.sigma or 0)
    found, notes = with_something_to_lose(study, sigma)
    seed = study.settings.seed
    effects = {f"effect:{name}": lost_more(one, LAYER, seed=seed) for name, one in found.items()}
    shown: dict[str, Effect] = {}
    quantities: dict[str, float] = {}
    for name, one in found.items():
        for arm in (UNIFORM, MAGNITUDE, LARGEST, TWIN):
            if arm in one.arms.sets:
                shown[f"more than {arm}, {name}"] = lost_more(one, arm, seed=seed)
        shown[f"nats more than by layer, {name}"] = lost_more(one, LAYER, "nll", seed)
        quantities |= {**beside(one), **_lower(study, one, seed)}
        quantities |= _mcnemar(one)
    corrected = holm_parts(effects)
    p_values = {**corrected, **{name: effect.p for name, effect in shown.items()}}
    least = min(effects.values(), key=lambda effect: effect.estimate)
    return finding_of(
        study,
        [one.own for one in found.values()],
        cell,
        claim,
        "score without random neurons minus score without the located ones",
        estimate=least.estimate,
        interval=(least.interval.low, least.interval.high),
        interval_kind=f"95 %, {least.interval.kind}; of the smallest effect",
        effect_size=least.effect_size,
        p_values=p_values,
        quantities={**part_quantities(effects), **_three_numbers(shown), **quantities},
        controls={name: value for one in found.values() for name, value in magnitudes(one).items()},
        notes=[WHOSE, *notes],
        plots=[plot_of(found, f"Scores without located and random neurons, {study.model} at sigma {sigma:g}")]
        if study.settings.has_figures(sigma)
        else [],
    )


def _three_numbers(effects: Mapping[str, Effect]) -> dict[str, float]:
    """Estimates and 95 % intervals of what stands beside the verdict."""
    return {
        f"{name}:{end}": value
        for name, effect in effects.items()
        for end, value in (
            ("estimate", effect.estimate),
            ("low", effect.interval.low),
            ("high", effect.interval.high),
        )
    }


def lost_more(one: Erasures, arm: str, outcome: str = "score", seed: int = 0) -> Effect:
    """How much more the located set's dataset loses without it than without the ``arm``'s sets: points of the score, or
    with ``nll`` nats a token. Against an arm of one set items alone are uncertain."""
    sign = 1 if outcome == "nll" else -1
    located = sign * one.of(one.located_on, LOCATED, outcome)[0]
    others = sign * one.of(one.located_on, arm, outcome)
    clusters = list(one.own.clusters)
    if len(others) == 1:
        effect = compare_pairs(located, others[0], clusters=clusters, seed=seed)
    else:
        effect = compare_with_random(located, others, clusters=clusters, seed=seed)
    return effect if outcome == "nll" else if_nothing_changed(effect, len(set(clusters)))


def _mcnemar(one: Erasures) -> dict[str, float]:
    """The share of draws against which the located set's loss is significant by itself (exact McNemar, one-sided),
    where items are right or wrong."""
    located, others = (one.of(one.located_on, arm) for arm in (LOCATED, LAYER))
    if not (np.isin(located, (0, 1)).all() and np.isin(others, (0, 1)).all()):
        return {}
    p = [mcnemar(draw > 0, located[0] > 0, alternative="greater").p for draw in others]
    share = float(np.mean(np.array(p) < LEVEL))
    return {f"draws against which McNemar is significant, {one.located_on}": share}


def _lower(study: Study, one: Erasures, seed: int) -> dict[str, float]:
    """What a lower sigma does, where few neurons are located."""
    dataset = one.located_on
    if one.arms.located.count >= FEW_NEURONS or one.sigma <= LOWER_SIGMA:
        return {}
    located, others = few_by_layer(study, dataset, LOWER_SIGMA)
    effect = compare_with_random(-located, -others, clusters=list(one.own.clusters), seed=seed)
    at = f"at sigma {LOWER_SIGMA:g}, {dataset}"
    return {
        f"neurons located {at}": float(located_mask(study, dataset, LOWER_SIGMA).count),
        f"score, located {at}": float(located.mean()),
        f"score, by layer {at}": float(others.mean()),
        **effect.quantities(f"more than by layer {at}"),
    }
