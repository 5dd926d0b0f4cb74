"""The overlap of GSM8K and Emotion on planted scores, and what a study's matrices are read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from caploc.experiments import cross_dataset
from caploc.experiments.cross_dataset import sources
from caploc.experiments.enhancement_arms import EPOCHS, LOCATED, NEAREST, RANDOM, Run
from caploc.experiments.enhancement_runs import Enhancements
from caploc.experiments.specs import FloorError
from caploc.experiments.study import NotRunError, Study
from caploc.findings import Finding, Outcome
from caploc.tests.experiments.planted import PlantedStudy, noise, planted
from caploc.tests.experiments.planted_matrices import SIGMA, cell_of, verdict_of
from caploc.tests.experiments.verdicts import HALF_A, A, B

CLAIM = "cross-gsm8k-emotion-overlap"
THREE = ("gsm8k", "emotion", "code25k")


def run(neurons: Mapping[str, Sequence[tuple[int, int]]], scale: float = 0.1) -> tuple[Finding, Outcome]:
    data = {(name, ""): planted(seed, 40, at, scale) for seed, (name, at) in enumerate(neurons.items())}
    data |= {(name, "untrained"): noise(9 + seed, 40) for seed, name in enumerate(neurons)}
    finding = cross_dataset.gsm8k_emotion_overlap(PlantedStudy(data), cell_of(), CLAIM)
    return finding, verdict_of(finding).outcome


@pytest.mark.parametrize(
    ("third", "lead", "expected"),
    [(B, 1.0, Outcome.SUPPORTED), (HALF_A, 0.5, Outcome.SUPPORTED), (A, 0.0, Outcome.REFUTED)],
)
def test_it_leads_its_larger_rival(third: Sequence[tuple[int, int]], lead: float, expected: Outcome) -> None:
    finding, outcome = run({"gsm8k": A, "emotion": A, "code25k": third})
    assert outcome is expected and finding.estimate == pytest.approx(lead)
    assert finding.quantities["gsm8k~emotion"] == 1
    assert finding.quantities["emotion~code25k"] == pytest.approx(1 - lead)
    assert finding.chance is not None and abs(finding.chance) < 0.05
    assert finding.n == 120 and finding.draws == 1000


def test_a_rival_that_overlaps_more_refutes_it() -> None:
    finding, outcome = run({"gsm8k": A, "emotion": B, "code25k": A})
    assert outcome is Outcome.REFUTED and finding.estimate == -1


def test_luck_with_samples_widens_the_interval() -> None:
    """Neurons at the threshold come and go with the samples."""
    finding, _ = run({"gsm8k": A, "emotion": HALF_A, "code25k": A[:4] + B[4:]}, scale=0.8)
    assert finding.interval is not None and finding.interval[1] - finding.interval[0] > 0.05
    assert finding.interval[0] <= finding.quantities["gap90_low"] <= finding.quantities["gap90_high"]


def test_all_three_datasets_are_needed() -> None:
    finding, outcome = run({"gsm8k": A, "emotion": A})
    assert (
        outcome is Outcome.NOT_RUN
        and finding.not_run == "this claim needs code25k too; add --dataset code25k"
    )


def test_where_nothing_is_located_no_overlap_is_defined() -> None:
    finding, outcome = run({"gsm8k": A, "emotion": A, "code25k": []})
    assert outcome is Outcome.INCONCLUSIVE and "no neuron passes sigma 6" in (finding.floor or "")


def study() -> PlantedStudy:
    return PlantedStudy({(name, ""): noise(seed, 16) for seed, name in enumerate(THREE)})


def test_erasures_become_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    floors = {"gsm8k": None, "emotion": "floor effect: no", "code25k": None}
    asked = []

    def erasures(_: Study, row: str, sigma: float) -> Any:
        asked.append((row, sigma))
        if row == "emotion":
            raise FloorError("nothing passes")
        items = {name: SimpleNamespace(floor=why, base={"score": np.ones(4)}) for name, why in floors.items()}
        arm = {"score": np.full((2, 4), 0.25)}
        arms = {"located": {"score": np.full((1, 4), 0.5)}, "by layer": arm}
        return SimpleNamespace(items=items, outcomes={name: dict(arms) for name in THREE} | {
            row: {**arms, "by magnitude": arm, "largest": arm}
        })  # fmt: skip

    monkeypatch.setattr(sources, "erasures", erasures)
    own = study()
    matrix = sources.erasing(own, SIGMA)
    assert matrix.rows == matrix.columns == ["gsm8k", "code25k"]
    assert matrix.left_out == {
        "located on emotion": "nothing passes",
        "tested on emotion": "floor effect: no",
    }
    change = matrix.changes["gsm8k", "code25k"]
    assert change.value == -0.5 and change.random.shape == (2, 4) and change.nearest is None
    assert matrix.changes["gsm8k", "gsm8k"].nearest is not None
    assert sources.erasing(own, SIGMA) is matrix and len(asked) == 3


def test_what_cannot_be_evaluated_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def erasures(_: Study, row: str, sigma: float) -> Any:
        raise NotRunError(f"{row} has 3 items")

    monkeypatch.setattr(sources, "erasures", erasures)
    with pytest.raises(NotRunError, match="gsm8k has 3 items"):
        sources.erasing(study(), SIGMA)


def enhancements_of(own: Study, diverged: int | None) -> Enhancements:
    runs = [Run(LOCATED, 0, 0), Run(RANDOM, 0, 0), Run(RANDOM, 1, 1), Run(NEAREST, 0, 0)]
    score = np.zeros((4, len(EPOCHS), 5))
    score[:, -1] = np.array([0.9, 0.4, 0.2, 0.7])[:, None]
    some = dict.fromkeys(THREE, score)
    base = {"gsm8k": np.full(5, 0.1), "emotion": np.ones(5), "code25k": np.full(5, 0.3)}
    fields: dict[str, Any] = dict.fromkeys(Enhancements.__dataclass_fields__)
    fields |= {"study": own, "trained_on": "gsm8k", "runs": runs, "score": some, "base_score": base}
    return Enhancements(**{**fields, "diverged": [None, diverged, None, None]})


@pytest.mark.parametrize("diverged", [None, 7])
def test_enhancements_become_a_matrix(monkeypatch: pytest.MonkeyPatch, diverged: int | None) -> None:
    own = study()
    own.__dict__["lm"] = SimpleNamespace(fingerprint="f" * 64)
    monkeypatch.setattr(
        sources,
        "enhancements",
        lambda _, row, __: enhancements_of(own, diverged if row == "code25k" else None),
    )
    matrix = sources.training(own, SIGMA)
    assert matrix.columns == ["gsm8k", "code25k"]
    assert matrix.rows == (["gsm8k", "emotion"] if diverged else ["gsm8k", "emotion", "code25k"])
    assert matrix.left_out["tested on emotion"].startswith(
        "ceiling effect: the untouched model scores 100.0 % on emotion"
    )
    assert matrix.left_out.get("located on code25k") == ("training diverged (random)" if diverged else None)
    change = matrix.changes["gsm8k", "code25k"]
    assert change.value == pytest.approx(0.6) and change.random.mean() == pytest.approx(0.3)
    assert change.nearest is not None and change.nearest.shape == (1, 5)
    assert matrix.settings["epochs"] == 10 and matrix.study is own
