"""What training changes beside the scores that it is for: the loss, other datasets, general text (section 5.4).

Figure 9 (appendix F) and Table 4 (appendix G), of the runs that Table 2 has, `caploc.experiments.enhancement_runs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from caploc.datasets import DATASETS
from caploc.experiments.enhancement_arms import (
    EPOCHS,
    FROZEN,
    LAST,
    LOCATED,
    METHODS,
    NEAREST,
    OTHERS,
    RANDOM,
)
from caploc.experiments.enhancement_runs import Enhancements, Trained, on_trained
from caploc.experiments.evidence import asides, bound, difference, effect, effects, number
from caploc.experiments.specs import Need, NotRunError
from caploc.experiments.study import Study, family
from caploc.findings import Aside, Cell, Measurement, Part, Plot, Test
from caploc.papers import Claim
from caploc.statistics import Pair, effect_of, rank_among_draws, stratified_permutation

BASE = "base"
SIMULTANEOUS = 0.05
"""How often some interval of many, each for one pair of datasets, may miss."""


# ---------------------------------------------------------------------------------------------------------- Figure 9


@on_trained
def enhancement_loss(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fig9-enhancement-loss``: random minus located, nats a token of held-out answers after the last epoch.

    Held out are the evaluation items of the dataset trained on; the mean is over the datasets trained on. p exchanges
    the two arms' runs within each dataset and seed. The areas under the training curves stand beside.
    """
    seed = study.settings.seed
    pairs = _losses(trained, RANDOM)
    found = effect_of(pairs, drawn=True, seed=seed)
    shown: dict[str, Aside] = {
        f"random minus located, {pair.tested}": float(pair.differences.mean()) for pair in pairs
    }
    beside = [arm for arm in (OTHERS, FROZEN) if trained.has(arm)]
    for arm in beside:
        means = [pair.differences.mean() for pair in _losses(trained, arm)]
        shown[f"{arm} minus located"] = float(np.mean(means))
    area = _area(trained, RANDOM) - _area(trained, LOCATED)
    shown["random minus located, area under the training curve"] = area
    every = trained.by_dataset.items()
    return Measurement(
        "loss on held-out answers after training random neurons, minus that after the located ones",
        difference(found.estimate, found.interval, unit="nats"),
        {"loss": effect(found, _exchange_p(trained, seed), unit="nats")},
        effect_size=found.effect_size,
        asides=shown,
        controls={
            **{
                arm: float(np.mean([one.of(arm, name, LAST, "nll").mean() for name, one in every]))
                for arm in (LOCATED, RANDOM, *beside)
            },
            BASE: float(np.mean([one.base_nll[name].mean() for name, one in every])),
        },
        plots=_plots(study, trained, float(cell.sigma or 0)),
        floor=trained.divergence(LOCATED, RANDOM),
    )


def _losses(trained: Trained, rival: str) -> list[Pair]:
    """Located against a rival, minus the loss, so that the rival's runs are the second arm and the sign is right."""
    return [
        Pair(name, name, -one.of(LOCATED, name, LAST, "nll"), -one.of(rival, name, LAST, "nll"), False)
        for name, one in trained.by_dataset.items()
    ]


def _exchange_p(trained: Trained, seed: int) -> float:
    losses: list[float] = []
    labels: list[bool] = []
    strata: list[str] = []
    for name, one in trained.by_dataset.items():
        for arm in (LOCATED, RANDOM):
            for index in one.required(arm):
                losses.append(float(one.nll[name][index, -1].mean()))
                labels.append(arm == LOCATED)
                strata.append(f"{name}, seed {one.runs[index].seed}")
    return stratified_permutation(losses, labels, strata, alternative="less", seed=seed).p


def _area(trained: Trained, arm: str) -> float:
    """The mean of the training loss over all steps: the area under the curve, divided by its length."""
    means = [
        np.mean([one.losses[index].mean() for index in one.required(arm)])
        for one in trained.by_dataset.values()
    ]
    return float(np.mean(means))


def _plots(study: Study, trained: Trained, sigma: float) -> list[Plot]:
    if not study.settings.has_figures(sigma):
        return []
    plots = []
    for name, one in trained.by_dataset.items():
        curves = {}
        for arm in METHODS:
            loss = np.stack([one.nll[name][index].mean(-1) for index in one.required(arm)])
            curves[arm] = _curve(float(one.base_nll[name].mean()), loss)
        title = f"Fig. 9: loss on held-out answers of {name}, {study.early.model} at sigma {sigma:g}"
        plots.append(Plot("losses", title, {"x": [0, *EPOCHS], "curves": curves}))
    return plots


def _curve(start: float, runs: np.ndarray) -> dict[str, list[float]]:
    """Mean, lowest and highest of ``runs [runs, epochs]``; all start from the base."""
    ends = {"mean": runs.mean(0), "low": runs.min(0), "high": runs.max(0)}
    return {name: [start, *values.tolist()] for name, values in ends.items()}


# ----------------------------------------------------------------------------------------------------------- Table 4


def _needs_others(study: Study, cell: Cell, claim: Claim) -> Iterator[Need]:
    if len(study.early.available()) == 1:
        raise NotRunError("needs a dataset that was not trained on; give another --dataset")
    return Trained.needs(study, cell, claim)


def _with_others(study: Study, cell: Cell, claim: Claim) -> Trained:
    _needs_others(study, cell, claim)
    return Trained.of(study, cell, claim)


_on_others = family(_needs_others, _with_others, Trained.beside)
"""Claims about datasets that were not trained on."""


