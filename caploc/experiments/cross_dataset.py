"""Section 5.4: do neurons located on one dataset carry abilities that others need (Fig. 6, 10, poster Fig. 4)?

What training and erasing the neurons of one dataset does to others is in `caploc.experiments.cross_dataset_matrix`;
`caploc.experiments.dataset_types` tells datasets of one type from others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from caploc.experiments.commonality_halves import difference_over, mean, pairwise
from caploc.experiments.cross_dataset_matrix import (
    CAPTION,
    Arm,
    ErasingMatrix,
    Matrix,
    TrainingMatrix,
    change_data,
    items_of,
    matrix_plots,
)
from caploc.experiments.dataset_types import (
    datasets_p,
    notes_on,
    parts_of,
    rows_p,
    splits_of,
    types_in,
)
from caploc.experiments.evidence import difference, effect, effects
from caploc.experiments.locating import LocatedOn, Scores, to_split, whole_mask
from caploc.experiments.specs import FloorError, Need, NotRunError, Spec
from caploc.experiments.study import Study, experiment
from caploc.findings import Aside, Bound, Cell, Effect, Measurement, Plot, Range, Test
from caploc.papers import Claim
from caploc.statistics import (
    Effect as Compared,
)
from caploc.statistics import (
    mantel_p,
    mean_rho,
    percentile_interval,
    resampled_pair_overlaps,
    shared_keys,
)

AVERAGE = "average"
CLOSE, THIRD = ("gsm8k", "emotion"), "code25k"
PAIR_RESAMPLES = 1000
TYPE_RESAMPLES = 2000
RHO_RESAMPLES = 1000
FEWEST_CELLS = 4
"""A rank correlation of fewer is one of a few values."""
MAGNITUDES: Mapping[str, Arm] = {
    "over the nearest in magnitude": "nearest",
    "over the largest in magnitude": "largest",
}
"""Control ``control-activation-matched-random``, and the largest neurons, where they were tried on other datasets."""


# ------------------------------------------------------------------------- located against random, on other datasets


def _needs_training(study: Study, cell: Cell, claim: Claim) -> Iterator[Need]:
    yield TrainingMatrix.need(study, _sigma(cell))


def _needs_erasing(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    yield ErasingMatrix(_sigma(cell))


@experiment(_needs_training)
def enhance_cross(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fig6-enhance-cross``: scores on datasets not trained on, located trained minus random trained."""
    matrix = study.early.result(TrainingMatrix(_sigma(cell)))
    return _across(study, matrix, cell, "gain on other datasets, located minus random neurons trained")


