"""Table 2: training the located neurons, as many random ones, or all the others (section 5.4)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from caploc.experiments.endings import FloorError, ends_in_a_finding
from caploc.experiments.enhancement.arms import FROZEN, LOCATED, METHODS, OTHERS, RANDOM
from caploc.experiments.enhancement.own import (
    AVERAGE,
    after,
    arrays_of,
    by_dataset,
    chance_of,
    differences_beside,
    mcnemar_by_seed,
    mcnemar_of,
    own_pairs,
    scores_beside,
    scores_of,
    shares_of,
    with_an_ability,
)
from caploc.experiments.enhancement.report import (
    LAST,
    beside,
    estimate_of,
    finding_of,
    number_parts,
    printed_cells,
)
from caploc.experiments.enhancement.runs import EPOCHS, all_enhancements
from caploc.experiments.facts.report import NO_NUMBER
from caploc.experiments.study import Study
from caploc.findings import Cell, Finding
from caploc.statistics import (
    Effect,
    Interval,
    Pair,
    best_of,
    binomial_p,
    effect_of,
    holm_parts,
    part_quantities,
    rank_among_draws,
)

LEAST_GAIN = 0.05
"""The smallest gain of score that counts as one (claim ``table2-small-portion-suffices``: equivalence margin)."""


@ends_in_a_finding
def numbers(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table2-numbers``: the score of every method after every number of epochs, on each dataset and on average.

    One finding holds the printed cells of a model at a sigma as parts ``number:ID``; the estimate is the located
    neurons' average after the last epoch.
    """
    trained = all_enhancements(study, cell.sigma or 0)
    printed = printed_cells(claim, cell)
    found: dict[tuple[str, int | None, str], tuple[float, Interval]] = {}
    for method in METHODS:
        for epoch in EPOCHS:
            for name, effect in scores_of(trained, method, epoch, study.settings.seed).items():
                found[method, epoch, name] = effect.estimate, effect.interval
    estimate, interval = found[LOCATED, LAST, AVERAGE]
    return finding_of(
        study,
        trained,
        cell,
        claim,
        f"score after {LAST} epochs of training the located neurons, average",
        METHODS,
        estimate=estimate,
        interval=(interval.low, interval.high),
        interval_kind="95 %, over items and seeds",
        quantities=number_parts(printed, found),
        floor=None if printed else NO_NUMBER,
    )


