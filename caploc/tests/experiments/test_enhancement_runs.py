"""What is trained, how fast, and that what is measured of a tiny model is what training gives, once."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from caploc.attribution.method import Method
from caploc.evaluation import evaluate
from caploc.experiments import enhancement_arms as arms
from caploc.experiments import enhancement_runs as runs
from caploc.experiments import study as study_module
from caploc.experiments.enhancement import param_share
from caploc.experiments.enhancement_arms import (
    FROZEN,
    LOCATED,
    NEAREST,
    OTHERS,
    RANDOM,
    UNIFORM,
    EnhancedArms,
)
from caploc.experiments.enhancement_runs import Enhanced
from caploc.experiments.evaluating import Items, PreparedItems
from caploc.experiments.locating import Magnitudes, located_mask
from caploc.experiments.specs import FloorError, Need, Plan
from caploc.experiments.study import Study, StudySettings
from caploc.findings import Cell, Outcome
from caploc.interventions.enhancement import enhance, enhanced
from caploc.locators.magnitude import Magnitude
from caploc.model.loading import LanguageModel
from caploc.model.registry import REGISTRY
from caploc.neurons import NeuronMask
from caploc.store import Store
from caploc.tests.experiments.planted import LAYERS, NEURONS, PAPER, PlantedStudy, judged, planted
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
    assert [run.draw for run in found] == [0, 1, 2]
    assert [run.seed for run in found] == [7, 8, 9]
    assert [(run.draw, run.seed) for run in arms.runs_of(OTHERS)] == [(0, 0), (0, 1)]


def test_what_only_stands_beside_is_trained_at_the_sigma_that_has_figures() -> None:
    study = Study("tiny-llama", StudySettings(sigmas=(3.0, 6.0)))
    assert set(arms.trained_at(study, 3.0)) == set(arms.METHODS)
    assert set(arms.trained_at(study, 6.0)) == {*arms.METHODS, FROZEN, NEAREST}
    assert set(arms.trained_at(Study("7b", StudySettings(sigmas=(3.0, 6.0), device="cuda")), 3.0)) == set(
        arms.RUNS
    )


def test_every_threshold_has_something_to_train_and_something_else() -> None:
    study = PlantedStudy(
        {("gsm8k", ""): planted(0, 20, [(0, 3), (1, 5)])},
        results={Magnitudes("gsm8k"): Magnitude(torch.ones(LAYERS, NEURONS))},
    )
    assert study.result(EnhancedArms("gsm8k", 6.0))[LOCATED].sets[0].count == 2
    with pytest.raises(FloorError, match="no neuron passes sigma 60 on gsm8k"):
        study.result(EnhancedArms("gsm8k", 60.0))


def test_the_lowest_loss_decides_and_of_equals_the_lowest_rate() -> None:
    grid = arms.GRID
    assert arms.best_rate([0.3, 0.2, 0.1, 0.1]) == grid[2]
    assert arms.best_rate([0.3, math.inf, math.nan, 0.1]) == grid[3]
    assert arms.best_rate([math.inf] * 4) == grid[0]


def test_one_share_cannot_serve_two_sigmas() -> None:
    """Planted: 2 neurons of 1000 far out, 12 more beyond sigma 3: 0.2 % at 6, 1.4 % at 3."""
    far = planted(0, 40, [(0, 3), (1, 5)], level=10.0)
    near = planted(1, 40, [(2, neuron) for neuron in range(12)], level=2.0)
    study = PlantedStudy({("gsm8k", ""): far + near})
    finding, verdict = judged(param_share, study, Cell("llama2-7b", None, 6.0), "table2-param-share")
    assert finding.measurement.value is not None
    assert finding.measurement.value.estimate == pytest.approx(0.002)
    assert verdict.outcome is Outcome.REFUTED
    assert "1.4" not in verdict.reason or "located-sigma3" in verdict.reason
    _, elsewhere = judged(param_share, study, Cell("planted", None, 6.0), "table2-param-share")
    assert elsewhere.outcome is Outcome.MEASURED and "prints no number" in elsewhere.reason


def test_a_share_that_fits_both_sigmas_is_supported() -> None:
    study = PlantedStudy({("gsm8k", ""): planted(0, 40, [(0, 3), (1, 5)], scale=0.01)})
    _, verdict = judged(param_share, study, Cell("llama2-7b", None, 3.0), "table2-param-share")
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
        patch.setattr(arms, "GRID", (1e-4, 1e-2))
        made = _study(folder, tiny_lm())
        plan = Plan([Need(made, Enhanced("gsm8k", SIGMA))])
        assert plan.compute() > 0 and plan.outlook.flops > 0
        assert made.settings.store.describe().entries > sum(FEW.values())
        yield made


def test_what_is_measured_is_what_training_gives(study: Study) -> None:
    before = study.lm.fingerprint
    found = study.result(Enhanced("gsm8k", SIGMA))
    assert study.lm.fingerprint == before
    assert [run.arm for run in found.runs] == [
        arm for arm, count in FEW.items() for _ in range(count) if arm != UNIFORM
    ]
    index = found.indices(OTHERS)[1]
    run, mask = found.runs[index], located_mask(study, "gsm8k", SIGMA)
    recipe = arms.recipe_of(found.rates.chosen[OTHERS], arms.EPOCHS, run.seed)
    examples = arms.training_examples(study, "gsm8k")
    again = enhance(study.lm, NeuronMask(~mask.values), examples, recipe, zeroed=mask)
    assert np.array_equal(found.losses[index], again.losses)
    for place, epoch in enumerate(arms.EPOCHS):
        for name in ("gsm8k", "emotion"):
            with enhanced(study.lm, again.at[epoch]):
                outcomes = evaluate(study.lm, study.result(Items(name)).prepared)
            if name == "gsm8k" or epoch == arms.LAST:
                assert not np.isnan(outcomes.score).any()
                assert np.array_equal(found.score[name][index, place], outcomes.score)
                assert np.allclose(found.nll[name][index, place], outcomes.nll)
            else:  # what was not trained on is scored after the last epoch alone
                assert np.isnan(found.score[name][index, place]).all()
    assert not found.indices(UNIFORM)
    assert np.isnan(found.nll["gsm8k"][found.indices(NEAREST), 0]).all()
    assert np.isfinite(found.nll["gsm8k"][:, -1]).all()


def test_training_goes_on_to_examples_that_did_not_locate_and_are_not_tested(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other dataset is evaluated on a question that this one would be trained on."""
    monkeypatch.setattr(study_module, "CPU_SAMPLES", 16)
    questions = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(10, 80)]
    _write(tmp_path, "gsm8k", questions, 40)
    shared = [{"query": q["question"], "response": q["answer"], "type": "x"} for q in questions[:40:2]]
    _write(tmp_path, "meta_math", [*[{**one, "query": f"Say {one['query']}"} for one in shared], *shared], 20)
    settings = replace(
        _study(folder, tiny_lm()).settings,
        samples=None,
        data_root=str(tmp_path),
        datasets=["gsm8k", "meta_math"],
    )
    made = Study("mine", settings, tiny_lm())
    found, located = arms.training_examples(made, "gsm8k"), made.located("gsm8k").tokenized
    assert [one.content for one in found[: len(located)]] == [one.content for one in located]
    trained = {arms._prompt(one) for one in found}
    assert len(located) < len(found) == len(trained) < 40
    for name in ("gsm8k", "meta_math"):
        items = made.result(PreparedItems(name)).prepared.all_items
        assert not trained & {arms._prompt(one.tokens) for one in items}
    monkeypatch.setattr(arms, "CPU_EXAMPLES", 5)
    again = Study("mine", settings, tiny_lm())
    assert len(arms.training_examples(again, "gsm8k")) == 5


