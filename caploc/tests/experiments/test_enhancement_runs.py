"""What is trained, how fast, and that what is measured of a tiny model is what training gives, once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.attribution.method import Method
from caploc.evaluation import evaluate
from caploc.experiments.endings import FloorError
from caploc.experiments.enhancement import arms, param_share, rates, runs
from caploc.experiments.enhancement.arms import FROZEN, NEAREST, OTHERS, RANDOM, UNIFORM
from caploc.experiments.evaluation_data import evaluation_items
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Outcome
from caploc.interventions.enhancement import enhance, enhanced
from caploc.model.loading import LanguageModel
from caploc.model.registry import REGISTRY
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.store import Store
from caploc.tests.experiments.planted import PlantedStudy, planted
from caploc.tests.tiny import tiny_lm

SIGMA = 2.0
FEW = {**dict.fromkeys(arms.RUNS, 1), OTHERS: 2}


def test_embedded_models_have_an_early_checkpoint_and_others_train_themselves() -> None:
    settings = StudySettings()
    for name in ("tiny-llama", "tiny-gptj"):
        study = Study(name, settings)
        assert study.early.model == f"{name}-early"
        assert study.early is study.early
        assert study.early.early is study.early
        assert REGISTRY[study.early.model].family == REGISTRY[name].family
    own = Study("mine", settings)
    assert own.early is own


def test_runs_of_random_arms_have_sets_of_their_own_and_seeds_in_turn() -> None:
    found = arms.runs_of(RANDOM, seed=7)
    assert [run.draw for run in found] == [0, 1, 2, 3, 4]
    assert [run.seed for run in found] == [7, 8, 9, 7, 8]
    assert [(run.draw, run.seed) for run in arms.runs_of(OTHERS)] == [(0, 0), (0, 1), (0, 2)]


def test_every_threshold_has_something_to_train_and_something_else() -> None:
    study = PlantedStudy({("gsm8k", ""): planted(0, 20, [(0, 3), (1, 5)])})
    assert arms.located_mask(study, "gsm8k", 6).count == 2
    with pytest.raises(FloorError, match="no neuron passes sigma 60 on gsm8k"):
        arms.located_mask(study, "gsm8k", 60)


def test_the_lowest_loss_decides_and_of_equals_the_lowest_rate() -> None:
    grid = rates.GRID
    assert rates.best_rate([0.3, 0.2, 0.1, 0.1]) == grid[2]
    assert rates.best_rate([0.3, math.inf, math.nan, 0.1]) == grid[3]
    assert rates.best_rate([math.inf] * 4) == grid[0]


def test_one_share_cannot_serve_two_sigmas() -> None:
    """Planted: 2 neurons of 1000 far out, 12 more beyond sigma 3: 0.2 % at 6, 1.4 % at 3."""
    far = planted(0, 40, [(0, 3), (1, 5)], level=10.0)
    near = planted(1, 40, [(2, neuron) for neuron in range(12)], level=2.0)
    study = PlantedStudy({("gsm8k", ""): far + near})
    finding = param_share(study, Cell("planted", None, 6.0), "table2-param-share")
    assert finding.estimate == pytest.approx(0.002)
    verdict = judge(load_paper("capability_localization").claim("table2-param-share"), finding)
    assert verdict.outcome is Outcome.REFUTED
    assert "1.4" not in verdict.reason or "located-sigma3" in verdict.reason


def test_a_share_that_fits_both_sigmas_is_supported() -> None:
    study = PlantedStudy({("gsm8k", ""): planted(0, 40, [(0, 3), (1, 5)], scale=0.01)})
    finding = param_share(study, Cell("planted", None, 3.0), "table2-param-share")
    verdict = judge(load_paper("capability_localization").claim("table2-param-share"), finding)
    assert verdict.outcome is Outcome.SUPPORTED, verdict.reason


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small sums and feelings, and room for a store."""
    found = tmp_path_factory.mktemp("data")
    _write(found, "gsm8k", [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(10, 45)])
    _write(found, "emotion", [{"text": f"word {n}", "label": n % 6} for n in range(35)])
    return found


