"""Rank correlation of models' matrices on planted outcomes, against scipy and by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from scipy import stats

from caploc.experiments import cross_dataset
from caploc.experiments.cross_dataset.matrix import Matrix
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Finding, Outcome
from caploc.statistics import mean_rho, rho
from caploc.tests.experiments.planted_matrices import (
    DATASETS,
    Effect,
    cell_of,
    planted_matrix,
    study_with,
    verdict_of,
)

CLAIM = "fig10-other-models"
CELLS = [(row, column) for row in DATASETS for column in DATASETS]
SHARES = dict(zip(CELLS, np.random.default_rng(7).random(len(CELLS)), strict=True))


def some(row: str, column: str) -> float:
    return SHARES[row, column]


def reversed_order(row: str, column: str) -> float:
    return 1 - SHARES[row, column]


def studies(*effects: Effect, items: int = 40) -> list[Callable[[], Study]]:
    made: list[Callable[[], Study]] = []
    for seed, effect in enumerate(effects):
        erasing = planted_matrix("erasing", effect, seed=seed, items=items)
        training = planted_matrix("training", effect, seed=10 + seed, items=items)
        made.append(partial(study_with, training, erasing, f"model-{seed}"))
    return made


def run(asked: Sequence[Callable[[], Study]]) -> tuple[Finding, Outcome]:
    finding = cross_dataset.other_models(asked, cell_of("model-0+model-1"), CLAIM)
    return finding, verdict_of(finding).outcome


def test_models_alike_and_models_opposed() -> None:
    finding, outcome = run(studies(some, some))
    assert outcome is Outcome.SUPPORTED and finding.estimate is not None and finding.estimate > 0.8
    assert finding.p_values["Mantel"] < 0.05 and finding.n == 200
    assert finding.quantities["rho after training"] > 0.8
    assert [plot.kind for plot in finding.plots] == ["changes", "changes"]
    finding, outcome = run(studies(some, reversed_order))
    assert outcome is Outcome.REFUTED
    assert finding.p_values["Mantel"] > 0.9


def test_models_without_anything_in_common() -> None:
    finding, outcome = run(studies(some, lambda row, column: SHARES[column, row]))
    assert outcome is Outcome.INCONCLUSIVE
    assert finding.interval is not None and finding.interval[0] < 0 < finding.interval[1]


def test_rho_is_that_of_scipy_over_the_cells_that_both_have() -> None:
    generator = np.random.default_rng(0)
    first, second = (dict(zip(CELLS, generator.integers(0, 6, 25) / 5, strict=True)) for _ in range(2))
    del first["gsm8k", "imdb"], second["imdb", "gsm8k"]
    keys = [key for key in first if key in second]
    expected = stats.spearmanr([first[key] for key in keys], [second[key] for key in keys]).statistic
    assert rho(first, second) == pytest.approx(expected)
    assert mean_rho([first, second, first]) == pytest.approx((2 * expected + 1) / 3)
    assert np.isnan(rho(dict.fromkeys(keys, np.array(0.5)), second))


def test_the_estimate_is_over_the_cells_off_the_diagonal() -> None:
    asked = studies(some, some, reversed_order)
    matrices = [make().once(("erasing matrix", 6.0), lambda: Matrix("erasing", {})) for make in asked]
    values = [{key: one.changes[key].value for key in CELLS} for one in matrices]
    finding, _ = run(asked)
    others = [key for key in CELLS if key[0] != key[1]]
    for keys, found in ((others, finding.estimate), (CELLS, finding.quantities["rho with the diagonal"])):
        rhos = [
            stats.spearmanr([values[a][key] for key in keys], [values[b][key] for key in keys]).statistic
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        assert found == pytest.approx(np.mean(rhos))


def unavailable() -> Study:
    raise NotRunError("gated/model needs a token")


def test_a_model_that_cannot_be_had_is_left_out() -> None:
    finding, outcome = run([*studies(some, some), unavailable])
    assert outcome is Outcome.SUPPORTED
    assert "a model left out: gated/model needs a token" in finding.notes
    finding, outcome = run([*studies(some), unavailable])
    assert outcome is Outcome.NOT_RUN
    assert finding.not_run == "needs two models to compare; give another --model; gated/model needs a token"


def test_floors_and_matrices_without_order() -> None:
    empty = partial(
        study_with, Matrix("training", {}), Matrix("erasing", {}, {"tested on gsm8k": "floor effect: none"})
    )
    finding, outcome = run([*studies(some), empty])
    assert (
        outcome is Outcome.INCONCLUSIVE
        and finding.floor == "erasing, tested on gsm8k: left out, floor effect: none"
    )
    flat = planted_matrix("erasing", lambda *_: 1.0, noisy=0)
    for change in flat.changes.values():
        change.base[:] = 1.0
    constant = partial(study_with, Matrix("training", {}), flat, "flat")
    finding, outcome = run([*studies(some), constant])
    assert outcome is Outcome.INCONCLUSIVE and "alike" in (finding.floor or "")


def test_too_few_pairs_of_datasets_are_not_ranked() -> None:
    few = [
        partial(
            study_with,
            Matrix("training", {}),
            planted_matrix("erasing", some, columns=DATASETS[:2], seed=seed),
        )
        for seed in (0, 1)
    ]
    finding, outcome = run(few)
    assert outcome is Outcome.NOT_RUN and "2 pairs of datasets" in (finding.not_run or "")
