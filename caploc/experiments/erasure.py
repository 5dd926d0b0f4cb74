"""Section 5.4, Table 3: does erasing the located neurons cost the ability that they were located with?

The experiments of Table 3's numbers, of the claim that located neurons matter more than as many others, and of the
trend over sigma. `caploc.experiments.erasure_sets` names what is erased and what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from caploc import statistics as stats
from caploc.experiments.erasure_sets import (
    FEW_SETS,
    LARGEST,
    LAYER,
    LOCATED,
    MAGNITUDE,
    TWIN,
    UNIFORM,
    ErasedWithLoss,
    Erasures,
    FewErased,
    LocatedErased,
    nothing_located,
)
from caploc.experiments.evaluating import EvaluationItems, Items, in_datasets
from caploc.experiments.evidence import asides, bound, difference, effect, finite
from caploc.experiments.locating import located_mask
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.experiments.study import Study, experiment
from caploc.findings import Aside, Cell, Measurement, Plot, Test
from caploc.papers import Claim

AVERAGE = "average"
COLUMNS = ("gsm8k", "emotion", "code25k")
"""The datasets of Table 3, which its column "average" is the mean of."""
SIGMAS = (12.0, 6.0, 3.0)
"""Weakest erasure first."""
FEW_NEURONS, LOWER_SIGMA = 10, 2.0
"""Where fewer neurons are located, a lower sigma stands beside."""
WHOSE = (
    "Table 3 does not say whose neurons a column erases: here each dataset is evaluated without the neurons located on "
    "its own locating part"
)
Specs = Iterator[Spec[Any]]


# ------------------------------------------------------------------------------------------ the numbers of Table 3


@experiment(lambda study, cell, claim: map(Items, [cell.dataset] if cell.dataset else study.available()))
def base(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table3-base``: the score of the untouched model on one dataset; without one, the average column."""
    quantity = "score of the untouched model"
    if cell.dataset is None:
        return _average(study, quantity, lambda one: one.base["score"])
    items = study.result(Items(cell.dataset))
    return Measurement(
        quantity,
        bound(
            items.base["score"].mean(),
            stats.score_interval(items.base["score"], items.clusters, study.settings.seed),
            "items",
            n=len(items),
        ),
        chance=items.chance,
        asides={"nats a token of the answers": float(items.base["nll"].mean())},
        n=len(items),
        basis=[items],
        floor=items.floor,
    )


def _needs_erase(study: Study, cell: Cell, claim: Claim) -> Specs:
    sigma = float(cell.sigma or 0)
    yield from (
        LocatedErased(name, sigma) for name in ([cell.dataset] if cell.dataset else study.available())
    )
    if cell.dataset:
        yield ErasedWithLoss(cell.dataset, sigma)


