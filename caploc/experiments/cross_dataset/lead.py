"""Located neurons against others over the cells of a matrix: over items and over random sets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from caploc.experiments.cross_dataset.matrix import Arm, CellKey, Matrix
from caploc.statistics import Effect, compare_with_random, effect_of, holm, sets_p


def lead_over(
    matrix: Matrix, arm: Arm, seed: int = 0, cells: Collection[CellKey] | None = None
) -> Effect | None:
    """The mean over ``cells`` (default: off the diagonal) of located minus ``arm``, turned so that positive speaks for
    the claim; None where the arm was not tried there.

    Interval and ``p_items`` as `caploc.statistics.effect_of`: luck with items, and of located minus a further draw.
    ``p_sets`` (drawn arms): which of a row's sets is the located one is dealt anew, row by row, and the statistic is
    the mean over rows of its lead. Given the items, sets of a row are exchangeable under the null that located is one
    of them, so it is exact; several runs make located's mean steadier than one draw's, which can only raise p.
    """
    pairs = matrix.pairs(arm, cells)
    if not pairs:
        return None
    drawn = arm in ("random", "nearest")
    effect = effect_of(pairs, drawn=drawn, seed=seed)
    return replace(effect, p_sets=sets_p(pairs, seed)) if drawn else effect


def cell_effects(matrix: Matrix, seed: int = 0) -> tuple[dict[CellKey, Effect], dict[str, float]]:
    """Each cell's lead over random sets, where two were drawn, and its p values, Holm-corrected over the cells drawn.

    With m draws no p lies below 1 / (1 + m) before the correction: few draws cannot single out a cell.
    """
    effects = {}
    for key in matrix.changes:
        for pair in matrix.pairs("random", [key]):
            if len(pair.second) > 1:
                effects[key] = compare_with_random(pair.first.mean(0), pair.second, seed=seed)
    if not effects:
        return {}, {}
    corrected = holm([effect.p for effect in effects.values()])
    return effects, {
        f"cell:{row}~{column}": float(p) for (row, column), p in zip(effects, corrected, strict=True)
    }
