"""Which claims rest on training is known before anything is imported, by name; here it is told from what they need."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import FunctionType

import pytest

from caploc.audit.cells import cell_parameters
from caploc.audit.claims import ClaimTest, experiment_of, experiments, trains
from caploc.experiments.cross_dataset_matrix import TrainingMatrix
from caploc.experiments.enhancement_runs import Enhanced
from caploc.findings import Cell
from caploc.model.registry import REGISTRY
from caploc.papers import load_paper
from caploc.tests.audit.test_settings import read
from caploc.tests.experiments.trained import TrainedStudy

CLAIMS = Path(__file__).resolve().parents[3] / "claims" / "capability_localization"
PAPER = load_paper("capability_localization")


@pytest.mark.skipif(
    not CLAIMS.is_dir(), reason="claims/ comes with the repository, not with an installed package"
)
def test_claims_are_known_to_rest_on_training_by_what_they_need() -> None:
    study = TrainedStudy({})
    resting, others = set(), set()
    for file in CLAIMS.glob("test_*.py"):
        for test in runpy.run_path(str(file)).values():
            for mark in getattr(test, "pytestmark", ()) if isinstance(test, FunctionType) else ():
                declared: ClaimTest = mark.args[0]
                if declared.over == "print":
                    continue
                cell = Cell("planted", declared.dataset or "gsm8k", declared.sigma or 6.0)
                subject = [study] if declared.over == "models" else study
                needs = declared.load().needs(subject, cell, PAPER.claims[declared.claim])
                trained = any(isinstance(need.spec, Enhanced | TrainingMatrix) for need in needs)
                (resting if trained else others).add(experiment_of(declared))
                assert trains(declared) == trained, experiment_of(declared)
    assert len(resting) > 8 and len(others) > 30


@pytest.mark.parametrize(("experiment", "need"), [("located_beats_random", "training"), ("", "attribution")])
@pytest.mark.parametrize("over", ["model", "models"])
def test_claims_about_training_ask_for_more_memory(experiment: str, need: str, over: str) -> None:
    declared = ClaimTest("", getattr(experiments.enhancement, experiment) if experiment else None, over)  # type: ignore[arg-type]
    settings = read(model=["llama2-7b,gptj-6b"], sigma=["6"])
    for parameter in cell_parameters(declared, settings, lambda _: ()):
        marks = {mark.name: mark.args for mark in parameter.marks}
        models = ("llama2-7b", "gptj-6b") if over == "models" else (parameter.id.rpartition("-s")[0],)
        assert marks["min_gb"] == (max(REGISTRY[name].min_gb(need) for name in models),)
    assert REGISTRY["llama2-7b"].min_gb("training") > REGISTRY["llama2-7b"].min_gb("attribution")