@ends_in_a_finding
def located_beats_random(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table2-located-beats-random``: scores after the last epoch, on each dataset and on average.

    Random neurons are matched by layer; see `effects` for how luck with five draws is dealt with. Those nearest in
    magnitude and uniform ones stand beside, as do the rank among the draws and nats a token.
    """
    trained, notes = with_an_ability(all_enhancements(study, cell.sigma or 0))
    seed = study.settings.seed
    parts = by_dataset(trained, LOCATED, RANDOM, seed, drawn=True)
    named = {f"effect:{name}": effect for name, effect in parts.items()}
    found = {**part_quantities(named), **differences_beside(trained, seed)}
    p_values = {
        **holm_parts(named),
        f"rank among draws, {AVERAGE}": rank_among_draws(own_pairs(trained, LOCATED, RANDOM, LAST)),
        **mcnemar_by_seed(trained, RANDOM),
    }
    return finding_of(
        study,
        trained,
        cell,
        claim,
        f"score after {LAST} epochs, located minus random, average",
        (LOCATED, RANDOM),
        **estimate_of(parts[AVERAGE]),
        quantities=found,
        p_values=p_values,
        controls=scores_beside(trained),
        chance=chance_of(trained),
        notes=notes,
    )


@ends_in_a_finding
def located_beats_others(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table2-located-beats-wo-located``: average scores after 1, 5 and 10 epochs, located minus all others.

    The located neurons are zero in the others' arm, as printed; the arm that leaves them as they are stands beside.
    """
    trained, notes = with_an_ability(all_enhancements(study, cell.sigma or 0))
    seed = study.settings.seed
    effects = {
        after(epoch): effect_of(own_pairs(trained, LOCATED, OTHERS, epoch), seed=seed) for epoch in EPOCHS
    }
    fair = {
        after(epoch): effect_of(own_pairs(trained, LOCATED, FROZEN, epoch), seed=seed) for epoch in EPOCHS
    }
    named = {f"effect:{name}": effect for name, effect in effects.items()}
    return finding_of(
        study,
        trained,
        cell,
        claim,
        f"average score after {LAST} epochs, located minus all but located",
        (LOCATED, OTHERS),
        **estimate_of(effects[after(LAST)]),
        quantities={**part_quantities(named), **beside("minus the others, located frozen", fair)},
        p_values=holm_parts(named),
        controls=scores_beside(trained),
        chance=chance_of(trained),
        notes=notes,
    )


@ends_in_a_finding
def located_best_average(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table2-located-best-average``: the located neurons' average minus the better of the two other methods'.

    The columns are the numbers of epochs at the cell's sigma. Random stands with the mean of its draws, as the table
    has one number for it. With the located neurons frozen in place of zeroed it stands beside.
    """
    trained, notes = with_an_ability(all_enhancements(study, cell.sigma or 0))
    seed = study.settings.seed
    columns = [after(epoch) for epoch in EPOCHS]
    best = best_of({arm: arrays_of(trained, arm) for arm in METHODS}, seed)
    fair = best_of({arm: arrays_of(trained, arm) for arm in (LOCATED, RANDOM, FROZEN)}, seed)
    last = best.intervals[-1]
    return finding_of(
        study,
        trained,
        cell,
        claim,
        f"average score after {LAST} epochs, located minus the better rival",
        METHODS,
        estimate=best.estimates[-1],
        interval=(last.low, last.high),
        interval_kind="95 %, percentile over items and runs, the better rival chosen anew",
        quantities={
            **best.quantities(columns),
            **{
                f"located frozen in the others' arm, {column}": value
                for column, value in zip(columns, fair.estimates, strict=True)
            },
        },
        p_values={"best": best.p, "best, located frozen in the others' arm": fair.p},
        controls=scores_beside(trained),
        chance=chance_of(trained),
        notes=notes,
    )


@ends_in_a_finding
def small_portion_suffices(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``table2-small-portion-suffices``: the located neurons' scores minus the base's and minus chance.

    Chance is a part only where an answer can be guessed. Where answers are right or wrong its p is that of the exact
    binomial test, of the seed with the fewest right answers. A dataset on which the base leaves no more to gain than
    the least gain that counts is left out and named: a gain could not show there.
    """
    trained = all_enhancements(study, cell.sigma or 0)
    seed = study.settings.seed
    effects: dict[str, Effect] = {}
    p_values: dict[str, float] = {}
    notes: list[str] = []
    for name, one in trained.items():
        scores, base = one.of(LOCATED, name, LAST), one.base_score[name][None]
        room = f"the base leaves {1 - base.mean():.1%} to be gained on {name}".replace("%", " %")
        if 1 - base.mean() <= LEAST_GAIN:
            notes.append(f"ceiling effect: {room}, so it is left out")
            continue
        notes.append(room)
        effects[f"effect:{name}, over base"] = effect_of([Pair(name, name, scores, base)], seed=seed)
        p_values |= mcnemar_of(f"{name}, over base", scores, base)
        if (chance := one.chance[name]) > 0:
            over = effect_of([Pair(name, name, scores, np.full_like(base, chance))], seed=seed)
            right_or_wrong = np.isin(scores, (0, 1)).all()
            effects[f"effect:{name}, over chance"] = (
                replace(over, p_items=binomial_p(scores, chance)) if right_or_wrong else over
            )
    if not effects:
        raise FloorError("; ".join(notes))
    smallest = min(effects.values(), key=lambda effect: effect.estimate)
    return finding_of(
        study,
        trained,
        cell,
        claim,
        f"score after {LAST} epochs of training the located neurons, minus base or chance, the least gain",
        (LOCATED,),
        **estimate_of(smallest),
        quantities={**part_quantities(effects), **shares_of(trained)},
        p_values={**holm_parts(effects), **p_values},
        notes=notes,
        controls=scores_beside(trained),
        chance=chance_of(trained),
    )
