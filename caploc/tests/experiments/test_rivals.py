"""CNL against the other methods: verdicts on planted samples and outcomes, and what a small model's samples are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from caploc.attribution.engine import attribute
from caploc.circuits import DecomposedModel, attribute_edges
from caploc.circuits.graph import mlps_of
from caploc.evaluation import Outcomes
from caploc.examples import Example, tokenize
from caploc.experiments import rival_sets as erasing
from caploc.experiments import rival_sets as sampling
from caploc.experiments import rivals
from caploc.experiments.rivals.erased import Erased, erased_of
from caploc.experiments.rivals.samples import CPU_SAMPLES, Samples, samples_of
from caploc.experiments.rivals.sets import CIRCUITS, CNL, KN, LAYERS, MAGNITUDE
from caploc.experiments.study import Located, Study, StudySettings
from caploc.findings import Cell, Finding, Outcome, Verdict
from caploc.locators.magnitude import magnitude
from caploc.model.loading import LanguageModel
from caploc.neurons import Threshold
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.store import Store
from caploc.tests.tiny import NEURONS, tiny_lm

CLAIM = "general-cnl-outperforms"
COUNT, LAYERS_OF, WIDTH, ITEMS = 32, 4, 60, 80
METHODS = (CNL, KN, LAYERS, CIRCUITS, MAGNITUDE)


class PlantedRivals(Study):
    def __init__(self, samples: Samples, erased: Erased, floor: str | None = None) -> None:
        super().__init__("planted", StudySettings(draws=40))
        self._made[("evaluation items", "gsm8k")] = SimpleNamespace(floor=floor)
        self._made[("rivals, samples", "gsm8k")] = samples
        self._made[("rivals, erased", "gsm8k", Threshold(6.0))] = erased

    def record(self, dataset: str | None = None) -> dict[str, Any]:
        return {"seed": self.settings.seed}


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, *shape))


def stable(seed: int = 0) -> np.ndarray:
    """Scores in which the same four neurons stand out in every sample."""
    scores = 0.01 * noise(seed, LAYERS_OF, WIDTH)
    scores[:, 1, [3, 30]] += 1
    scores[:, 2, [7, 9]] += 1
    return scores


def ahead() -> Samples:
    """CNL alone finds the same neurons in both halves."""
    unstable = [noise(seed, LAYERS_OF, WIDTH) for seed in (2, 3)]
    at = np.eye(LAYERS_OF, dtype=bool).repeat(3, axis=0)
    return Samples(
        stable(), noise(1, LAYERS_OF, WIDTH), *unstable, noise(4, LAYERS_OF), noise(5, 3 * LAYERS_OF), at
    )


def outcomes(items: int = ITEMS, **left: float) -> Erased:
    """Score after erasure by method, 0.9 where not named; each method is right on the first of the items."""
    score = {name: (np.arange(items) < left.get(name, 0.9) * items).astype(float) for name in METHODS}
    return Erased(np.ones(items), score, {name: 1 - values for name, values in score.items()}, 0.0)


def run(samples: Samples, erased: Erased, floor: str | None = None) -> tuple[Finding, Verdict]:
    """The finding, which must be strict JSON, and its verdict."""
    study = PlantedRivals(samples, erased, floor)
    finding = rivals.outperforms(study, Cell("tiny-llama", "gsm8k", 6.0), CLAIM)
    json.dumps(finding.to_json(), allow_nan=False)
    for numbers in (finding.quantities, finding.controls, finding.p_values):
        assert np.isfinite(list(numbers.values())).all()
    return finding, judge(load_paper("capability_localization").claim(CLAIM), finding)


def test_ahead_in_everything_is_supported() -> None:
    finding, verdict = run(ahead(), outcomes(CNL=0.1))
    assert verdict.outcome is Outcome.SUPPORTED
    parts = [
        f"effect:{method}-{what}" for method in (KN, LAYERS, CIRCUITS) for what in ("overlap", "erasure")
    ]
    assert list(finding.p_values) == parts
    assert finding.quantities["neurons"] == 4 and finding.quantities["overlap, CNL"] == 1
    assert finding.quantities["effect:KN-erasure:estimate"] == pytest.approx(0.8)
    assert finding.quantities["score, layers erased"] == 0.9 and "magnitude-overlap:low" in finding.quantities
    assert finding.estimate == min(finding.quantities[f"{part}:estimate"] for part in parts)
    assert finding.quantities["effect:KN-overlap:estimate"] == pytest.approx(
        1 - finding.quantities["overlap, KN"]
    )
    assert set(finding.controls) == {f"chance, overlap, {method}" for method in METHODS}


@pytest.mark.parametrize("equal", ["knowledge", "restored", "edges", "magnitude"])
def test_one_method_that_is_as_stable_refutes(equal: str) -> None:
    values = {"knowledge": stable(9), "magnitude": stable(9)}.get(
        equal, np.abs(noise(9, LAYERS_OF)) + 9 * np.eye(LAYERS_OF)[1]
    )
    samples = replace(ahead(), **{equal: values.repeat(3, axis=1) if equal == "edges" else values})
    if equal in ("restored", "edges"):  # the same layer, and in it the same neurons
        samples = replace(samples, magnitude=np.arange(WIDTH) + 0.01 * noise(9, LAYERS_OF, WIDTH))
    finding, verdict = run(samples, outcomes(CNL=0.1))
    if equal == "magnitude":  # stands beside and does not decide
        assert verdict.outcome is Outcome.SUPPORTED
        assert finding.quantities["magnitude-overlap:estimate"] == 0
    else:
        assert verdict.outcome is Outcome.REFUTED and "-overlap" in verdict.reason


@pytest.mark.parametrize("method", [KN, LAYERS, CIRCUITS])
def test_one_method_whose_erasure_hurts_as_much_refutes(method: str) -> None:
    _, verdict = run(ahead(), outcomes(**{CNL: 0.1, method: 0.1}))
    assert verdict.outcome is Outcome.REFUTED and f"{method}-erasure" in verdict.reason
    _, verdict = run(ahead(), outcomes(**{CNL: 0.1, method: 0.15}))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    _, verdict = run(ahead(), outcomes(40, **{CNL: 0.1, method: 0.1}))
    assert verdict.outcome is Outcome.INCONCLUSIVE, (
        "40 items cannot show that two sets cost the same within 5 points"
    )


def test_without_circuits_nothing_is_supported_but_much_refuted() -> None:
    without = replace(ahead(), edges=None, at=None, left_out="family 'opt' cannot be taken apart")
    finding, verdict = run(without, outcomes(CNL=0.1))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (
        verdict.reason
        == "not against every method, circuits are left out: family 'opt' cannot be taken apart"
    )
    assert not any("circuits" in name for name in finding.p_values)
    assert run(without, outcomes(CNL=0.1, KN=0.1))[1].outcome is Outcome.REFUTED


def test_a_model_without_the_ability_is_not_located_in() -> None:
    floor = "floor effect: the untouched model scores 0.0 % on gsm8k"
    finding, verdict = run(None, None, floor)  # type: ignore[arg-type]
    assert verdict == Verdict(Outcome.INCONCLUSIVE, floor) and finding.estimate is None


def test_what_coincides_is_said() -> None:
    finding, _ = run(replace(ahead(), knowledge=stable()), outcomes(**dict.fromkeys(METHODS, 1.0)))
    assert any("KN's scores are CNL's" in note for note in finding.notes)
    assert any("no method's neurons cost any item its score" in note for note in finding.notes)
    assert len(finding.notes) == 4 and len(run(ahead(), outcomes())[0].notes) == 2


def test_where_nothing_is_located_the_floor_is_named() -> None:
    finding, verdict = run(replace(ahead(), commonality=np.zeros((COUNT, LAYERS_OF, WIDTH))), outcomes())
    assert verdict == Verdict(Outcome.INCONCLUSIVE, "floor effect: no neuron passes sigma 6 on the whole set")
    few = np.zeros((COUNT, LAYERS_OF, WIDTH))
    few[0, 0, 0] = 1  # one sample alone: half of the halves are empty of it
    finding, verdict = run(replace(ahead(), commonality=few), outcomes())
    assert verdict.outcome is Outcome.INCONCLUSIVE and "of 40 splits" in verdict.reason
    assert finding.estimate is None


def test_erased_sets_are_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def evaluate(lm: LanguageModel, prepared: object, sets: torch.Tensor) -> Outcomes:
        calls.append(sets)
        score = sets.sum((1, 2)).numpy()[:, None] * np.ones((1, 4)) / 10
        return Outcomes(score, 2 * score, score > 0, score > 0)

    monkeypatch.setattr(erasing, "evaluate", evaluate)
    items = SimpleNamespace(fingerprint="f", base={"score": np.ones(4)}, chance=0.0, notes=["n"], prepared=())
    monkeypatch.setattr(erasing, "evaluation_items", lambda study, dataset: items)
    lm = tiny_lm()
    sets: Mapping[str, np.ndarray] = {
        name: np.arange(40).reshape(2, 20) < number for number, name in enumerate(METHODS)
    }
    for _ in range(2):
        found = erased_of(Study("x", StudySettings(store=Store(tmp_path)), lm), "gsm8k", sets)
        for number, name in enumerate(METHODS):
            assert found.score[name] == pytest.approx(number / 10) and found.nll[name] == pytest.approx(
                number / 5
            )
        assert found.notes == ("n",)
    assert len(calls) == 1
    other = {**sets, KN: sets[CIRCUITS]}
    assert erased_of(Study("x", StudySettings(store=Store(tmp_path)), lm), "gsm8k", other).score[KN][0] == 0.3


class SmallStudy(Study):
    """A random model with examples of its own."""

    def located(self, dataset: str) -> Located:
        examples = [
            Example(f"e{n}", f"what is {n}+{n % 7}?", f" {n + n % 7}") for n in range(CPU_SAMPLES + 3)
        ]
        return Located(examples, [tokenize(self.lm, example) for example in examples], [])


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
def test_samples_are_what_the_locators_give(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "CPU_SAMPLES", 3)
    lm = tiny_lm(family)
    settings = StudySettings(store=Store(tmp_path))
    samples = samples_of(SmallStudy(lm.name, settings, lm), "gsm8k")
    examples = SmallStudy(lm.name, settings, lm).located("gsm8k").examples[:3]
    assert len(samples) == 3 and samples.restored.shape == (3, lm.num_layers)
    whole, first = (attribute(lm, examples, answer_tokens=count, progress=False) for count in (None, 1))
    assert samples.commonality.mean(0) == pytest.approx(whole.values.numpy(), abs=1e-9)
    assert samples.knowledge.mean(0) == pytest.approx(first.values.numpy(), abs=1e-9)
    tokenized = [tokenize(lm, example) for example in examples]
    assert samples.magnitude.mean(0) == pytest.approx(magnitude(lm, tokenized).values.numpy(), rel=1e-5)
    assert samples.scrambled.shape == (3, lm.num_layers, NEURONS)
    assert not np.allclose(samples.scrambled, samples.commonality)
    if family == "opt":
        assert samples.edges is None and samples.left_out is not None and "\n" not in samples.left_out
    else:
        model = DecomposedModel(lm)
        edges = attribute_edges(model, [model.prompt(one) for one in tokenized])
        at = mlps_of(model.graph)
        assert samples.edges is not None and samples.at is not None and samples.left_out is None
        assert samples.edges.mean(0) == pytest.approx(edges.values[at.any(1)], rel=1e-4, abs=1e-9)
        assert np.array_equal(samples.at, at[at.any(1)])

    def fail(*_: object) -> None:
        raise AssertionError("measured again")

    for name in ("LastTokenTracer", "attribute_edges", "magnitude"):
        monkeypatch.setattr(sampling, name, fail)
    again = samples_of(SmallStudy(lm.name, settings, lm), "gsm8k")
    assert np.array_equal(again.restored, samples.restored) and np.array_equal(
        again.magnitude, samples.magnitude
    )