@experiment(_needs_erase)
def erase(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table3-erase``: the score on a dataset without the neurons that its own locating part gives at sigma;
    without a dataset, the average column."""
    sigma = float(cell.sigma or 0)
    quantity = f"score without the neurons located at sigma {sigma:g}"
    if cell.dataset is None:
        return _average(
            study, quantity, lambda one: study.result(LocatedErased(one.dataset, sigma))["score"], [WHOSE]
        )
    items, mask = study.result(Items(cell.dataset)), located_mask(study, cell.dataset, sigma)
    if mask.count == 0:
        raise nothing_located(cell.dataset, sigma)
    score = study.result(LocatedErased(cell.dataset, sigma))["score"]
    shown: dict[str, float] = {f"neurons located, {cell.dataset}": float(mask.count)}
    controls: dict[str, float] = {}
    if items.floor is None:
        found = study.result(ErasedWithLoss(cell.dataset, sigma))
        shown, controls = dict(outcomes_beside(found)), magnitudes(found)
    return Measurement(
        quantity,
        bound(
            score.mean(),
            stats.score_interval(score, items.clusters, study.settings.seed),
            "items",
            n=len(items),
        ),
        chance=items.chance,
        asides=shown,
        controls=controls,
        n=len(items),
        draws=study.settings.draws,
        basis=[items],
        notes=[WHOSE, *([items.floor] if items.floor else [])],
        floor=items.floor,
    )


def _needs_all_with_loss(study: Study, cell: Cell, claim: Claim) -> Specs:
    yield from (ErasedWithLoss(name, float(cell.sigma or 0)) for name in study.available())


@experiment(_needs_all_with_loss)
def random(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table3-random``: the change of the score under random sets matched by layer, on a dataset; without one,
    the mean over all on which the score can fall.

    A set erased on a dataset matches what that dataset locates. The intervals are of the mean over sets and items,
    drawn two ways. Uniform sets and sets matched in magnitude stand beside.
    """
    found, left_out = _able(study, cell)
    changes: dict[str, stats.Change] = {}
    shown: dict[str, Aside] = {}
    for dataset, one in found.items():
        for arm in (LAYER, UNIFORM, MAGNITUDE):
            if arm in one.arms.sets:
                change = stats.change_of_random(
                    one.own.base["score"], one.of(dataset, arm), one.own.clusters, study.settings.seed
                )
                if arm == LAYER:
                    changes[dataset] = change
                else:
                    shown[f"{arm}, {dataset}"] = effect(change)
        shown[f"lowest score of a set by layer, {dataset}"] = float(one.of(dataset, LAYER).mean(1).min())
        shown[f"neurons erased, {dataset}"] = float(one.arms.located.count)
    mean = stats.average_change(list(changes.values()))
    if cell.dataset is None:
        shown |= asides(changes)
    return Measurement(
        "score without random neurons minus base score",
        difference(mean.estimate, mean.interval),
        {cell.dataset or AVERAGE: effect(mean)},
        asides=shown,
        n=sum(len(one.own) for one in found.values()),
        draws=min(FEW_SETS, study.settings.draws),
        basis=[one.own for one in found.values()],
        notes=[WHOSE, "intervals: two-way bootstrap over random sets and items", *left_out],
        plots=_plots(study, cell, found, "random"),
    )


def _average(
    study: Study,
    quantity: str,
    score_of: Callable[[EvaluationItems], np.ndarray],
    notes: Sequence[str] = (),
) -> Measurement:
    items = in_datasets(study, Items)
    missing = [dataset for dataset in COLUMNS if dataset not in items]
    if missing:
        raise NotRunError(
            f"the average column of Table 3 is over {', '.join(COLUMNS)}, and {', '.join(missing)} is not in this run; "
            "add --dataset"
        )
    scores = {dataset: score_of(items[dataset]) for dataset in COLUMNS}
    n = sum(score.size for score in scores.values())
    return Measurement(
        f"{quantity}, average over {', '.join(COLUMNS)}",
        bound(
            np.mean([score.mean() for score in scores.values()]),
            stats.average_interval(list(scores.values()), study.settings.seed),
            "the items of each dataset",
            n=n,
        ),
        asides={f"score, {name}": float(score.mean()) for name, score in scores.items()},
        n=n,
        basis=[items[dataset] for dataset in COLUMNS],
        notes=notes,
        column=AVERAGE,
    )


# ----------------------------------------------------------------------------- located against as many other neurons


def _needs_harm(study: Study, cell: Cell, claim: Claim) -> Specs:
    sigma = float(cell.sigma or 0)
    yield from _needs_all_with_loss(study, cell, claim)
    yield from (FewErased(name, sigma, LOWER_SIGMA, FEW_NEURONS) for name in study.available())


@experiment(_needs_harm)
def located_hurts_more(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claims ``table3-located-hurts-more`` and, with a dataset, ``table3-located-hurts-more-each``: the score without
    random neurons minus that without the located ones.

    Of each dataset, the neurons located on its locating part; datasets whose base is at floor, or that locate nothing
    at sigma, are named and left out. Random sets matched by layer decide, by the rank of the located set on the first
    items and by signs of items (`caploc.statistics.compare_with_random`). On one dataset p is Holm-corrected over all
    of them; without one the effect is the mean over them, and p_sets deals out, dataset by dataset, which set is the
    located one. Uniform sets, sets matched in magnitude, the largest neurons and the loss in nats stand beside.
    """
    seed = study.settings.seed
    every, left_out = with_something_to_lose(study, float(cell.sigma or 0))
    found, _ = _able(study, cell)
    by_dataset = {name: lost_more(one, LAYER, seed=seed) for name, one in every.items()}
    if cell.dataset is None:
        decisive = {AVERAGE: _pooled(list(every.values()), seed)}
    else:
        decisive = {cell.dataset: by_dataset[cell.dataset]}
    corrected = stats.holm_parts(by_dataset)
    compared: dict[str, stats.Effect] = {}
    shown: dict[str, Aside] = {}
    for name, one in found.items():
        for arm in (UNIFORM, MAGNITUDE, LARGEST, TWIN):
            if arm in one.arms.sets:
                compared[f"more than {arm}, {name}"] = lost_more(one, arm, seed=seed)
        compared[f"nats more than by layer, {name}"] = lost_more(one, LAYER, "nll", seed)
        shown |= {**outcomes_beside(one), **_lower(study, one), **_mcnemar(one)}
        if cell.dataset is None:
            shown[name] = effect(by_dataset[name], corrected[name])
    ((name, own),) = decisive.items()
    return Measurement(
        "score without random neurons minus score without the located ones",
        difference(own.estimate, own.interval),
        {name: effect(own, corrected.get(name))},
        effect_size=own.effect_size,
        asides={**asides(compared), **shown},
        controls={name: value for one in found.values() for name, value in magnitudes(one).items()},
        n=sum(len(one.own) for one in found.values()),
        draws=min(len(one.ranked) for one in found.values()),
        basis=[one.own for one in found.values()],
        notes=[WHOSE, *(note for one in found.values() for note in one.arms.notes), *left_out],
        plots=_plots(study, cell, found, "located and random"),
    )


def _able(study: Study, cell: Cell) -> tuple[dict[str, Erasures], list[str]]:
    """`with_something_to_lose`, of the cell's dataset alone where it has one. Raises as `ErasedWithLoss` does."""
    sigma = float(cell.sigma or 0)
    if cell.dataset is None:
        return with_something_to_lose(study, sigma)
    return {cell.dataset: study.result(ErasedWithLoss(cell.dataset, sigma))}, []


def _pooled(found: Sequence[Erasures], seed: int) -> stats.Effect:
    """The mean over datasets of what they lose more without the located neurons than without random ones."""

    def pair(one: Erasures, located: np.ndarray, random: np.ndarray) -> stats.Pair:
        return stats.Pair(one.located_on, one.located_on, -located, -random)

    pairs = [pair(one, one.of(one.located_on, LOCATED), one.of(one.located_on, LAYER)) for one in found]
    ranked = [
        pair(one, one.of(one.located_on, LOCATED)[:, : one.ranked.shape[1]], one.ranked) for one in found
    ]
    effect_found = stats.effect_of(pairs, drawn=True, seed=seed)
    return replace(effect_found, p_sets=stats.sets_p(ranked, seed))


def with_something_to_lose(study: Study, sigma: float) -> tuple[dict[str, Erasures], list[str]]:
    """The erasures of every dataset whose base score can fall and that locates something, and why others are left out.

    Raises:
        FloorError: none is left; the message names every floor.
    """
    found, left_out = {}, []
    for dataset in in_datasets(study, Items):
        try:
            found[dataset] = study.result(ErasedWithLoss(dataset, sigma))
        except FloorError as error:
            left_out.append(str(error))
    if not found:
        raise FloorError("; ".join(left_out) or "no dataset of the study can be evaluated on here")
    return found, left_out


def lost_more(one: Erasures, arm: str, outcome: str = "score", seed: int = 0) -> stats.Effect:
    """How much more the located set's dataset loses without it than without the ``arm``'s sets: points of the score, or
    with ``nll`` nats a token. Against an arm of one set items alone are uncertain."""
    sign = 1 if outcome == "nll" else -1
    located = sign * one.of(one.located_on, LOCATED, outcome)[0]
    others = sign * one.of(one.located_on, arm, outcome)
    clusters = list(one.own.clusters)
    if len(others) == 1:
        found = stats.compare_pairs(located, others[0], clusters=clusters, seed=seed)
    else:
        found = stats.compare_with_random(located, others, clusters=clusters, seed=seed)
    if outcome == "nll":
        return found
    if arm == LAYER:
        first = one.ranked.shape[1]
        p = stats.permutation_p(float(located[:first].mean()), -one.ranked.mean(1))
        found = replace(found, p_sets=p, draws=len(one.ranked))
    return stats.at_least_adjusted(found, located - others.mean(0), clusters=clusters)


def _mcnemar(one: Erasures) -> dict[str, float]:
    """The share of draws against which the located set's loss is significant by itself (exact McNemar, one-sided),
    where items are right or wrong."""
    located, others = (one.of(one.located_on, arm) for arm in (LOCATED, LAYER))
    if not (np.isin(located, (0, 1)).all() and np.isin(others, (0, 1)).all()):
        return {}
    p = [stats.mcnemar(draw > 0, located[0] > 0, alternative="greater").p for draw in others]
    share = float(np.mean(np.array(p) < one.own.level))
    return {f"draws against which McNemar is significant, {one.located_on}": share}


def _lower(study: Study, one: Erasures) -> dict[str, Aside]:
    """What a lower sigma does, where few neurons are located."""
    dataset = one.located_on
    try:
        located, others = study.result(FewErased(dataset, one.sigma, LOWER_SIGMA, FEW_NEURONS))
    except FloorError:
        return {}
    more = stats.compare_with_random(
        -located, -others, clusters=list(one.own.clusters), seed=study.settings.seed
    )
    at = f"at sigma {LOWER_SIGMA:g}, {dataset}"
    return {
        f"neurons located {at}": float(located_mask(study, dataset, LOWER_SIGMA).count),
        f"score, located {at}": float(located.mean()),
        f"score, by layer {at}": float(others.mean()),
        f"more than by layer {at}": effect(more),
    }


# --------------------------------------------------------------------------------------- general text, which is spared


@experiment(lambda study, cell, claim: [ErasedWithLoss(cell.dataset, float(cell.sigma or 0))])
def spares_text(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table3-spares-general-text``: nats a token that the dataset's own answers lose without the located
    neurons, minus those that general text loses (``own``); and what general text loses (``other``).

    Answers and texts are different items, so that the intervals of the two losses are joined and p deals out anew
    which of them are answers.
    """
    found = study.result(ErasedWithLoss(cell.dataset or "", float(cell.sigma or 0)))
    if not found.text:
        raise NotRunError(
            "no general text could be had here: give a --data-root with counterfact or known_1000"
        )
    seed = study.settings.seed
    answers = found.of(found.located_on, LOCATED, "nll")[0] - found.own.base["nll"]
    texts = (found.text[LOCATED] - found.text["base"])[0]
    own, other = _loss(answers, seed, found.own.clusters), _loss(texts, seed)
    more = stats.difference_of(own, other)
    labels = [True] * len(answers) + [False] * len(texts)
    p = stats.stratified_permutation(
        [*answers, *texts], labels, [""] * len(labels), alternative="greater", seed=seed
    ).p
    return Measurement(
        "nats lost on the dataset's answers minus those lost on general text, without the located neurons",
        difference(more.estimate, more.interval, unit="nats"),
        {"own": effect(more, p, unit="nats"), "other": effect(other, unit="nats")},
        asides={"nats lost on the dataset's answers": effect(own, unit="nats"), **outcomes_beside(found)},
        n=len(answers) + len(texts),
        basis=[found.own],
        notes=[f"{len(texts)} general texts: sentences of facts"],
    )


def _loss(lost: np.ndarray, seed: int, clusters: Sequence[str] | None = None) -> stats.Change:
    """The mean of nats lost, with bootstraps over items, which of two dozen texts alone would be too narrow."""
    units = None if clusters is None else list(clusters)
    ends = [
        stats.bootstrap_mean(lost, level, seed=seed, clusters=units, expand=True) for level in (0.95, 0.90)
    ]
    return stats.Change(float(lost.mean()), *ends)


# ---------------------------------------------------------------------------------------------- the trend over sigma


@experiment(lambda study, cell, claim: [LocatedErased(cell.dataset, sigma) for sigma in SIGMAS])
def sigma_trend(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table3-sigma-trend``: the loss of score at sigma 12, 6 and 3, whatever sigmas the run asks for.

    Where nothing passes a sigma, nothing is erased and nothing lost. A loss that falls from one sigma to the next lower
    one is a reversal (`caploc.statistics.compare_doses`). The loss in nats stands beside.
    """
    dataset, seed = cell.dataset or "", study.settings.seed
    items = study.result(Items(dataset))
    if items.floor is not None:
        raise FloorError(items.floor)
    counts = [located_mask(study, dataset, sigma).count for sigma in SIGMAS]
    if not any(counts):
        raise nothing_located(dataset, SIGMAS[-1])
    outcomes = [study.result(LocatedErased(dataset, sigma)) for sigma in SIGMAS]
    lost = np.stack([items.base["score"] - one["score"] for one in outcomes])
    nats = np.stack([one["nll"] - items.base["nll"] for one in outcomes])
    response = stats.compare_doses(lost, clusters=list(items.clusters), seed=seed)
    in_nats = stats.compare_doses(nats, clusters=list(items.clusters), seed=seed)
    shown: dict[str, Aside] = {"rise of the nats lost": in_nats.step}
    shown |= {f"{name}, nats": Test(p=p) for name, p in in_nats.p_values.items()}
    for sigma, count, points, loss in zip(SIGMAS, counts, lost, nats, strict=True):
        shown[f"neurons located, sigma {sigma:g}"] = float(count)
        shown[f"loss of score, sigma {sigma:g}"] = float(points.mean())
        shown[f"nats lost, sigma {sigma:g}"] = float(loss.mean())
    return Measurement(
        "mean rise of the loss from one sigma to the next lower one",
        difference(response.step, response.interval, "items", n=len(items)),
        {name: Test(p=p) for name, p in response.p_values.items()},
        asides=shown,
        n=len(items),
        basis=[items],
        notes=[WHOSE],
    )


# ------------------------------------------------------------------------------------------- what stands beside them


def outcomes_beside(one: Erasures) -> dict[str, float]:
    """Counts, losses and mean magnitudes of an erasure on the dataset it was located on, by names that end in it."""
    name = one.located_on
    base = one.own.base
    found = {
        f"neurons located, {name}": float(one.arms.located.count),
        f"base score, {name}": float(base["score"].mean()),
        f"chance, {name}": one.own.chance,
    }
    for arm in one.arms.sets:
        found[f"score, {arm}, {name}"] = float(one.of(name, arm).mean())
        found[f"nats lost, {arm}, {name}"] = float((one.of(name, arm, "nll") - base["nll"]).mean())
    for arm in (LOCATED, LAYER, LARGEST):
        if one.text:
            lost = float((one.text[arm] - one.text["base"]).mean())
            found[f"nats lost on general text, {arm}, {name}"] = lost
    found[f"answers that do not end, located, {name}"] = float(1 - one.of(name, LOCATED, "ended").mean())
    return found


def magnitudes(one: Erasures) -> dict[str, float]:
    """How large the neurons of every arm's sets are, over those located."""
    own = float(one.arms.magnitude[LOCATED][0])
    return finite(
        {
            f"magnitude over that of the located, {arm}, {one.located_on}": float(np.mean(values)) / own
            for arm, values in one.arms.magnitude.items()
            if arm != LOCATED
        }
    )


def _plots(study: Study, cell: Cell, found: Mapping[str, Erasures], which: str) -> list[Plot]:
    """Scores of every random set matched by layer, and those of the single sets, dataset by dataset."""
    sigma = float(cell.sigma or 0)
    if not study.settings.has_figures(sigma):
        return []
    marks: dict[str, dict[str, float]] = {}
    for dataset, one in found.items():
        marks.setdefault("untouched", {})[dataset] = float(one.own.base["score"].mean())
        for arm in (LOCATED, LARGEST, TWIN):
            if arm in one.arms.sets:
                marks.setdefault(arm, {})[dataset] = float(one.of(dataset, arm).mean())
    data = {
        "groups": {dataset: one.of(dataset, LAYER).mean(1).tolist() for dataset, one in found.items()},
        "marks": marks,
        "chance": {dataset: one.own.chance for dataset, one in found.items()},
        "axis": "score; one dot a random set matched by layer",
    }
    return [Plot("splits", f"Scores without {which} neurons, {study.model} at sigma {sigma:g}", data)]
