"""Do located neurons act on other datasets more than random ones, trained or erased (Fig. 6, Table 4)?"""

from __future__ import annotations

from dataclasses import replace

from caploc.experiments.cross_dataset.figures import matrix_plots
from caploc.experiments.cross_dataset.lead import cell_effects, lead_over
from caploc.experiments.cross_dataset.matrix import Arm, Matrix
from caploc.experiments.cross_dataset.report import finding_of, require_others
from caploc.experiments.cross_dataset.sources import erasing, training
from caploc.experiments.cross_dataset.specificity import types_of
from caploc.experiments.endings import ends_in_a_finding
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Cell, Finding
from caploc.statistics import Effect, holm_parts, part_quantities

TOO_FEW = "no random set was tried on another dataset, so that located has nothing to stand against"


@ends_in_a_finding
def enhance_cross(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fig6-enhance-cross``: scores on datasets not trained on, located trained minus random trained."""
    matrix = training(study, float(cell.sigma or 0))
    return _across(study, matrix, cell, claim, "gain on other datasets, located minus random neurons trained")


@ends_in_a_finding
def erase_cross(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``fig6-erase-cross``: losses on datasets not located on, located erased minus random erased."""
    matrix = erasing(study, float(cell.sigma or 0))
    return _across(study, matrix, cell, claim, "loss on other datasets, located minus random neurons erased")


@ends_in_a_finding
def significant_improvement(study: Study, cell: Cell, claim: str) -> Finding:
    """Claim ``cross-significant-improvement``: the gain on datasets not trained on, over the base and over training
    random neurons; p over items, all seeds of an item together, Holm-corrected over the two.

    The p value over sets, which the claim's entry does not ask for, stands beside.
    """
    matrix = require_others(training(study, float(cell.sigma or 0)))
    base, random = lead_over(matrix, "base", study.settings.seed), _over_random(study, matrix)
    assert base is not None  # there is always a base
    parts = {"effect:base": base, "effect:random": replace(random, p_sets=None)}
    return finding_of(
        study,
        [matrix],
        cell,
        claim,
        "gain on datasets not trained on, over the base",
        estimate=base.estimate,
        interval=(base.interval.low, base.interval.high),
        interval_kind=base.interval.kind,
        chance=base.estimate - random.estimate,
        effect_size=base.effect_size,
        p_values={**holm_parts(parts), **_sets(random)},
        quantities=part_quantities(parts),
        controls=_against_magnitude(study, matrix),
        draws=_draws(matrix),
        notes=["chance is the gain of training random neurons"],
    )


def _across(study: Study, matrix: Matrix, cell: Cell, claim: str, quantity: str) -> Finding:
    effect = _over_random(study, require_others(matrix))
    cells, p_values = cell_effects(matrix, study.settings.seed)
    return finding_of(
        study,
        [matrix],
        cell,
        claim,
        quantity,
        estimate=effect.estimate,
        interval=(effect.interval.low, effect.interval.high),
        interval_kind=effect.interval.kind,
        chance=0.0,
        effect_size=effect.effect_size,
        p_values={
            "effect:others": effect.p,
            "items": effect.p_items,
            **_sets(effect),
            **p_values,
        },
        quantities={
            **effect.quantities("effect:others"),
            **_by_type(matrix, study.settings.seed),
            **{f"{row}~{column}": one.estimate for (row, column), one in cells.items()},
        },
        controls=_against_magnitude(study, matrix),
        draws=_draws(matrix),
        plots=matrix_plots(study, matrix, float(cell.sigma or 0)),
    )


def _over_random(study: Study, matrix: Matrix) -> Effect:
    effect = lead_over(matrix, "random", study.settings.seed)
    if effect is None:
        raise NotRunError(TOO_FEW)
    return effect


def _draws(matrix: Matrix) -> int:
    """Random sets of each row, those that were tried on other datasets."""
    return min(len(matrix.changes[key].random) for key in matrix.others)


def _by_type(matrix: Matrix, seed: int) -> dict[str, float]:
    """The lead over random neurons on the dataset itself, on others of its type (math, program, language) and on those
    of other types: a mean off the diagonal may come from one type alone."""
    types = types_of(matrix.rows + matrix.columns)
    others = [key for key in matrix.others if key[0] in types and key[1] in types]
    cells = {
        "own dataset": [key for key in matrix.changes if key[0] == key[1]],
        "same type": [(row, column) for row, column in others if types[row] == types[column]],
        "other types": [(row, column) for row, column in others if types[row] != types[column]],
    }
    found = {name: lead_over(matrix, "random", seed, keys) for name, keys in cells.items()}
    return {name: effect.estimate for name, effect in found.items() if effect is not None}


def _sets(effect: Effect) -> dict[str, float]:
    return {} if effect.p_sets is None else {"random sets": effect.p_sets}


def _against_magnitude(study: Study, matrix: Matrix) -> dict[str, float]:
    """The same lead over neurons matched in magnitude (control ``control-activation-matched-random``) and over the
    largest ones, where these were tried on other datasets."""
    arms: dict[str, Arm] = {
        "over the nearest in magnitude": "nearest",
        "over the largest in magnitude": "largest",
    }
    found = {name: lead_over(matrix, arm, study.settings.seed) for name, arm in arms.items()}
    return {name: effect.estimate for name, effect in found.items() if effect is not None}