@experiment(_needs_erasing)
def erase_cross(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fig6-erase-cross``: losses on datasets not located on, located erased minus random erased."""
    matrix = study.result(ErasingMatrix(_sigma(cell)))
    return _across(study, matrix, cell, "loss on other datasets, located minus random neurons erased")


def _across(study: Study, matrix: Matrix, cell: Cell, quantity: str) -> Measurement:
    seed = study.settings.seed
    found = _over_random(matrix.require_others(), seed)
    leads, p = matrix.cell_leads(seed)
    return Measurement(
        quantity,
        difference(found.estimate, found.interval),
        {"other datasets": effect(found)},
        chance=0.0,
        effect_size=found.effect_size,
        asides={
            "items": Test(p=found.p_items),
            **_sets(found),
            **_by_type(matrix, seed),
            **{f"{row}~{column}": effect(one, p[row, column]) for (row, column), one in leads.items()},
        },
        controls=_over_magnitude(matrix, seed),
        n=items_of([matrix]),
        draws=matrix.draws,
        basis=[matrix],
        column=AVERAGE,
        plots=matrix_plots(study, matrix, _sigma(cell)),
    )


@experiment(_needs_training)
def significant_improvement(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``cross-significant-improvement``: the gain on datasets not trained on, over the base and over training
    random neurons; p over items, all seeds of an item together, Holm-corrected over the two.

    The p value over sets, which the claim's entry does not ask for, stands beside.
    """
    matrix, seed = study.early.result(TrainingMatrix(_sigma(cell))).require_others(), study.settings.seed
    base, random = matrix.lead("base", seed), _over_random(matrix, seed)
    assert base is not None  # there is always a base
    return Measurement(
        "gain on datasets not trained on, over the base",
        difference(base.estimate, base.interval),
        effects({"over the base": base, "over random": replace(random, p_sets=None)}),
        chance=base.estimate - random.estimate,
        effect_size=base.effect_size,
        asides=_sets(random),
        controls=_over_magnitude(matrix, seed),
        n=items_of([matrix]),
        draws=matrix.draws,
        basis=[matrix],
        column=AVERAGE,
        notes=["chance is the gain of training random neurons"],
    )


def _over_random(matrix: Matrix, seed: int) -> Compared:
    found = matrix.lead("random", seed)
    if found is None:
        raise NotRunError(
            "no random set was tried on another dataset, so that located has nothing to stand against"
        )
    return found


def _by_type(matrix: Matrix, seed: int) -> dict[str, float]:
    """The lead over random neurons on the dataset itself, on others of its type (math, program, language) and on those
    of other types: a mean off the diagonal may come from one type alone."""
    types = types_in([matrix])
    others = [key for key in matrix.others if key[0] in types and key[1] in types]
    cells = {
        "own dataset": [key for key in matrix.changes if key[0] == key[1]],
        "same type": [(row, column) for row, column in others if types[row] == types[column]],
        "other types": [(row, column) for row, column in others if types[row] != types[column]],
    }
    found = {name: matrix.lead("random", seed, keys) for name, keys in cells.items()}
    return {name: one.estimate for name, one in found.items() if one is not None}


def _sets(found: Compared) -> dict[str, Aside]:
    return {} if found.p_sets is None else {"random sets": Test(p=found.p_sets)}


def _over_magnitude(matrix: Matrix, seed: int) -> dict[str, float]:
    found = {name: matrix.lead(arm, seed) for name, arm in MAGNITUDES.items()}
    return {name: one.estimate for name, one in found.items() if one is not None}


# ------------------------------------------------------------------------------------------------ which sets overlap


def _needs_three(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any]]:
    _check_three(study)
    yield from (Scores(name, control) for name in (*CLOSE, THIRD) for control in ("", "untrained"))


