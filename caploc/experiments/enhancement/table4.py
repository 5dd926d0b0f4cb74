"""Table 4: what training on one dataset does to the others, and to general text (section 5.4, appendix G)."""

from __future__ import annotations

import numpy as np

from caploc.datasets import DATASETS
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.enhancement.arms import FROZEN, LOCATED, METHODS, NEAREST, OTHERS, RANDOM
from caploc.experiments.enhancement.report import (
    LAST,
    Trained,
    beside,
    estimate_of,
    finding_of,
    number_parts,
    printed_cells,
)
from caploc.experiments.enhancement.runs import EPOCHS, Enhancements, all_enhancements
from caploc.experiments.facts.report import NO_NUMBER
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.statistics import Interval, Pair, effect_of, holm_parts, part_quantities, rank_among_draws

BASE = "base"


@ends_in_a_finding
def numbers(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table4-numbers``: the change of the score on datasets not trained on, of every method.

    The mean over all pairs of a dataset trained on and another one tested, and over 1, 5 and 10 epochs (ambiguities
    ``untrained-datasets``, ``table4-average``); the estimate is that of the located neurons.
    """
    trained = _trained(study, cell)
    printed = printed_cells(claim, cell)
    effects = {
        method: effect_of(_pairs(trained, method, BASE), seed=study.settings.seed) for method in METHODS
    }
    found: dict[tuple[str, int | None, str], tuple[float, Interval]] = {
        (method, None, "average"): (effect.estimate, effect.interval) for method, effect in effects.items()
    }
    return finding_of(
        study,
        trained,
        cell,
        claim,
        "change of the score on datasets not trained on, located",
        METHODS,
        **estimate_of(effects[LOCATED]),
        quantities={**number_parts(printed, found), **_by_epoch(trained)},
        floor=None if printed else NO_NUMBER,
    )


@ends_in_a_finding
def located_best(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table4-located-best``: the located neurons' change, minus that of random ones, of all others, and itself.

    The same mean as ``table4-numbers``. Datasets of another type than the one trained on, nats a token (format can be
    learned without ability), random neurons nearest in magnitude and the others with the located frozen stand beside.
    """
    trained = _trained(study, cell)
    seed = study.settings.seed
    effects = {
        "effect:minus random": effect_of(_pairs(trained, LOCATED, RANDOM), drawn=True, seed=seed),
        "effect:minus all but located": effect_of(_pairs(trained, LOCATED, OTHERS), seed=seed),
        "effect:minus base": effect_of(_pairs(trained, LOCATED, BASE), seed=seed),
    }
    others = {FROZEN: effect_of(_pairs(trained, LOCATED, FROZEN), seed=seed)}
    if all(one.indices(NEAREST) for one in trained.values()):
        others[f"{NEAREST}, after {LAST}"] = effect_of(
            _pairs(trained, LOCATED, NEAREST, epochs=(LAST,)), seed=seed
        )
    if other_types := _other_types(_pairs(trained, LOCATED, BASE)):
        others["base, datasets of another type"] = effect_of(other_types, seed=seed)
    losses = {
        f"nats a token, {rival} minus located": effect_of(
            _pairs(trained, rival, LOCATED, "nll"), seed=seed
        ).estimate
        for rival in (RANDOM, OTHERS, BASE)
    }
    smallest = min(effects.values(), key=lambda effect: effect.estimate)
    return finding_of(
        study,
        trained,
        cell,
        claim,
        "change of the score on datasets not trained on: located minus random, minus others, or itself, the least",
        METHODS,
        **estimate_of(smallest),
        quantities={**part_quantities(effects), **beside("minus", others), **losses},
        p_values={
            **holm_parts(effects),
            "rank among draws": rank_among_draws(_pairs(trained, LOCATED, RANDOM)),
        },
    )


@ends_in_a_finding
def harmless_updating(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table4-harmless-updating``: each dataset not trained on, and general text, after the last epoch.

    A part for every pair of a dataset trained on and another tested, since harm hides behind averages, and for every
    dataset trained on one of general text, minus its nats a token. The estimate is the worst of them.
    """
    trained = _trained(study, cell)
    seed = study.settings.seed
    effects = {
        f"effect:{pair.tested} after {pair.trained}": effect_of([pair], seed=seed)
        for pair in _pairs(trained, LOCATED, BASE, epochs=(LAST,))
    }
    notes = []
    for name, one in trained.items():
        if len(one.base_text):
            pair = Pair(name, "text", -one.texts_of(LOCATED, LAST), -one.base_text[None])
            effects[f"effect:general text after {name}"] = effect_of([pair], scores=False, seed=seed)
    if not any("general text" in name for name in effects):
        notes.append("no general text could be had here: give a --data-root with counterfact or known_1000")
    rivals = {
        f"general text, nats a token, {arm}, after {name}": float(
            (one.texts_of(arm, LAST) - one.base_text).mean()
        )
        for name, one in trained.items()
        for arm in (RANDOM, OTHERS, FROZEN)
        if len(one.base_text) and one.indices(arm)
    }
    worst = min(effects.values(), key=lambda effect: effect.estimate)
    return finding_of(
        study,
        trained,
        cell,
        claim,
        "change elsewhere after training the located neurons, the worst (score, or nats of general text)",
        (LOCATED,),
        **estimate_of(worst),
        quantities={**part_quantities(effects), **rivals},
        notes=notes,
    )


def _trained(study: Study, cell: Cell) -> Trained:
    trained = all_enhancements(study, cell.sigma or 0)
    if all(set(one.datasets) <= {name} for name, one in trained.items()):
        raise NotRunError("needs a dataset that was not trained on; give another --dataset")
    return trained


def _pairs(
    trained: Trained, first: str, second: str, what: str = "score", epochs: tuple[int, ...] = EPOCHS
) -> list[Pair]:
    """All pairs of a dataset trained on and another one tested, outcomes averaged over ``epochs``."""
    return [
        Pair(
            name,
            tested,
            _outcomes(one, first, tested, what, epochs),
            _outcomes(one, second, tested, what, epochs),
        )
        for name, one in trained.items()
        for tested in one.datasets
        if tested != name
    ]


def _outcomes(one: Enhancements, arm: str, tested: str, what: str, epochs: tuple[int, ...]) -> np.ndarray:
    """``[runs, items]``."""
    if arm == BASE:
        base = one.base_score if what == "score" else one.base_nll
        return base[tested][None]
    return np.asarray(np.mean([one.of(arm, tested, epoch, what) for epoch in epochs], axis=0))


def _other_types(pairs: list[Pair]) -> list[Pair]:
    """Those in which the tested dataset is of another type (math, program, language) than the one trained on."""
    return [one for one in pairs if _type(one.tested) != _type(one.trained)]


def _type(dataset: str) -> str:
    return DATASETS[dataset].task if dataset in DATASETS else dataset


def _by_epoch(trained: Trained) -> dict[str, float]:
    """Each method's change after each number of epochs."""
    return {
        f"{method}, after {epoch}": float(
            np.mean([pair.differences.mean() for pair in _pairs(trained, method, BASE, epochs=(epoch,))])
        )
        for method in METHODS
        for epoch in EPOCHS
    }
