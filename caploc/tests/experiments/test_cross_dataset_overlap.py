"""The overlap of GSM8K and Emotion on planted scores, and what a study's matrices are read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from caploc.experiments import cross_dataset
from caploc.experiments.cross_dataset_matrix import ErasingMatrix, TrainingMatrix
from caploc.experiments.enhancement_arms import EPOCHS, LOCATED, NEAREST, RANDOM, Run
from caploc.experiments.enhancement_runs import Enhanced, Enhancements
from caploc.experiments.erasure_sets import Erased
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.findings import Measurement, Outcome, Part
from caploc.tests.experiments.planted import PlantedStudy, judged, noise, planted
from caploc.tests.experiments.planted_matrices import SIGMA, cell_of
from caploc.tests.experiments.verdicts import HALF_A, A, B

CLAIM = "cross-gsm8k-emotion-overlap"
THREE = ("gsm8k", "emotion", "code25k")


def run(neurons: Mapping[str, Sequence[tuple[int, int]]], scale: float = 0.1) -> tuple[Measurement, Outcome]:
    data = {(name, ""): planted(seed, 40, at, scale) for seed, (name, at) in enumerate(neurons.items())}
    data |= {(name, "untrained"): noise(9 + seed, 40) for seed, name in enumerate(neurons)}
    finding, verdict = judged(cross_dataset.gsm8k_emotion_overlap, PlantedStudy(data), cell_of(), CLAIM)
    return finding.measurement, verdict.outcome


def value(found: Measurement) -> Part:
    assert found.value is not None
    return found.value


@pytest.mark.parametrize(
    ("third", "lead", "expected"),
    [(B, 1.0, Outcome.SUPPORTED), (HALF_A, 0.5, Outcome.SUPPORTED), (A, 0.0, Outcome.REFUTED)],
)
def test_it_leads_its_larger_rival(third: Sequence[tuple[int, int]], lead: float, expected: Outcome) -> None:
    found, outcome = run({"gsm8k": A, "emotion": A, "code25k": third})
    assert outcome is expected and value(found).estimate == pytest.approx(lead)
    assert found.asides["gsm8k~emotion"] == 1
    assert found.asides["emotion~code25k"] == pytest.approx(1 - lead)
    assert found.chance is not None and abs(found.chance) < 0.05
    assert found.n == 120 and found.draws == 1000


def test_a_rival_that_overlaps_more_refutes_it() -> None:
    found, outcome = run({"gsm8k": A, "emotion": B, "code25k": A})
    assert outcome is Outcome.REFUTED and value(found).estimate == -1


def test_sampling_error_widens_the_interval() -> None:
    """Neurons at the threshold come and go with the samples."""
    found, _ = run({"gsm8k": A, "emotion": HALF_A, "code25k": A[:4] + B[4:]}, scale=0.8)
    (low, high), (low90, high90) = value(found).interval or (0, 0), value(found).interval90 or (0, 0)
    assert high - low > 0.05 and low <= low90 <= high90


def test_all_three_datasets_are_needed() -> None:
    found, outcome = run({"gsm8k": A, "emotion": A})
    assert outcome is Outcome.NOT_RUN
    assert found.not_run == "this claim needs code25k too; add --dataset code25k"


def test_where_nothing_is_located_no_overlap_is_defined() -> None:
    found, outcome = run({"gsm8k": A, "emotion": A, "code25k": []})
    assert outcome is Outcome.INCONCLUSIVE and "no neuron passes sigma 6" in (found.floor or "")


def study(results: Mapping[Spec[Any], Any]) -> PlantedStudy:
    """Three datasets, and what their specs give."""
    return PlantedStudy({(name, ""): noise(seed, 16) for seed, name in enumerate(THREE)}, results=results)


def test_erasures_become_a_matrix() -> None:
    floors = {"gsm8k": None, "emotion": "floor effect: no", "code25k": None}
    items = {name: SimpleNamespace(floor=why, base={"score": np.ones(4)}) for name, why in floors.items()}
    arm = {"score": np.full((2, 4), 0.25)}
    arms = {"located": {"score": np.full((1, 4), 0.5)}, "by layer": arm}
    results: dict[Spec[Any], Any] = {
        Erased(row, SIGMA): SimpleNamespace(
            items=items,
            outcomes={name: dict(arms) for name in THREE}
            | {row: {**arms, "by magnitude": arm, "largest": arm}},
        )
        for row in ("gsm8k", "code25k")
    }
    own = study({**results, Erased("emotion", SIGMA): FloorError("nothing passes")})
    assert list(ErasingMatrix(SIGMA).after(own)) == [Erased(row, SIGMA) for row in THREE]
    matrix = own.result(ErasingMatrix(SIGMA))
    assert matrix.rows == matrix.columns == ["gsm8k", "code25k"]
    assert matrix.left_out == {
        "located on emotion": "nothing passes",
        "tested on emotion": "floor effect: no",
    }
    change = matrix.changes["gsm8k", "code25k"]
    assert change.value == -0.5 and change.random.shape == (2, 4) and change.nearest is None
    assert matrix.changes["gsm8k", "gsm8k"].nearest is not None
    assert own.result(ErasingMatrix(SIGMA)) is matrix


def test_what_cannot_be_evaluated_is_not_run() -> None:
    absent = study({Erased(row, SIGMA): NotRunError(f"{row} has 3 items") for row in THREE})
    with pytest.raises(NotRunError, match="gsm8k has 3 items"):
        absent.result(ErasingMatrix(SIGMA))


def enhancements_of(diverged: int | None) -> Enhancements:
    runs = [Run(LOCATED, 0, 0), Run(RANDOM, 0, 0), Run(RANDOM, 1, 1), Run(NEAREST, 0, 0)]
    score = np.zeros((4, len(EPOCHS), 5))
    score[:, -1] = np.array([0.9, 0.4, 0.2, 0.7])[:, None]
    some = dict.fromkeys(THREE, score)
    base = {"gsm8k": np.full(5, 0.1), "emotion": np.ones(5), "code25k": np.full(5, 0.3)}
    fields: dict[str, Any] = dict.fromkeys(Enhancements.__dataclass_fields__)
    fields |= {"trained_on": "gsm8k", "runs": runs, "score": some, "base_score": base}
    return Enhancements(**{**fields, "diverged": [None, diverged, None, None]})


@pytest.mark.parametrize("diverged", [None, 7])
def test_enhancements_become_a_matrix(diverged: int | None) -> None:
    own = study(
        {Enhanced(row, SIGMA): enhancements_of(diverged if row == "code25k" else None) for row in THREE}
    )
    own.__dict__["lm"] = SimpleNamespace(fingerprint="f" * 64)
    need = TrainingMatrix.need(own, SIGMA)
    assert need.study is own.early and set(need.spec.after(own)) == {Enhanced(row, SIGMA) for row in THREE}
    matrix = own.result(TrainingMatrix(SIGMA))
    assert matrix.columns == ["gsm8k", "code25k"]
    assert matrix.rows == (["gsm8k", "emotion"] if diverged else ["gsm8k", "emotion", "code25k"])
    assert matrix.left_out["tested on emotion"].startswith(
        "ceiling effect: the untouched model scores 100.0 % on emotion"
    )
    assert matrix.left_out.get("located on code25k") == ("training diverged (random)" if diverged else None)
    change = matrix.changes["gsm8k", "code25k"]
    assert change.value == pytest.approx(0.6) and change.random.mean() == pytest.approx(0.3)
    assert change.nearest is not None and change.nearest.shape == (1, 5)
    assert matrix.settings["training: epochs"] == 10 and matrix.study is own
