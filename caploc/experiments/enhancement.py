"""Section 5.4, Table 2: does training the located neurons teach more than training others?

The datasets trained on are tested here, each on its own evaluation items; the loss and what training does to other
datasets is in `caploc.experiments.enhancement_elsewhere`. What is trained stands in
`caploc.experiments.enhancement_arms`, the runs in `caploc.experiments.enhancement_runs`, and how arms are compared in
`caploc.statistics.arms` and `caploc.statistics.best`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from caploc import statistics as stats
from caploc.experiments.enhancement_arms import (
    EPOCHS,
    FROZEN,
    LAST,
    LOCATED,
    METHODS,
    NEAREST,
    OTHERS,
    RANDOM,
    UNIFORM,
)
from caploc.experiments.enhancement_runs import (
    Enhancements,
    Trained,
    checkpoint,
    on_trained,
    trained_datasets,
)
from caploc.experiments.evidence import asides, bound, difference, effect, effects, number
from caploc.experiments.locating import Scores, to_split
from caploc.experiments.specs import FloorError, Need, NotRunError
from caploc.experiments.study import Study, experiment, family
from caploc.findings import Aside, Cell, Measurement, Number, Part, Test
from caploc.papers import Claim
from caploc.streams import Stream, stream

AVERAGE = "average"
SIGMAS = (3.0, 6.0)
"""Those that one share of neurons is printed for."""


def _with_scores(trained: Trained, found: Measurement) -> Measurement:
    """With the average scores of every arm after the last epoch, of the base and of guessing."""
    return replace(trained.beside(found), chance=_chance(trained), controls=_scores_beside(trained))


_on_able = family(
    Trained.needs,
    lambda study, cell, claim: with_an_ability(Trained.of(study, cell, claim), claim),
    _with_scores,
)
"""Claims about what was trained, where arms can be told apart."""


# ------------------------------------------------------------------------------------------ the numbers of Table 2


@on_trained
def table2_numbers(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claims ``table2-numbers`` and ``table2-numbers-code25k``: the score of every method after every number of epochs,
    on a dataset or, without one, on average.

    The value shown is the located neurons' after the last epoch.
    """
    own = _tested_on(trained, cell)
    found = {
        (method, epoch, own): _scores_of(trained, method, epoch, study.settings.seed)[own]
        for method in METHODS
        for epoch in EPOCHS
    }
    located = found[LOCATED, LAST, own]
    return Measurement(
        f"score after {LAST} epochs of training the located neurons, {own}",
        bound(located.estimate, located.interval),
        {
            f"{method}, {after(epoch)}, {name}": number(
                one.estimate, one.interval, at={"method": method, "epoch": epoch, "dataset": name}
            )
            for (method, epoch, name), one in found.items()
        },
        floor=trained.divergence(*METHODS),
    )


