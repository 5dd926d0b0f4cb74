"""Fig. 6 and Table 4 on planted outcomes: each claim supported where it holds, refuted where it does not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from caploc.experiments import cross_dataset
from caploc.experiments.cross_dataset_matrix import Change, Intervention, Matrix
from caploc.experiments.study import Experiment
from caploc.findings import Finding, Outcome, Part
from caploc.statistics import sets_p
from caploc.tests.experiments.planted import judged
from caploc.tests.experiments.planted_matrices import (
    DATASETS,
    SIGMA,
    Effect,
    cell_of,
    everywhere,
    nothing,
    planted_matrix,
    study_with,
)

CLAIMS: dict[str, tuple[Experiment, Intervention]] = {
    "fig6-enhance-cross": (cross_dataset.enhance_cross, "training"),
    "fig6-erase-cross": (cross_dataset.erase_cross, "erasing"),
    "cross-significant-improvement": (cross_dataset.significant_improvement, "training"),
}


def run(claim: str, matrix: Matrix) -> tuple[Finding, Outcome]:
    experiment, intervention = CLAIMS[claim]
    study = study_with(matrix) if intervention == "training" else study_with(None, matrix)
    finding, verdict = judged(experiment, study, cell_of(), claim)
    return finding, verdict.outcome


def estimate(part: object) -> float | None:
    assert isinstance(part, Part)
    return part.estimate


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize(
    ("located", "random", "expected"),
    [
        (everywhere, nothing, Outcome.SUPPORTED),
        (nothing, everywhere, Outcome.REFUTED),
        (lambda row, column: 0.4 * (row == column), nothing, None),  # its own dataset alone
    ],
)
def test_what_is_planted_is_found(
    claim: str, located: Effect, random: Effect, expected: Outcome | None
) -> None:
    finding, outcome = run(claim, planted_matrix(CLAIMS[claim][1], located, random))
    if expected is not None:
        assert outcome is expected
    else:
        assert outcome is not Outcome.SUPPORTED
    assert finding.measurement.n == 200 and finding.settings["sigma"] == SIGMA
    assert finding.measurement.draws == (5 if CLAIMS[claim][1] == "training" else 20)
    assert finding.published == ("11.18" if claim == "cross-significant-improvement" else None)


def test_gains_that_random_neurons_share_are_no_gains_of_located_ones() -> None:
    both = planted_matrix("training", everywhere, everywhere)
    same = Matrix(
        "training",
        {
            key: replace(one, random=np.concatenate([one.located, one.located]))
            for key, one in both.changes.items()
        },
    )
    finding, outcome = run("cross-significant-improvement", same)
    assert outcome is not Outcome.SUPPORTED
    base, random = finding.measurement.parts["over the base"], finding.measurement.parts["over random"]
    assert base.interval[0] > 0 and random.estimate == 0  # type: ignore[index]


@pytest.mark.parametrize(("intervention", "sign"), [("training", 1), ("erasing", -1)])
def test_the_estimate_is_the_mean_off_the_diagonal(intervention: Intervention, sign: int) -> None:
    matrix = planted_matrix(intervention, everywhere, seed=3, items=17)
    by_hand = [
        sign * (one.located.mean() - one.random.mean())
        for (row, column), one in matrix.changes.items()
        if row != column
    ]
    effect = matrix.lead("random")
    assert effect is not None and effect.estimate == pytest.approx(np.mean(by_hand))
    assert effect.interval.low < effect.interval90.low < effect.estimate < effect.interval90.high
    assert matrix.lead("nearest") is None
    change = matrix.changes["gsm8k", "emotion"]
    assert change.value == pytest.approx(change.located.mean() - change.base.mean())


def test_p_of_sets_is_that_of_all_deals() -> None:
    matrix = planted_matrix("erasing", lambda *_: 0.1, lambda *_: 0.08, rows=DATASETS[:3], draws=4, seed=1)
    rows = [
        np.array(
            [
                np.mean([-one.located.mean() for one in own]),
                *np.mean([-one.random.mean(1) for one in own], axis=0),
            ]
        )
        for row in DATASETS[:3]
        if (own := [one for (first, column), one in matrix.changes.items() if first == row != column])
    ]
    sums = [sum(picked) for picked in itertools.product(*rows)]
    expected = np.mean(np.array(sums) >= sum(one[0] for one in rows) - 1e-12)
    assert sets_p(matrix.pairs("random"), 0) == pytest.approx(expected)
    assert 1 / 125 < expected < 1


def test_a_set_like_any_other_is_seldom_called_special() -> None:
    """Sets differ much, located is one of them: their items alone would say p near 0 most of the time."""
    low = 0
    for seed in range(120):
        generator = np.random.default_rng(seed)
        changes = {}
        for row in DATASETS[:3]:
            harm = generator.random(6)
            for column in DATASETS[:3]:
                right = (generator.random((6, 30)) > harm[:, None]).astype(float)
                changes[row, column] = Change(np.ones(30), right[:1], right[1:])
        effect = Matrix("erasing", changes).lead("random")
        assert effect is not None
        low += effect.p < 0.05
    assert low <= 12  # 5 % of 120 and two standard deviations


def test_cells_are_corrected_over_the_matrix() -> None:
    matrix = planted_matrix("erasing", everywhere, draws=199, columns=DATASETS[:2])
    effects, p = matrix.cell_leads()
    assert set(p) == {(a, b) for a in DATASETS[:2] for b in DATASETS[:2]}
    assert all(effect.p_sets == 1 / 200 for effect in effects.values())
    assert all(one == pytest.approx(4 / 200) for one in p.values())
    finding, _ = run("fig6-erase-cross", matrix)
    shown = finding.measurement.asides
    cell = shown["gsm8k~meta_math"]
    assert isinstance(cell, Part) and cell.p == p["gsm8k", "meta_math"]
    assert cell.estimate == pytest.approx(effects["gsm8k", "meta_math"].estimate)
    assert shown["own dataset"] == pytest.approx(
        np.mean([effects[name, name].estimate for name in DATASETS[:2]])
    )
    assert shown["same type"] == pytest.approx(estimate(finding.measurement.value))
    assert "other types" not in shown


def test_controls_of_magnitude_stand_beside() -> None:
    matrix = planted_matrix("erasing", everywhere)
    with_largest = Matrix(
        "erasing",
        {key: replace(one, largest=one.located, nearest=one.random) for key, one in matrix.changes.items()},
    )
    finding, _ = run("fig6-erase-cross", with_largest)
    assert finding.measurement.controls["over the largest in magnitude"] == 0
    assert finding.measurement.controls["over the nearest in magnitude"] == pytest.approx(
        estimate(finding.measurement.value)
    )


def test_figures_show_the_matrix() -> None:
    matrix = planted_matrix("training", everywhere)
    finding, _ = run("fig6-enhance-cross", matrix)
    assert [plot.kind for plot in finding.measurement.plots] == ["changes", "changes", "matrix"]
    data = finding.measurement.plots[0].data
    assert data["rows"] == ["gsm8k", "emotion", "code25k"] and data["columns"] == list(DATASETS)
    value, low, high = (data[name][0][1] for name in ("values", "low", "high"))
    assert value == matrix.changes["gsm8k", "meta_math"].value and low < value < high


def test_one_dataset_cannot_tell() -> None:
    matrix = planted_matrix("erasing", everywhere, columns=DATASETS[:1])
    finding, outcome = run("fig6-erase-cross", matrix)
    assert (
        outcome is Outcome.NOT_RUN
        and finding.measurement.not_run == "needs a second dataset to test on; give another --dataset"
    )


def test_floors_are_named() -> None:
    floor = "floor effect: the untouched model scores 0.0 % on gsm8k, not above chance (0.0 %), so no loss can show"
    finding, outcome = run("fig6-erase-cross", Matrix("erasing", {}, {"tested on gsm8k": floor}))
    assert (
        outcome is Outcome.INCONCLUSIVE
        and finding.measurement.floor == f"erasing, tested on gsm8k: left out, {floor}"
    )
    some = planted_matrix("erasing", everywhere, columns=DATASETS[1:])
    finding, outcome = run("fig6-erase-cross", replace(some, left_out={"tested on gsm8k": floor}))
    assert outcome is Outcome.SUPPORTED and f"erasing, tested on gsm8k: left out, {floor}" in finding.notes
