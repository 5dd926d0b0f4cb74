"""CNL against the other methods: verdicts on planted evidence and outcomes, what a small model's evidence is, and a
locator of a user's own that takes part."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from caploc import locators
from caploc.attribution.engine import attribute
from caploc.circuits import DecomposedModel, attribute_edges
from caploc.circuits.graph import mlps_of
from caploc.evaluation import SCORINGS, Outcomes
from caploc.examples import Example, tokenize
from caploc.experiments import rival_sets, rivals
from caploc.experiments.evaluating import EvaluationItems, Items
from caploc.experiments.evidence import assemble
from caploc.experiments.rival_sets import (
    CNL,
    CPU_SAMPLES,
    AllSamples,
    EqualSets,
    EqualSetsErased,
    Evidence,
    WithoutSets,
)
from caploc.experiments.specs import FloorError, NotRunError, Spec
from caploc.experiments.study import Located, Study, StudySettings
from caploc.findings import Cell, Effect, Finding, Outcome, Verdict
from caploc.locators import compared, register_locator
from caploc.locators.magnitude import magnitude
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.store import Store
from caploc.tests.experiments.planted_facts import small_model
from caploc.tests.tiny import NEURONS, tiny_lm

PAPER = load_paper("capability_localization")
CLAIM = PAPER.claim("general-cnl-outperforms")
COUNT, LAYERS, WIDTH, ITEMS = 32, 4, 60, 120
METHODS = compared()
DECIDE = ("kn", "rome", "kc")
MODEL = small_model("gptj", LAYERS)
AT = mlps_of(DecomposedModel(MODEL).graph)
AT = AT[AT.any(1)]
"""Which layers' MLPs each of the edges that touch one begins or ends at."""

Evidences = dict[str, Any]


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(COUNT, *shape))


def stable(seed: int = 0) -> np.ndarray:
    """Scores in which the same four neurons stand out in every sample."""
    scores = 0.01 * noise(seed, LAYERS, WIDTH)
    scores[:, 1, [3, 30]] += 1
    scores[:, 2, [7, 9]] += 1
    return scores


def ahead() -> Evidences:
    """CNL alone finds the same neurons in both halves."""
    return {
        "cnl": stable(),
        "kn": noise(2, LAYERS, WIDTH),
        "rome": noise(4, LAYERS),
        "kc": noise(5, len(AT)),
        "magnitude": noise(3, LAYERS, WIDTH),
        "scrambled": noise(1, LAYERS, WIDTH),
    }


def items_of(score: np.ndarray) -> EvaluationItems:
    prepared: Any = SimpleNamespace(chance=0.0, settings={}, items=len(score), scoring=SCORINGS["tokens"])
    return EvaluationItems("gsm8k", prepared, [], {"score": score}, "f" * 64, 0.05)


def outcomes(items: int = ITEMS, **left: float) -> WithoutSets:
    """Score after erasure by method, 0.9 where not named; each method is right on the first of the items."""
    score = {name: (np.arange(items) < left.get(name, 0.9) * items).astype(float) for name in METHODS}
    return WithoutSets(items_of(np.ones(items)), score, {name: 1 - values for name, values in score.items()})


def run(evidence: Evidences, erased: WithoutSets) -> tuple[Finding, Verdict]:
    """The finding, which must be strict JSON, and its verdict."""
    results: dict[Spec[Any], Any] = {Items("gsm8k"): erased.items, EqualSetsErased("gsm8k", 6.0): erased}
    for key, values in evidence.items():
        control = (CNL, "gsm8k", "scrambled") if key == "scrambled" else (key, "gsm8k")
        results[Evidence(*control)] = values
    study = Study("planted", StudySettings(draws=40, margins=PAPER.margins), MODEL, results)
    return judged(study, 6.0)


def judged(study: Study, sigma: float) -> tuple[Finding, Verdict]:
    cell = Cell("tiny-llama", "gsm8k", sigma)
    finding = assemble(CLAIM, cell, rivals.outperforms(study, cell, CLAIM), [study])
    json.dumps(finding.to_json(), allow_nan=False)
    found = finding.measurement
    shown = [one.estimate if isinstance(one, Effect) else one for one in found.asides.values()]
    for numbers in (shown, list(found.controls.values()), [part.p for part in found.parts.values()]):
        assert np.isfinite(np.array(numbers, float)).all()
    return finding, judge(CLAIM, finding)


def test_ahead_in_everything_is_supported() -> None:
    finding, verdict = run(ahead(), outcomes(cnl=0.1))
    found = finding.measurement
    assert verdict.outcome is Outcome.SUPPORTED
    assert list(found.parts) == [f"{method}-{what}" for method in DECIDE for what in ("overlap", "erasure")]
    assert found.asides["neurons"] == 4 and found.asides["overlap, cnl"] == 1
    assert found.parts["kn-erasure"].estimate == pytest.approx(0.8)
    assert found.asides["score, rome erased"] == 0.9
    beside = found.asides["magnitude-overlap"]
    assert isinstance(beside, Effect) and beside.interval is not None
    assert found.value is not None
    assert found.value.estimate == min(part.estimate or 0 for part in found.parts.values())
    assert found.parts["kn-overlap"].estimate == pytest.approx(1 - found.asides["overlap, kn"])  # type: ignore[operator]
    assert set(found.controls) - {"scrambled text, overlap, cnl"} == {
        f"chance, overlap, {method}" for method in METHODS
    }
    assert list(finding.settings["methods"]) == list(METHODS)