@experiment(lambda study, *_: [Need(study.early, Scores(name)) for name in trained_datasets(study.early)])
def param_share(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table2-param-share``: located over all neurons at sigma 3 and at sigma 6, mean over what is trained on.

    The paper's models are judged at both sigmas whatever the run's (ambiguity ``one-share-for-all``), others measured;
    the value shown is the share at the cell's own. Intervals are bootstraps over shards, within each dataset.
    """
    early = study.early
    names, own = trained_datasets(early), cell.sigma or SIGMAS[-1]
    draws = {sigma: _shares(early, names, sigma) for sigma in dict.fromkeys((*SIGMAS, own))}
    shares = {
        sigma: bound(
            found[0].mean(),
            stats.percentile_interval(found[1:].mean(1), 0.95),
            "shards",
            unit="share",
        )
        for sigma, found in draws.items()
    }
    parts: dict[str, Part] = {
        f"located-sigma{sigma:g}": Number(shares[sigma].estimate, shares[sigma].interval, unit="share")
        for sigma in SIGMAS
    }
    ends = np.array([shares[sigma].interval for sigma in SIGMAS])
    rest = 1 - float(ends.max()), 1 - float(ends.min())
    parts["all-but-located"] = Number(
        interval=rest, unit="share", method="from the lowest to the highest of both"
    )
    shown = {
        f"located at sigma {sigma:g}, {name}": float(found[0, index])
        for sigma, found in draws.items()
        for index, name in enumerate(names)
    }
    return Measurement(
        "share of the neurons that is located and trained",
        shares[own],
        parts,
        asides=shown,
        n=sum(len(early.located(name).tokenized) for name in names),
        draws=early.settings.draws,
        settings={**checkpoint(study), "trained_on": names},
        notes=[f"{early.model}, an early checkpoint, is located, as it is the one trained"]
        if early is not study
        else [],
    )


def _shares(study: Study, names: Sequence[str], sigma: float) -> np.ndarray:
    """``[1 + draws, datasets]`` shares of the whole sets, then of their bootstraps."""
    generator = stream(Stream.TRAINED_SHARE, study.settings.seed)
    columns = []
    for name in names:
        shards = to_split(study.result(Scores(name)), study.settings.threshold(sigma))
        located = stats.resampled_masks(shards, study.settings.draws, generator)
        columns.append(located.reshape(len(located), -1).mean(1))
    return np.stack(columns, axis=1)


# ---------------------------------------------------------------------------------------- located against other arms


@_on_able
def located_beats_random(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claims ``table2-located-beats-random``, on average, and ``table2-located-beats-random-each``, on a dataset, p
    then Holm-corrected over datasets: scores after the last epoch.

    Random neurons are matched by layer; see `caploc.statistics.arms` for the sampling error of few draws. Those
    nearest in magnitude and uniform ones stand beside, as do the rank among the draws and nats a token.
    """
    seed = study.settings.seed
    found = _by_dataset(trained, LOCATED, RANDOM, seed, drawn=True)
    shown: dict[str, Aside] = {}
    for arm in (NEAREST, UNIFORM):
        if trained.has(arm):
            shown |= asides(_by_dataset(trained, LOCATED, arm, seed), f"minus {arm}, ")
    losses = _by_dataset(trained, RANDOM, LOCATED, seed, what="nll")
    shown |= {f"nats a token, {name}": one.estimate for name, one in losses.items()}
    shown[f"rank among draws, {AVERAGE}"] = Test(
        p=stats.rank_among_draws(_own_pairs(trained, LOCATED, RANDOM, LAST))
    )
    for name, run in trained.by_dataset.items():
        shown |= _mcnemar(name, run.of(LOCATED, name, LAST), run.of(RANDOM, name, LAST))
    name = _tested_on(trained, cell)
    own, datasets = found[name], {one: found[one] for one in trained.by_dataset}
    by_dataset = effects(datasets)
    return Measurement(
        f"score after {LAST} epochs, located minus random, {name}",
        difference(own.estimate, own.interval),
        {name: by_dataset.get(name) or effect(own)},
        effect_size=own.effect_size,
        asides={**{one: part for one, part in by_dataset.items() if one != name}, **shown},
        floor=trained.divergence(LOCATED, RANDOM),
    )


@_on_able
def located_beats_others(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table2-located-beats-wo-located``: average scores after 1, 5 and 10 epochs, located minus all others.

    The located neurons are zero in the others' arm, as printed; the arm that leaves them as they are stands beside.
    """

    def minus(arm: str) -> dict[str, stats.Effect]:
        pairs = {after(epoch): _own_pairs(trained, LOCATED, arm, epoch) for epoch in EPOCHS}
        return {name: stats.effect_of(some, seed=study.settings.seed) for name, some in pairs.items()}

    found = minus(OTHERS)
    last = found[after(LAST)]
    return Measurement(
        f"average score after {LAST} epochs, located minus all but located",
        difference(last.estimate, last.interval),
        effects(found),
        effect_size=last.effect_size,
        asides=asides(minus(FROZEN), "minus the others, located frozen, ") if trained.has(FROZEN) else {},
        floor=trained.divergence(LOCATED, OTHERS),
    )


@_on_able
def located_best_average(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table2-located-best-average``: the located neurons' average minus the better of the two other methods',
    in every column and on average over the columns.

    The columns are the numbers of epochs at the cell's sigma. Random stands with the mean of its draws, as the table
    has one number for it. With the located neurons frozen in place of zeroed it stands beside.
    """

    def arrays(arm: str) -> list[np.ndarray]:
        """For each dataset ``[runs, epochs, items]``."""
        return [one.score[name][one.required(arm)] for name, one in trained.by_dataset.items()]

    seed = study.settings.seed
    best = stats.best_of({arm: arrays(arm) for arm in METHODS}, seed)
    mean, narrow = best.mean, best.mean.interval90
    shown: dict[str, Aside] = {}
    if trained.has(FROZEN):
        fair = stats.best_of({arm: arrays(arm) for arm in (LOCATED, RANDOM, FROZEN)}, seed)
        frozen = "located frozen in the others' arm"
        leads = zip(EPOCHS, fair.estimates, strict=True)
        shown = {f"{frozen}, {after(epoch)}": one for epoch, one in leads} | {
            f"best, {frozen}": Test(p=fair.p)
        }
    columns = zip(EPOCHS, best.estimates, best.intervals, best.intervals90, strict=True)
    parts: dict[str, Part] = {
        after(epoch): effect(stats.Change(estimate, interval, interval90))
        for epoch, estimate, interval, interval90 in columns
    }
    return Measurement(
        f"average score after {LAST} epochs, located minus the better rival",
        difference(best.estimates[-1], best.intervals[-1], "items and runs, the better rival chosen anew"),
        {
            **parts,
            "best": Test(p=best.p),
            "mean lead": bound(mean.estimate, mean.interval, interval90=(narrow.low, narrow.high)),
        },
        asides=shown,
        floor=trained.divergence(*METHODS),
    )


@on_trained
def small_portion_suffices(trained: Trained, study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``table2-small-portion-suffices``: the located neurons' scores minus the base's and minus chance, on a
    dataset or, without one, on average over those with something to gain.

    Chance is a part only where an answer can be guessed. Where answers are right or wrong its p is that of the exact
    binomial test, of the seed with the fewest right answers. A dataset on which the base leaves no more to gain than
    the least gain that counts is left out and named: a gain could not show there. The value shown is the least gain.
    """
    found: dict[str, stats.Effect] = {}
    shown: dict[str, Aside] = {}
    notes: list[str] = []
    asked = _tested_on(trained, cell)
    kept = trained.by_dataset if asked == AVERAGE else {asked: trained.by_dataset[asked]}
    over: dict[str, list[stats.Pair]] = {}
    for name, one in kept.items():
        scores, base = one.of(LOCATED, name, LAST), one.base_score[name][None]
        if (ceiling := _ceiling(name, one, claim)) is not None:
            notes.append(ceiling)
            continue
        notes.append(_room(name, one))
        found[f"{name}, over base"] = _over(name, scores, base, study.settings.seed)
        over.setdefault("over base", []).append(stats.Pair(name, name, scores, base))
        shown |= _mcnemar(f"{name}, over base", scores, base)
        if (chance := one.chance[name]) > 0:
            level = np.full_like(base, chance)
            guessed = _over(name, scores, level, study.settings.seed)
            right_or_wrong = np.isin(scores, (0, 1)).all()
            found[f"{name}, over chance"] = (
                replace(guessed, p_items=stats.binomial_p(scores, chance)) if right_or_wrong else guessed
            )
            over.setdefault("over chance", []).append(stats.Pair(name, name, scores, level))
    if not found:
        raise FloorError("; ".join(notes))
    if asked == AVERAGE:
        shown |= effects(found)
        found = {
            f"{AVERAGE}, {what}": stats.effect_of(pairs, seed=study.settings.seed)
            for what, pairs in over.items()
        }
    shown |= {f"share of neurons, {name}": one.located.ratio for name, one in trained.by_dataset.items()}
    least = min(found.values(), key=lambda one: one.estimate)
    return Measurement(
        f"score after {LAST} epochs of training the located neurons, minus base or chance, the least gain",
        difference(least.estimate, least.interval),
        effects(found),
        effect_size=least.effect_size,
        chance=_chance(trained),
        asides=shown,
        controls=_scores_beside(trained),
        notes=notes,
        floor=trained.divergence(LOCATED),
    )


def _tested_on(trained: Trained, cell: Cell) -> str:
    """The cell's dataset, or the average.

    Raises:
        FloorError: the dataset was left out, and why.
        NotRunError: it is none of those that are trained on.
    """
    if cell.dataset is None or cell.dataset in trained.by_dataset:
        return cell.dataset or AVERAGE
    if trained.left_out:
        raise FloorError("; ".join(trained.left_out))
    raise NotRunError(
        f"{cell.dataset} is not trained on: Table 2 has {', '.join(trained.by_dataset)}, and those alone are where a "
        "run has any of them"
    )


def with_an_ability(trained: Trained, claim: Claim) -> Trained:
    """The datasets on which the base or some method after the last epoch is above chance, and the base leaves more than
    the least gain that counts: where all guess, or all are right, arms cannot be told apart.

    Raises:
        FloorError: none is left.
    """
    found: dict[str, Enhancements] = {}
    level = float(claim.margins["above-chance-level"])
    notes: list[str] = []
    for name, one in trained.by_dataset.items():
        if (ceiling := _ceiling(name, one, claim)) is not None:
            notes.append(ceiling)
            continue
        means = [one.base_score[name], *(one.of(method, name, LAST).mean(0) for method in METHODS)]
        if any(stats.above_chance(mean, one.chance[name], level=level) for mean in means):
            found[name] = one
        else:
            best = max(float(mean.mean()) for mean in means)
            notes.append(
                f"floor effect: neither the base nor any method is above chance on {name} (at most {best:.1%}, chance "
                f"{one.chance[name]:.1%}), so that arms cannot be told apart".replace("%", " %")
            )
    if not found:
        raise FloorError("; ".join(notes))
    return replace(trained, by_dataset=found, left_out=notes)


def _ceiling(name: str, one: Enhancements, claim: Claim) -> str | None:
    """Why no gain that counts can show on a dataset, in words; None where one can."""
    if 1 - one.base_score[name].mean() > claim.margins["least-gain"]:
        return None
    least = 100 * claim.margins["least-gain"]
    return f"ceiling effect: {_room(name, one)}, so no gain of {least:g} points can show"


def _room(name: str, one: Enhancements) -> str:
    return f"the base leaves {100 * (1 - one.base_score[name].mean()):.1f} points to be gained on {name}"


# ------------------------------------------------------------------------------------------------- scores and effects


def after(epoch: int) -> str:
    """A number of epochs in words."""
    return f"after {epoch} epoch{'s' if epoch > 1 else ''}"


def _own_pairs(
    trained: Trained, first: str, second: str, epoch: int, what: str = "score"
) -> list[stats.Pair]:
    """Each dataset trained on, tested on itself."""
    return [
        stats.Pair(
            name, name, one.of(first, name, epoch, what), one.of(second, name, epoch, what), what == "score"
        )
        for name, one in trained.by_dataset.items()
    ]


def _scores_of(trained: Trained, method: str, epoch: int, seed: int) -> dict[str, stats.Effect]:
    """Scores by dataset and on average, as effects over nothing."""
    pairs = [
        stats.Pair(name, name, one.of(method, name, epoch), np.zeros((1, len(one.base_score[name]))))
        for name, one in trained.by_dataset.items()
    ]
    return _with_average(pairs, seed)


def _by_dataset(
    trained: Trained, first: str, second: str, seed: int, drawn: bool = False, what: str = "score"
) -> dict[str, stats.Effect]:
    """Two arms after the last epoch, ``first`` minus ``second``, by dataset and on average."""
    return _with_average(_own_pairs(trained, first, second, LAST, what), seed, drawn)


def _with_average(pairs: Sequence[stats.Pair], seed: int, drawn: bool = False) -> dict[str, stats.Effect]:
    """The effect of every pair by its dataset, and of all together."""
    found = {pair.tested: stats.effect_of([pair], drawn=drawn, seed=seed) for pair in pairs}
    average = stats.effect_of(pairs, drawn=drawn, seed=seed) if len(pairs) > 1 else next(iter(found.values()))
    return {**found, AVERAGE: average}


def _over(name: str, scores: np.ndarray, level: np.ndarray, seed: int) -> stats.Effect:
    """``scores [runs, items]`` on a dataset over what was not trained, ``level [1, items]``."""
    return stats.effect_of([stats.Pair(name, name, scores, level)], seed=seed)


def _mcnemar(name: str, first: np.ndarray, second: np.ndarray) -> dict[str, Test]:
    """Exact McNemar p of ``first [runs, items]`` against ``second``, run by run; none where scores are shares."""
    if not np.isin([*first.flat, *second.flat], (0, 1)).all():
        return {}
    return {
        f"McNemar, {name}, seed {seed}": Test(p=stats.mcnemar(scores, second[seed % len(second)]).p)
        for seed, scores in enumerate(first)
    }


def _scores_beside(trained: Trained) -> dict[str, float]:
    """Average scores of every arm after the last epoch, and of the base."""
    every = trained.by_dataset
    arms: Mapping[str, list[float]] = {
        arm: [float(one.of(arm, name, LAST).mean()) for name, one in every.items() if one.indices(arm)]
        for arm in (*METHODS, FROZEN, UNIFORM, NEAREST)
    }
    found = {arm: float(np.mean(values)) for arm, values in arms.items() if len(values) == len(every)}
    return {**found, "base": float(np.mean([one.base_score[name].mean() for name, one in every.items()]))}


def _chance(trained: Trained) -> float:
    """The score of guessing, on average."""
    return float(np.mean([one.chance[name] for name, one in trained.by_dataset.items()]))
