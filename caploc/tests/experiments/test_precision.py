"""In half precision, what that cannot tell apart is measured in float32 beside the rest; a GPU holds one of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from caploc.attribution.method import Method
from caploc.experiments.completeness import KnownScores
from caploc.experiments.edited_facts import EditsByLayer
from caploc.experiments.fact_circuits import RunAlone
from caploc.experiments.facts import FirstFacts, facts_of
from caploc.experiments.locating import Scores
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.readings import Reading
from caploc.experiments.specs import Spec
from caploc.experiments.study import Study, StudySettings
from caploc.model.loading import wrap
from caploc.store import Store
from caploc.tests.experiments.planted import PAPER
from caploc.tests.gpu.simulated import SimulatedGpus
from caploc.tests.tiny import save_tiny, tiny_lm

FACTS = FirstFacts(facts_of("mine", wordings=1), 2)
IN_FLOAT32: dict[str, tuple[Spec[Any], dict[str, Any]]] = {
    "circuits": (LocatedFacts("kc", FACTS), {}),
    "circuits-of-the-twin": (LocatedFacts("kc", FACTS, "untrained"), {}),
    "circuits-alone": (RunAlone(FACTS), {}),
    "neurons-one-at-a-time": (Scores("mine"), {"reading": Reading(path="neuron")}),
    "of-facts": (LocatedFacts("kn", FACTS), {"reading": Reading(path="neuron")}),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model, and facts that name their subjects."""
    records = []
    for one in range(20):
        subject = f"{chr(97 + one)}{one}"
        answer = f" {chr(120 - one % 20)}"
        records.append({"id": f"f{one}", "prompt": f"{subject} is in", "answer": answer, "subject": subject})
    (tmp_path / "mine_train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (tmp_path / "mine_test.jsonl").write_text('{"prompt": "held", "answer": " out"}\n')
    save_tiny(tmp_path / "model")
    return tmp_path


def study_of(folder: Path, dtype: str, device: str = "cpu", **settings: Any) -> Study:
    defaults: dict[str, Any] = {
        "data_root": str(folder),
        "datasets": ["mine"],
        "samples": 16,
        "method": Method(steps=2),
        "margins": {**PAPER.margins, "fewest-facts": 8},
        "store": Store(folder / dtype / device),
    }
    return Study(str(folder / "model"), StudySettings(dtype=dtype, device=device, **{**defaults, **settings}))


def numbers_of(found: Any) -> np.ndarray:
    if hasattr(found, "totals"):
        return np.asarray(found.totals)
    return found.values["located"] if hasattr(found, "values") else found.sets.members.toarray()


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_results_are_those_of_a_study_in_float32(folder: Path, name: str) -> None:
    spec, settings = IN_FLOAT32[name]
    half, whole = (study_of(folder, dtype, **settings) for dtype in ("bfloat16", "float32"))
    # facts are known, and wordings chosen, by each study's own model: here they are the same ones
    np.testing.assert_array_equal(numbers_of(half.result(spec)), numbers_of(whole.result(spec)))
    assert half.named().dtype == torch.bfloat16 and half.named(half.precise()).dtype == torch.float32
    keys = {task.key for task in half.tasks(spec)}
    assert keys == {task.key for task in whole.tasks(spec)}, "float32 results are shared"


def test_the_rest_stays_in_half_precision(folder: Path) -> None:
    half, whole = study_of(folder, "bfloat16"), study_of(folder, "float32")
    assert not np.array_equal(half.result(Scores("mine")).totals, whole.result(Scores("mine")).totals)
    assert half.precise() == half.precise(half.precise()) != "" and whole.precise("untrained") == "untrained"


def test_a_given_model_is_widened(folder: Path) -> None:
    lm = tiny_lm(dtype=torch.bfloat16)
    settings = study_of(folder, "bfloat16").settings
    study = Study("given", settings, lm)
    wide = study.named(study.precise())
    assert wide.dtype == torch.float32 and lm.dtype == torch.bfloat16
    for name, weight in wide.model.named_parameters():
        assert torch.equal(weight, lm.model.get_parameter(name).float())
    assert wrap("w", wide.model, wide.tokenizer, wide.architecture).fingerprint == wide.fingerprint


def test_a_gpu_holds_one_of_both(folder: Path) -> None:
    with SimulatedGpus() as gpus:
        study = study_of(folder, "bfloat16", "cuda")
        scores, circuits = study.result(Scores("mine")), study.result(LocatedFacts("kc", FACTS))
        study.release()
        wide = study.named(study.precise())
        parameters = wide.num_parameters
        assert wide.device.type == "cuda" and study.named().device.type == "cpu"
        assert 4 * parameters <= gpus.live() < 4.5 * parameters
        study.weights()
        assert study.named().device.type == "cuda" and wide.device.type == "cpu"
        assert 2 * parameters <= gpus.live() < 2.5 * parameters
        study.weights(study.precise("untrained"))
        assert gpus.live() < 4.5 * parameters
    on_cpu = study_of(folder, "bfloat16")
    np.testing.assert_allclose(scores.totals, on_cpu.result(Scores("mine")).totals, rtol=1e-2, atol=1e-4)
    assert np.array_equal(numbers_of(circuits), numbers_of(on_cpu.result(LocatedFacts("kc", FACTS))))


def test_facts_are_edited_and_neurons_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ended with "give --dtype float32" for every cell of a run in bfloat16."""

    def known(lm: object, prompts: list[object]) -> tuple[np.ndarray, np.ndarray]:
        return np.ones(len(prompts), np.int64), np.full(len(prompts), -0.1)

    monkeypatch.setattr("caploc.experiments.facts.answers_known", known)
    half, whole = (study_of(folder, dtype) for dtype in ("bfloat16", "float32"))
    spec = KnownScores("mine", 2, "neuron")
    assert [task.key for task in half.tasks(spec)] == [task.key for task in whole.tasks(spec)]
    np.testing.assert_array_equal(half.result(spec), whole.result(spec))
    arrays, _ = half.tasks(EditsByLayer("mine"))[0].compute()
    assert all(np.isfinite(rows[:, 4]).all() for rows in arrays.values())