@_on_others
def table4_numbers(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table4-numbers``: the change of the score on datasets not trained on, of every method.

    The mean over all pairs of a dataset trained on and another one tested, after the last epoch (ambiguities
    ``untrained-datasets``, ``table4-average``); the value shown is that of the located neurons.
    """
    found = {method: effect_of(_pairs(trained, method, BASE), seed=study.settings.seed) for method in METHODS}
    located = found[LOCATED]
    return Measurement(
        "change of the score on datasets not trained on, located",
        difference(located.estimate, located.interval),
        {
            method: number(one.estimate, one.interval, at={"method": method, "dataset": "average"})
            for method, one in found.items()
        },
        effect_size=located.effect_size,
        floor=trained.divergence(*METHODS),
    )


@_on_others
def table4_located_best(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table4-located-best``: the located neurons' change, minus that of random ones, of all others, and itself.

    The same mean as ``table4-numbers``. Datasets of another type than the one trained on, nats a token (format can be
    learned without ability), random neurons nearest in magnitude and the others with the located frozen stand beside.
    The value shown is the least of the three.
    """
    seed = study.settings.seed
    changes = _pairs(trained, LOCATED, BASE)
    found = {
        "minus random": effect_of(_pairs(trained, LOCATED, RANDOM), drawn=True, seed=seed),
        "minus all but located": effect_of(_pairs(trained, LOCATED, OTHERS), seed=seed),
        "minus base": effect_of(changes, seed=seed),
    }
    others = {
        arm: effect_of(_pairs(trained, LOCATED, arm), seed=seed)
        for arm in (FROZEN, NEAREST)
        if trained.has(arm)
    }
    if other_types := [one for one in changes if _type(one.tested) != _type(one.trained)]:
        others["base, datasets of another type"] = effect_of(other_types, seed=seed)
    losses = {
        f"nats a token, {rival} minus located": effect_of(
            _pairs(trained, rival, LOCATED, "nll"), seed=seed
        ).estimate
        for rival in (RANDOM, OTHERS, BASE)
    }
    least = min(found.values(), key=lambda one: one.estimate)
    return Measurement(
        "change of the score on datasets not trained on: located minus random, minus others, or itself, the least",
        difference(least.estimate, least.interval),
        effects(found),
        effect_size=least.effect_size,
        asides={
            **asides(others, "minus "),
            **losses,
            "rank among draws": Test(p=rank_among_draws(_pairs(trained, LOCATED, RANDOM))),
        },
        floor=trained.divergence(*METHODS),
    )


@_on_others
def harmless_updating(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table4-harmless-updating``: what was not trained on, after the last epoch: other datasets, as Table 4
    averages them, and general text, minus its nats a token.

    Since harm hides behind averages there is a Bound for every pair of a dataset trained on and another tested, and for
    general text after every dataset trained on, whose intervals hold for all pairs or texts together (Bonferroni). The
    value shown is the change on other datasets.
    """
    seed = study.settings.seed
    pairs = _pairs(trained, LOCATED, BASE)
    texts = [
        Pair(name, "text", -one.texts_of(LOCATED, LAST), -one.base_text[None], False)
        for name, one in trained.by_dataset.items()
        if len(one.base_text)
    ]
    found = {"other datasets": effect_of(pairs, seed=seed)}
    parts = {"other datasets": effect(found["other datasets"])}
    if texts:
        found["general text"] = effect_of(texts, seed=seed)
        parts["general text"] = effect(found["general text"], unit="nats")
    single: dict[str, Part] = {}
    for group, unit in ((pairs, "fraction"), (texts, "nats")):
        for pair in group:
            one = effect_of([pair], seed=seed, level=1 - SIMULTANEOUS / len(group))
            tested = pair.tested if unit == "fraction" else "general text"
            single[f"{tested} after {pair.trained}"] = bound(one.estimate, one.interval, unit=unit)
    rivals = {
        f"general text, nats a token, {arm}, after {name}": float(
            (one.texts_of(arm, LAST) - one.base_text).mean()
        )
        for name, one in trained.by_dataset.items()
        for arm in (RANDOM, OTHERS, FROZEN)
        if len(one.base_text) and one.indices(arm)
    }
    change = found["other datasets"]
    return Measurement(
        "change of the score on datasets not trained on, after training the located neurons",
        difference(change.estimate, change.interval),
        {
            **{name: replace(one, p=None) for name, one in parts.items()},  # p asks for a gain: not claimed
            **single,
        },
        effect_size=change.effect_size,
        asides=rivals,
        notes=[]
        if texts
        else ["no general text could be had here: give a --data-root with counterfact or known_1000"],
        floor=trained.divergence(LOCATED),
    )


def _pairs(trained: Trained, first: str, second: str, what: str = "score") -> list[Pair]:
    """All pairs of a dataset trained on and another one tested, after the last epoch."""
    return [
        Pair(
            name,
            tested,
            _outcomes(one, first, tested, what),
            _outcomes(one, second, tested, what),
            what == "score",
        )
        for name, one in trained.by_dataset.items()
        for tested in one.datasets
        if tested != name
    ]


def _outcomes(one: Enhancements, arm: str, tested: str, what: str) -> np.ndarray:
    """``[runs, items]``."""
    if arm == BASE:
        base = one.base_score if what == "score" else one.base_nll
        return base[tested][None]
    return one.of(arm, tested, LAST, what)


def _type(dataset: str) -> str:
    """Math, program, language."""
    return DATASETS[dataset].task if dataset in DATASETS else dataset