@pytest.mark.parametrize("equal", ["kn", "rome", "kc", "magnitude"])
def test_one_method_that_is_as_stable_refutes(equal: str) -> None:
    best = np.abs(noise(9, LAYERS)) + 9 * np.eye(LAYERS)[1]
    values = {"rome": best, "kc": best @ AT.T}.get(equal, stable(9))
    evidence = {**ahead(), equal: values}
    if equal in ("rome", "kc"):  # the same layer, and in it the same neurons
        evidence["magnitude"] = np.arange(WIDTH) + 0.01 * noise(9, LAYERS, WIDTH)
    finding, verdict = run(evidence, outcomes(cnl=0.1))
    if equal == "magnitude":  # stands beside and does not decide
        assert verdict.outcome is Outcome.SUPPORTED
        beside = finding.measurement.asides["magnitude-overlap"]
        assert isinstance(beside, Effect) and beside.estimate == 0
    else:
        assert verdict.outcome is Outcome.REFUTED and f"{equal}-overlap" in verdict.reason


@pytest.mark.parametrize("method", DECIDE)
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
    without = {**ahead(), "kc": NotRunError("family 'opt' cannot be taken apart")}
    finding, verdict = run(without, outcomes(cnl=0.1))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (
        verdict.reason
        == "not against every method, knowledge circuits left out: family 'opt' cannot be taken apart"
    )
    assert "kc left out: family 'opt' cannot be taken apart" in finding.notes
    assert not any("kc" in name for name in finding.measurement.parts)
    assert run(without, outcomes(cnl=0.1, kn=0.1))[1].outcome is Outcome.REFUTED


def test_a_model_without_the_ability_is_not_located_in() -> None:
    nothing = items_of(np.zeros(ITEMS))
    study = Study("planted", StudySettings(margins=PAPER.margins), MODEL, {Items("gsm8k"): nothing})
    for key in METHODS:
        with pytest.raises(FloorError, match="no loss can show"):
            list(Evidence(key, "gsm8k").tasks(study))
    finding, verdict = judged(study, 6.0)
    assert verdict == Verdict(Outcome.INCONCLUSIVE, str(nothing.floor)) and finding.measurement.value is None


def test_what_coincides_is_said() -> None:
    finding, _ = run({**ahead(), "kn": stable()}, outcomes(**dict.fromkeys(METHODS, 1.0)))
    assert any("the scores of kn are those of cnl" in note for note in finding.notes)
    assert any("no method's neurons cost any item its score" in note for note in finding.notes)
    assert len(finding.notes) == 5 and len(run(ahead(), outcomes())[0].notes) == 3


def test_where_nothing_is_located_the_floor_is_named() -> None:
    finding, verdict = run({**ahead(), "cnl": np.zeros((COUNT, LAYERS, WIDTH))}, outcomes())
    assert verdict == Verdict(Outcome.INCONCLUSIVE, "floor effect: no neuron passes sigma 6 on the whole set")
    few = np.zeros((COUNT, LAYERS, WIDTH))
    few[0, 0, 0] = 1  # one sample alone: half of the halves are empty of it
    finding, verdict = run({**ahead(), "cnl": few}, outcomes())
    assert verdict.outcome is Outcome.INCONCLUSIVE and "of 40 splits" in verdict.reason
    assert finding.measurement.value is None


# ----------------------------------------------------------------------------------------------------- a small model


class SmallStudy(Study):
    """A random model with examples of its own."""

    def located(self, dataset: str) -> Located:
        examples = [
            Example(f"e{n}", f"what is {n}+{n % 7}?", f" {n + n % 7}") for n in range(CPU_SAMPLES + 3)
        ]
        return Located(dataset, examples, [tokenize(self.lm, example) for example in examples], [])


def small_study(lm: LanguageModel, folder: Path, **settings: Any) -> SmallStudy:
    """A study whose untouched model has something to lose."""
    asked = StudySettings(store=Store(folder), draws=40, margins=PAPER.margins, **settings)
    return SmallStudy(lm.name, asked, lm, {Items("gsm8k"): items_of(np.ones(ITEMS))})