def test_arms_are_what_they_are_called(study: Study) -> None:
    made = study.result(EnhancedArms("gsm8k", SIGMA))
    mask = made[LOCATED].sets[0]
    assert torch.equal(mask.values, located_mask(study, "gsm8k", SIGMA).values)
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
    first = study.result(Enhanced("gsm8k", SIGMA))

    def never(*args: object, **options: object) -> None:
        raise AssertionError("trained again")

    for module in (runs, arms):
        monkeypatch.setattr(module, "enhance", never)
    monkeypatch.setattr(Study, "weights", never)
    monkeypatch.setattr(Study, "hold", never)
    again = _study(folder, study.lm)
    assert Plan([Need(again, Enhanced("gsm8k", SIGMA))]).compute() == 0
    second = again.result(Enhanced("gsm8k", SIGMA))
    assert second.rates == first.rates
    for name in first.datasets:
        assert np.array_equal(first.score[name], second.score[name], equal_nan=True)


def test_a_diverging_rate_is_told_and_loses_nothing(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "GRID", (1e38,))
    found = _study(folder, study.lm).result(Enhanced("gsm8k", SIGMA))
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
        sigmas=(SIGMA,),
        method=Method(steps=2),
        margins=PAPER.margins,
        store=Store(folder / "store"),
    )
    return Study("mine", settings, lm)


def _write(folder: Path, name: str, records: Sequence[Mapping[str, object]], train: int = 20) -> None:
    for part, some in (("train", records[:train]), ("test", records[train:])):
        (folder / f"{name}_{part}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in some))
