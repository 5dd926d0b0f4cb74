"""Rank correlation of models' matrices on planted outcomes, against scipy and by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from caploc.experiments import cross_dataset
from caploc.experiments.cross_dataset_matrix import ErasingMatrix, Matrix
from caploc.experiments.evidence import assemble
from caploc.experiments.study import NotRunError, Study, StudySettings
from caploc.findings import Finding, Measurement, Outcome, Part
from caploc.model.loading import LanguageModel
from caploc.rules import judge
from caploc.statistics import mean_rho, rho
from caploc.tests.experiments.planted import PAPER
from caploc.tests.experiments.planted_matrices import (
    DATASETS,
    SIGMA,
    Effect,
    cell_of,
    planted_matrix,
    study_with,
)

CLAIM = "fig10-other-models"
CELLS = [(row, column) for row in DATASETS for column in DATASETS]
SHARES = dict(zip(CELLS, np.random.default_rng(7).random(len(CELLS)), strict=True))


def some(row: str, column: str) -> float:
    return SHARES[row, column]


def reversed_order(row: str, column: str) -> float:
    return 1 - SHARES[row, column]


def value(found: Measurement) -> Part:
    assert found.value is not None
    return found.value


def mantel(found: Measurement) -> float:
    part = found.asides["Mantel"]
    assert isinstance(part, Part) and part.p is not None
    return part.p


def studies(*effects: Effect, items: int = 40) -> list[Study]:
    return [
        study_with(
            planted_matrix("training", effect, seed=10 + seed, items=items),
            planted_matrix("erasing", effect, seed=seed, items=items),
            f"model-{seed}",
        )
        for seed, effect in enumerate(effects)
    ]


def run(asked: Sequence[Study]) -> tuple[Finding, Outcome]:
    claim, cell = PAPER.claim(CLAIM), cell_of("model-0+model-1")
    needs = cross_dataset.other_models.needs(asked, cell, claim)
    assert [need.study for need in needs] == [one for one in asked for _ in ("erasing", "training")]
    finding = assemble(claim, cell, cross_dataset.other_models(asked, cell, claim), asked)
    json.dumps(finding.to_json(), allow_nan=False)
    return finding, judge(claim, finding).outcome


def test_models_alike_and_models_opposed() -> None:
    finding, outcome = run(studies(some, some))
    found = finding.measurement
    assert outcome is Outcome.SUPPORTED and value(found).estimate > 0.8  # type: ignore[operator]
    assert mantel(found) < 0.05 and found.n == 200
    assert found.asides["rho after training"] > 0.8  # type: ignore[operator]
    assert [plot.kind for plot in found.plots] == ["changes", "changes"]
    assert finding.settings["model-0: seed"] == finding.settings["model-1: seed"] == 0
    finding, outcome = run(studies(some, reversed_order))
    assert outcome is Outcome.REFUTED
    assert mantel(finding.measurement) > 0.9


def test_models_without_anything_in_common() -> None:
    finding, outcome = run(studies(some, lambda row, column: SHARES[column, row]))
    assert outcome is Outcome.INCONCLUSIVE
    low, high = value(finding.measurement).interval or (0, 0)
    assert low < 0 < high


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
    matrices = [one.result(ErasingMatrix(SIGMA)) for one in asked]
    values = [{key: one.changes[key].value for key in CELLS} for one in matrices]
    finding, _ = run(asked)
    others = [key for key in CELLS if key[0] != key[1]]
    shown = finding.measurement.asides["rho with the diagonal"]
    for keys, found in ((others, value(finding.measurement).estimate), (CELLS, shown)):
        rhos = [
            stats.spearmanr([values[a][key] for key in keys], [values[b][key] for key in keys]).statistic
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        assert found == pytest.approx(np.mean(rhos))


class Unavailable(Study):
    """A study whose model is asked for in vain."""

    @property
    def lm(self) -> LanguageModel:  # type: ignore[override]
        raise NotRunError("gated/model needs a token")


def unavailable() -> Study:
    return Unavailable("gated/model", StudySettings(datasets=()))


def test_a_model_that_cannot_be_had_is_left_out() -> None:
    finding, outcome = run([*studies(some, some), unavailable()])
    assert outcome is Outcome.SUPPORTED
    assert "a model left out: gated/model needs a token" in finding.notes
    assert not any(name.startswith("gated/model: ") for name in finding.settings)
    finding, outcome = run([*studies(some), unavailable()])
    assert outcome is Outcome.NOT_RUN
    assert (
        finding.measurement.not_run
        == "needs two models to compare; give another --model; gated/model needs a token"
    )


def test_floors_and_matrices_without_order() -> None:
    empty = study_with(
        Matrix("training", {}), Matrix("erasing", {}, {"tested on gsm8k": "floor effect: none"})
    )
    finding, outcome = run([*studies(some), empty])
    assert (
        outcome is Outcome.INCONCLUSIVE
        and finding.measurement.floor == "erasing, tested on gsm8k: left out, floor effect: none"
    )
    flat = planted_matrix("erasing", lambda *_: 1.0, noisy=0)
    for change in flat.changes.values():
        change.base[:] = 1.0
    constant = study_with(Matrix("training", {}), flat, "flat")
    finding, outcome = run([*studies(some), constant])
    assert outcome is Outcome.INCONCLUSIVE and "alike" in (finding.measurement.floor or "")


def test_too_few_pairs_of_datasets_are_not_ranked() -> None:
    few = [
        study_with(
            Matrix("training", {}),
            planted_matrix("erasing", some, columns=DATASETS[:2], seed=seed),
        )
        for seed in (0, 1)
    ]
    finding, outcome = run(few)
    assert outcome is Outcome.NOT_RUN and "2 pairs of datasets" in (finding.measurement.not_run or "")