@experiment(_needs_three)
def gsm8k_emotion_overlap(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``cross-gsm8k-emotion-overlap``: o(GSM8K, Emotion) - max(o(GSM8K, Code25K), o(Emotion, Code25K)).

    The interval is a bootstrap over the samples of each dataset, in shards; which rival is the larger is found anew in
    each resample. A resample holds fewer distinct samples than the whole, so that its masks are noisier and share
    less, in all three pairs alike. Controls: random sets with the same counts in every layer (what they share by
    expectation), and the untrained twin.
    """
    _check_three(study)
    sigma, names = _sigma(cell), (*CLOSE, THIRD)
    threshold = study.settings.threshold(sigma)
    shards = {name: study.result(Scores(name)) for name in names}
    whole = pairwise({name: whole_mask(one, threshold) for name, one in shards.items()})
    overlaps = np.stack([one.overlap for one in whole.values()])
    if not np.isfinite(overlaps).all():
        raise FloorError(
            f"floor effect: no neuron passes sigma {sigma:g} on one of {', '.join(names)}, so no overlap is defined"
        )
    datasets = [to_split(one, threshold) for one in shards.values()]
    resampled = resampled_pair_overlaps(datasets, PAIR_RESAMPLES, study.settings.seed)
    fresh = pairwise({name: whole_mask(study.result(Scores(name, "untrained")), threshold) for name in names})
    samples = {name: one.whole.count for name, one in shards.items()}
    over = f"{PAIR_RESAMPLES} bootstraps over shards, the larger rival chosen in each"
    return Measurement(
        "overlap of GSM8K and Emotion minus their larger overlap with Code25K",
        replace(difference_over(_leading(resampled), over), estimate=float(_leading(overlaps)[0])),
        chance=float(_leading(np.stack([one.chance for one in whole.values()]))[0]),
        asides={f"{a}~{b}": float(one.overlap[0]) for (a, b), one in whole.items()},
        controls={"untrained twin": mean(_leading(np.stack([one.overlap for one in fresh.values()])))},
        n=sum(samples.values()),
        draws=PAIR_RESAMPLES,
        basis=[LocatedOn(study.located(name)) for name in names],
        settings={"samples": samples},
        notes=["chance is the same difference for random sets with the same counts in every layer"],
    )


def _check_three(study: Study) -> None:
    missing = [name for name in (*CLOSE, THIRD) if name not in study.available()]
    if missing:
        raise NotRunError(f"this claim needs {', '.join(missing)} too; add --dataset {missing[0]}")


def _leading(overlaps: np.ndarray) -> np.ndarray:
    """``overlaps [pairs, draws]``: the first pair's minus the larger of the rivals', nan where one is undefined."""
    lead: np.ndarray = overlaps[0] - overlaps[1:].max(0)
    return lead


# ------------------------------------------------------------------------------------------------ types of datasets


def _needs_both(study: Study, cell: Cell, claim: Claim) -> Iterator[Spec[Any] | Need]:
    yield from _needs_training(study, cell, claim)
    yield from _needs_erasing(study, cell, claim)


@experiment(_needs_both)
def same_type_specificity(study: Study, cell: Cell, claim: Claim) -> Measurement:
    """Claim ``cross-same-type-specificity``: part ``own``, mean |change| of score on other datasets of the same type
    minus that on datasets of other types; part ``other``, the mean change on other types.

    Training and erasing count alike: each part is the mean over the two of the mean over cells, D' != D. Changes are
    turned in the direction intended, gains of training and losses of erasing, or the two would cancel in ``other``.
    Intervals: percentiles of the bootstrap over items and runs of training. p of ``own`` deals out anew, row by row,
    which of the other datasets share the row's type; a row's two interventions move together. Dealing out the types of
    the datasets themselves stands beside: it is stricter, but too few datasets are there for it to decide.
    """
    sigma, seed = _sigma(cell), study.settings.seed
    matrices = [study.early.result(TrainingMatrix(sigma)), study.result(ErasingMatrix(sigma))]
    types = types_in(matrices)
    kept = splits_of(matrices, types)
    if not kept:
        if floors := [note for one in matrices for note in one.notes]:
            raise FloorError("; ".join(floors))
        raise NotRunError(
            "needs two datasets of one type and one of another, such as gsm8k, meta_math and emotion"
        )
    observed = parts_of(kept, Matrix.values)
    drawn = parts_of(kept, lambda one: one.resampled(TYPE_RESAMPLES, seed))
    own, other = (
        Effect(
            float(value),
            _percentiles(draws, 0.95),
            _percentiles(draws, 0.90),
            method=f"95 % of {TYPE_RESAMPLES} bootstraps over items and runs",
        )
        for value, draws in zip(observed, drawn, strict=True)
    )
    return Measurement(
        "mean |change| on datasets of the same type minus other types",
        own,
        {"own": replace(own, p=rows_p(kept, seed)), "other": other},
        asides={
            "types of datasets": Test(p=datasets_p([one.matrix for one in kept], types, seed)),
            **{name: value for one in kept for name, value in one.sizes.items()},
        },
        n=items_of(matrices),
        basis=matrices,
        settings={"types": types, "resamples": TYPE_RESAMPLES},
        column=AVERAGE,
        notes=notes_on(matrices, kept, types),
    )


# ------------------------------------------------------------------------------------------------------ other models


@dataclass(frozen=True, eq=False)
class Measured:
    """One model's matrices, as the basis of a comparison of models; none of training where no gain can show."""

    study: Study
    erasing: Matrix
    training: Matrix | None

    @classmethod
    def of(cls, study: Study, sigma: float) -> Measured:
        """Raises FloorError and NotRunError where erasing says nothing."""
        erasing = study.result(ErasingMatrix(sigma)).require_others()
        training: Matrix | None
        try:
            training = study.early.result(TrainingMatrix(sigma)).require_others()
        except (FloorError, NotRunError):
            training = None
        return cls(study, erasing, training)

    @property
    def label(self) -> str:
        study = self.study
        return study.model if "/" not in study.model else study.lm.name

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    @property
    def notes(self) -> Sequence[str]:
        return [f"{self.label}: {note}" for note in self.erasing.notes]


def _needs_models(study: Sequence[Study], cell: Cell, claim: Claim) -> Iterator[Need]:
    for one in study:
        yield Need(one, ErasingMatrix(_sigma(cell)))
        yield TrainingMatrix.need(one, _sigma(cell))


@experiment(_needs_models)
def other_models(study: Sequence[Study], cell: Cell, claim: Claim) -> Measurement:
    """Claim ``fig10-other-models``: Spearman's rho between two models' changes of score after erasing, over the cells
    off the diagonal, mean over pairs of models.

    ``study``: those of all models. A model that cannot be had here, or on which no change can show, is left out. The
    interval is the percentiles of a bootstrap over items, each dataset's drawn alike for all models; noise of items
    lowers rho, so that it errs towards 0. Beside it: the same with the diagonal, after training, and of random neurons
    (some datasets break whatever is erased), and Mantel's p, of dealing out one model's datasets anew.
    """
    measured, missing = _measured(study, _sigma(cell))
    matrices, seed = [one.erasing for one in measured], measured[0].study.settings.seed
    observed = [one.values(one.others) for one in matrices]
    estimate = float(mean_rho(observed))
    if not np.isfinite(estimate):
        raise FloorError("nothing to rank: erasing changes all scores of a model alike")
    drawn = mean_rho([_resampled(one, seed) for one in matrices])
    p = mantel_p(observed, seed)
    return Measurement(
        "rank correlation of two models' changes on other datasets after erasing",
        Bound(
            estimate,
            _percentiles(drawn[np.isfinite(drawn)], 0.95),
            unit="rho",
            method=f"95 % of {RHO_RESAMPLES} bootstraps over items",
        ),
        chance=0.0,
        asides={**({"Mantel": Test(p=p)} if np.isfinite(p) else {}), **_other_rhos(measured)},
        n=items_of(matrices),
        basis=measured,
        settings={"cells": len(shared_keys(observed)), "resamples": RHO_RESAMPLES},
        notes=[f"{len(measured)} models: {', '.join(one.label for one in measured)}", *missing],
        plots=[
            Plot("changes", f"Fig. 10: {CAPTION['erasing']}, {one.label}", change_data(one.erasing, seed))
            for one in measured
        ],
    )


def _measured(studies: Sequence[Study], sigma: float) -> tuple[list[Measured], list[str]]:
    """What could be measured, and why the rest could not."""
    measured: list[Measured] = []
    floors: list[str] = []
    absent: list[str] = []
    for study in studies:
        try:
            measured.append(Measured.of(study, sigma))
        except FloorError as error:
            floors.append(str(error))
        except NotRunError as error:
            absent.append(str(error))
    if len(measured) < 2:
        if floors:
            raise FloorError("; ".join([*floors, *absent]))
        raise NotRunError("; ".join(["needs two models to compare; give another --model", *absent]))
    shared = shared_keys([one.erasing.values(one.erasing.others) for one in measured])
    if len(shared) < FEWEST_CELLS:
        raise NotRunError(
            f"{len(shared)} pairs of datasets can be compared in all models, and {FEWEST_CELLS} are the fewest to "
            "rank; give another --dataset"
        )
    return measured, [f"a model left out: {why}" for why in (*floors, *absent)]


def _resampled(matrix: Matrix, seed: int) -> dict[tuple[str, str], np.ndarray]:
    drawn = matrix.resampled(RHO_RESAMPLES, seed)
    return {key: drawn[key] for key in matrix.others}


def _other_rhos(measured: Sequence[Measured]) -> dict[str, float]:
    """Other rank correlations, without intervals: those that can be had."""
    erased = [one.erasing for one in measured]
    trained = [one.training.values(one.training.others) for one in measured if one.training is not None]
    random = [one.of_random for one in erased]
    found = {
        "rho with the diagonal": mean_rho([one.values() for one in erased]),
        "rho of random neurons": mean_rho([one.values(one.others) for one in random]),
    }
    if len(trained) == len(measured) and len(shared_keys(trained)) >= FEWEST_CELLS:
        found["rho after training"] = mean_rho(trained)
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _percentiles(draws: np.ndarray, level: float) -> Range:
    interval = percentile_interval(draws, level)
    return interval.low, interval.high


def _sigma(cell: Cell) -> float:
    return float(cell.sigma or 0)