class Erasing:
    """Stands in for the evaluation: a set costs what its neurons are numbered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[torch.Tensor] = []
        monkeypatch.setattr(rival_sets, "evaluate", self)

    def __call__(self, lm: LanguageModel, prepared: object, sets: torch.Tensor) -> Outcomes:
        self.calls.append(sets)
        score = sets.sum((1, 2)).numpy()[:, None] * np.ones((1, ITEMS)) / 10
        return Outcomes(score, 2 * score, score > 0, score > 0)


def test_erased_sets_are_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    erasing, lm = Erasing(monkeypatch), tiny_lm()
    sets: Mapping[str, np.ndarray] = {
        name: np.arange(40).reshape(2, 20) < number for number, name in enumerate(METHODS)
    }

    def erased_of(sets: Mapping[str, np.ndarray]) -> WithoutSets:
        study = small_study(lm, tmp_path)
        study._results[EqualSets("gsm8k", 6.0)] = sets
        return study.result(EqualSetsErased("gsm8k", 6.0))

    for _ in range(2):
        found = erased_of(sets)
        for number, name in enumerate(METHODS):
            assert found.score[name] == pytest.approx(number / 10)
            assert found.nll[name] == pytest.approx(number / 5)
    assert len(erasing.calls) == 1
    assert erased_of({**sets, "kn": sets["kc"]}).score["kn"][0] == 0.3


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
def test_evidence_is_what_the_locators_give(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rival_sets, "CPU_SAMPLES", 3)
    lm = tiny_lm(family)
    study = small_study(lm, tmp_path)
    samples, examples = study.result(AllSamples("gsm8k")), study.located("gsm8k").examples[:3]
    evidence = samples.evidence
    assert len(samples) == 3 and evidence["rome"].shape == (3, lm.num_layers)
    whole, first = (attribute(lm, examples, answer_tokens=count, progress=False) for count in (None, 1))
    assert evidence["cnl"].mean(0) == pytest.approx(whole.values.numpy(), abs=1e-9)
    assert evidence["kn"].mean(0) == pytest.approx(first.values.numpy(), abs=1e-9)
    tokenized = [tokenize(lm, example) for example in examples]
    assert evidence["magnitude"].mean(0) == pytest.approx(magnitude(lm, tokenized).values.numpy(), rel=1e-5)
    scrambled = study.result(Evidence(CNL, "gsm8k", "scrambled"))
    assert scrambled.shape == (3, lm.num_layers, NEURONS) and not np.allclose(scrambled, evidence["cnl"])
    if family == "opt":
        assert "kc" not in evidence and "\n" not in samples.left_out["kc"]
    else:
        model = DecomposedModel(lm)
        edges = attribute_edges(model, [model.prompt(one) for one in tokenized])
        touching = mlps_of(model.graph).any(1)
        assert not samples.left_out
        assert evidence["kc"].mean(0) == pytest.approx(edges.values[touching], rel=1e-4, abs=1e-9)
    again = small_study(lm, tmp_path)
    monkeypatch.setattr(again, "_placed", lambda control: pytest.fail("measured again"))
    found = again.result(AllSamples("gsm8k")).evidence
    assert all(np.array_equal(found[key], values) for key, values in evidence.items())


# --------------------------------------------------------------------------------------- a locator of a user's own


def by_length(lm: LanguageModel, examples: list[Example]) -> NeuronMask:
    """As many neurons of the last layer as the prompt has characters, or all."""
    values = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    values[-1, : sum(len(example.prompt) for example in examples)] = True
    return NeuronMask(values)


@pytest.fixture(params=["fact", "dataset"])
def own(request: pytest.FixtureRequest) -> Iterator[str]:
    register_locator("length", name="by length", source="ours", places=NeuronMask, aim=request.param)(
        by_length
    )
    yield request.param
    locators._REGISTERED.pop("length")


def test_a_locator_of_a_users_own_takes_part(
    own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered, and nothing else: it decides if it was made for single facts, and stands beside if not."""
    monkeypatch.setattr(rival_sets, "RESAMPLES", 60)
    monkeypatch.setattr(rival_sets, "CPU_SAMPLES", 16)
    erasing, sigma = Erasing(monkeypatch), 2.0
    study = small_study(tiny_lm("gptj"), tmp_path, seed=3)
    cell = Cell("tiny-gptj", "gsm8k", sigma)
    for need in rivals.outperforms.needs(study, cell, CLAIM):
        study.result(need.spec)
    assert [len(sets) for sets in erasing.calls] == [len(METHODS) + 1]
    monkeypatch.setattr(study, "_placed", lambda control: pytest.fail("weights are touched"))
    found = judged(study, sigma)[0].measurement
    sets = study.result(EqualSets("gsm8k", sigma))
    assert list(sets) == [*METHODS, "length"] and sets["length"][-1].sum() == sets[CNL].sum() > 0
    parts = {"length-overlap", "length-erasure"}
    assert parts <= (found.parts if own == "fact" else found.asides).keys()
    assert parts.isdisjoint(found.asides if own == "fact" else found.parts)
    assert {"overlap, length", "score, length erased"} <= found.asides.keys()
    assert "chance, overlap, length" in found.controls
    assert list(found.plots[0].data["groups"]) == [*METHODS, "length"]