@pytest.fixture(scope="module")
def study(folder: Path) -> Iterator[Study]:
    """A tiny model on them, few runs an arm, two rates."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "RUNS", FEW)
        patch.setattr(rates, "GRID", (1e-4, 1e-2))
        yield _study(folder, tiny_lm())


def test_what_is_measured_is_what_training_gives(study: Study) -> None:
    before = study.lm.fingerprint
    found = runs.enhancements(study, "gsm8k", SIGMA)
    assert study.lm.fingerprint == before
    assert [run.arm for run in found.runs] == [arm for arm, count in FEW.items() for _ in range(count)]
    index = found.indices(OTHERS)[1]
    run, mask = found.runs[index], arms.located_mask(study, "gsm8k", SIGMA)
    recipe = rates.recipe_of(found.rates.chosen[OTHERS], runs.EPOCHS, run.seed)
    examples = runs.training_examples(study, "gsm8k")
    again = enhance(study.lm, arms.NeuronMask(~mask.values), examples, recipe, zeroed=mask)
    assert np.array_equal(found.losses[index], again.losses)
    for place, epoch in enumerate(runs.EPOCHS):
        with enhanced(study.lm, again.at[epoch]):
            outcomes = evaluate(study.lm, evaluation_items(study, "emotion").prepared)
        assert np.array_equal(found.score["emotion"][index, place], outcomes.score)
        assert np.allclose(found.nll["emotion"][index, place], outcomes.nll)
    assert np.isnan(found.nll["gsm8k"][found.indices(UNIFORM), 0]).all()
    assert np.isfinite(found.nll["gsm8k"][:, -1]).all()


def test_arms_are_what_they_are_called(study: Study) -> None:
    mask = arms.located_mask(study, "gsm8k", SIGMA)
    made = arms.arms_of(study, "gsm8k", mask)
    assert made[OTHERS].zeroed is mask
    assert made[FROZEN].zeroed is None
    for arm in (OTHERS, FROZEN):
        assert torch.equal(made[arm].sets[0].values, ~mask.values)
    for arm in (RANDOM, NEAREST):
        assert all(one.per_layer == mask.per_layer for one in made[arm].sets)
    assert all(one.count == mask.count for one in made[UNIFORM].sets)
    assert not (made[NEAREST].sets[0].values & mask.values).any()


def test_a_second_study_reads_what_the_first_has_stored(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runs.enhancements(study, "gsm8k", SIGMA)

    def never(*args: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(runs, "enhance", never)
    monkeypatch.setattr(rates, "enhance", never)
    second = runs.enhancements(_study(folder, study.lm), "gsm8k", SIGMA)
    assert second.rates == first.rates
    for name in first.datasets:
        assert np.array_equal(first.score[name], second.score[name], equal_nan=True)


def test_a_diverging_rate_is_told_and_loses_nothing(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "GRID", (1e38,))
    found = runs.enhancements(_study(folder, study.lm), "gsm8k", SIGMA)
    assert found.rates.pilots[OTHERS] == [math.inf]
    assert not found.indices(OTHERS)
    assert all(len(losses) for losses in found.losses)
    with pytest.raises(FloorError, match="every run of the arm 'all but located' on gsm8k diverged"):
        found.of(OTHERS, "gsm8k", 10)


def _study(folder: Path, lm: LanguageModel) -> Study:
    settings = StudySettings(
        samples=16,
        data_root=str(folder),
        datasets=["gsm8k", "emotion"],
        method=Method(steps=2),
        store=Store(folder / "store"),
    )
    return Study("mine", settings, lm)


def _write(folder: Path, name: str, records: list[dict[str, object]]) -> None:
    for part, some in (("train", records[:20]), ("test", records[20:])):
        (folder / f"{name}_{part}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
