"""The registry: every location is a ``Location``, every method a measure with the keys that stores have had, and a
locator of a user's own takes part like the others."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import caploc
from caploc import locators
from caploc.circuits import Circuit, DecomposedModel
from caploc.circuits.graph import mlps_of
from caploc.errors import ModelError, OptionError
from caploc.examples import Example, subject_tokens, tokenize
from caploc.experiments import rival_sets
from caploc.experiments.facts import facts_of
from caploc.experiments.locating_facts import LocatedFacts
from caploc.experiments.rival_sets import Evidence
from caploc.experiments.study import Study, StudySettings
from caploc.fingerprints import fingerprint
from caploc.locators import LOCATORS, Locator, compared, register_locator
from caploc.locators.layers import LayerSet
from caploc.locators.magnitude import magnitude
from caploc.locators.method import Asked, Conditions, Measure, measured
from caploc.metrics import Location, Places, chance_overlap, iou, overlap
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.store import Store
from caploc.tests.experiments.planted_facts import real_facts, small_model
from caploc.tests.experiments.test_rivals import small_study
from caploc.tests.tiny import NEURONS, SHAPE, tiny_lm

EXAMPLES = [Example("one", "ann was born in", " rome", subject="ann"), Example("two", "1+2=", " 3")]


def neurons(seed: int) -> NeuronMask:
    return NeuronMask(torch.rand(4, 30, generator=torch.Generator().manual_seed(seed)) < 0.3)


def layers(seed: int) -> LayerSet:
    return LayerSet(tuple(np.random.default_rng(seed).permutation(6)[:3].tolist()), 6)


def edges(seed: int) -> Circuit:
    graph = DecomposedModel(tiny_lm("gptj")).graph
    return Circuit(graph, torch.rand(graph.edges, generator=torch.Generator().manual_seed(seed)) < 0.3)


@pytest.mark.parametrize("make", [neurons, layers, edges])
def test_every_kind_is_a_location(make: Any) -> None:
    one, other = make(0), make(1)
    assert isinstance(one, Location) and isinstance(one, Places) and type(one).unit == make.__name__
    assert one.count == int(one.values.sum()) > 0 and one.ratio == one.count / one.values.numel()
    assert one.overlap(other) == overlap(one, other) and one.iou(other) == iou(one, other) < 1
    assert one.overlap(one) == one.iou(one) == 1
    again = type(one).from_arrays({name: np.asarray(array) for name, array in one.to_arrays().items()})
    assert torch.equal(again.values, one.values) and again.overlap(other) == one.overlap(other)
    assert len(one.strata) == one.values.numel() and one.votes.sum() > 0
    drawn = [one.random_like(seed) for seed in range(300)]
    assert {type(random) for random in drawn} == {type(one)} and {random.count for random in drawn} == {
        one.count
    }
    assert torch.equal(one.random_like(5).values, drawn[5].values)
    chance = chance_overlap(one, one, by_layer=make is neurons)
    assert np.mean([random.overlap(one) for random in drawn]) == pytest.approx(chance, abs=0.03)


def test_a_location_goes_into_the_store_and_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number, one in enumerate((neurons(2), layers(2), edges(2))):
        entry = store.put(fingerprint(number), one.to_arrays(), {})
        found = type(one).from_arrays(entry.arrays)
        assert torch.equal(found.values, one.values)
        if isinstance(one, LayerSet):
            assert found == one, "the order of the layers too"


def test_strata_are_those_that_chance_is_matched_in() -> None:
    assert np.array_equal(neurons(0).strata, np.repeat(np.arange(4), 30))
    assert not layers(0).strata.any()
    circuit = edges(0)
    assert circuit.strata[-1] == circuit.graph.layers and (np.diff(circuit.strata) >= 0).all()


def keys_of(lm: LanguageModel, what: str, **content: object) -> str:
    common = {"what": what, "code": 1, "model": lm.fingerprint, "dtype": "torch.float32", "device": "cpu"}
    return fingerprint({**common, **content})


def test_keys_are_those_that_stores_have_had() -> None:
    lm = small_model("gptj")
    (example, _), conditions = EXAMPLES, Conditions(seed=3)
    tokens = tokenize(lm, example)
    asked, start = Asked(tokens, example), tokens.answer_start
    method = {"quadrature": "paper", "steps": 19}
    at_last = {"kind": "mlp", "window": 1, "noise": 3.0, "draws": 10, "answer": "first", "seed": 3}
    tracing = {**at_last, "kind": "hidden"}
    content, told = tokens.content, {"id": "one", "tokens": tokens.content}
    subject = subject_tokens(lm, example)
    pruned = {"ablation": "zero", "method": "blocks", "faithfulness": 0.8, "less": 0.5}
    assert {
        name: locator.on_samples(conditions).key(lm, asked)
        for name, locator in LOCATORS.items()
        if locator.samples is not None
    } == {
        "cnl": keys_of(lm, "score sums", method=method, examples=[content]),
        "kn": keys_of(lm, "neuron scores of one example", method=method, example=content[: start + 2]),
        "rome": keys_of(lm, "layers at the last prompt token", **at_last, **told),
        "kc": keys_of(lm, "edges of MLPs", steps=5, **told),
        "magnitude": keys_of(lm, "magnitudes", **told),
    }
    span = [subject.start, subject.stop]
    assert {
        name: locator.on_facts(conditions).key(lm, asked)
        for name, locator in LOCATORS.items()
        if locator.facts is not None
    } == {
        "kn": keys_of(lm, "neuron scores of one example", method=method, example=content),
        "rome": keys_of(lm, "layers by causal tracing", code=2, tracing=tracing, subject=span, **told),
        "kc": keys_of(lm, "circuits", **pruned, tokens=content),
    }


class Warm(Store):
    """A store that must have everything already."""

    def put(self, *_: Any) -> Any:
        raise AssertionError("computed again")

    def _write(self, *_: Any) -> None:
        raise AssertionError("computed again")


def test_samples_that_an_experiment_kept_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rival_sets, "CPU_SAMPLES", 3)
    lm = tiny_lm("gptj")
    study = small_study(lm, tmp_path, seed=3)
    located, conditions = study.located("gsm8k"), Conditions(3, study.settings.attribution)
    asked = [Asked(*pair) for pair in zip(located.tokenized[:3], located.examples[:3], strict=True)]
    at = mlps_of(DecomposedModel(lm).graph)
    at = at[at.any(1)]
    for key in compared():
        locator = LOCATORS[key]
        kept = study.result(Evidence(key, "gsm8k"))
        measure = locator.on_samples(conditions)
        measure.check(lm)
        found = [measure.evidence(lm, arrays) for arrays in measured(measure, lm, asked, Warm(tmp_path))]
        assert np.array_equal(np.stack(found), kept), key
        means = kept.mean(0)[None]
        strength = [sum(abs(means[0, at[:, layer]])) for layer in range(lm.num_layers)] if key == "kc" else []
        expected = np.array([strength]) if key == "kc" else means
        assert measure.rank(lm, means) == pytest.approx(expected)


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_facts_that_an_experiment_located_are_found(family: str, tmp_path: Path) -> None:
    lm = small_model(family, 4)
    facts = real_facts(lm, 2)
    spec = facts_of("counterfact")
    study = Study(lm.name, StudySettings(store=Store(tmp_path), seed=3), lm, {spec: facts})
    located = {key: study.result(LocatedFacts(key, spec)) for key in ("kn", "rome", "kc")}
    expected = {key: {found.cut: found.sets, **found.variants} for key, found in located.items()}
    asked = [Asked(*pair) for pair in zip(facts.prompts, facts.examples, strict=True)]
    for key, sets in expected.items():
        measure = LOCATORS[key].on_facts(Conditions(3, study.settings.attribution))
        cuts = [measure.cuts(lm, arrays) for arrays in measured(measure, lm, asked, Warm(tmp_path))]
        assert list(cuts[0]) == list(sets)
        for name, wanted in sets.items():
            found = [cut[name] for cut in cuts]
            assert {type(location) for location in found} == {LOCATORS[key].places}
            places = [location.values.flatten().nonzero().ravel().tolist() for location in found]
            assert places == [sorted(row.indices.tolist()) for row in wanted.members], (key, name)
            assert np.array_equal(found[0].strata, wanted.strata)


def test_what_cannot_be_located_is_told_beforehand() -> None:
    for measure in (LOCATORS["kc"].on_facts(Conditions()), LOCATORS["kc"].on_samples(Conditions())):
        with pytest.raises(ModelError, match="circuits are not supported for model family 'opt'"):
            measure.check(tiny_lm("opt"))
    with pytest.raises(ModelError, match="has 3 layers, and 3 are to be chosen of more"):
        LOCATORS["rome"].on_facts(Conditions()).check(small_model("llama", 3))


def test_plain_magnitude_is_a_locator() -> None:
    lm = tiny_lm()
    mask = caploc.LOCATORS["magnitude"](lm, EXAMPLES, top_k=4)
    values = magnitude(lm, [tokenize(lm, one) for one in EXAMPLES]).values
    assert mask.count == 4 and values[mask.values].min() >= values[~mask.values].max()
    for wrong in (0, True, SHAPE[0] * NEURONS + 1):
        with pytest.raises(OptionError, match="top_k must be a number of neurons"):
            LOCATORS["magnitude"](lm, EXAMPLES, top_k=wrong)


# --------------------------------------------------------------------------------------- a locator of one's own

CALLS: list[str] = []


def locate_by_length(lm: LanguageModel, examples: Sequence[Example], shift: int = 0) -> NeuronMask:
    CALLS.extend(example.id for example in examples)
    values = torch.zeros(lm.num_layers, lm.num_neurons, dtype=torch.bool)
    values[0, [len(example.prompt) % 5 + shift for example in examples]] = True
    values[1, 2] = True
    return NeuronMask(values)


@pytest.fixture
def own() -> Iterator[Locator]:
    CALLS.clear()
    enter = register_locator(
        "length", name="by length", source="ours", places=NeuronMask, aim="fact", shift=1
    )
    assert enter(locate_by_length) is locate_by_length
    yield caploc.LOCATORS["length"]
    locators._REGISTERED.pop("length")


def test_a_locator_of_ones_own_takes_part(own: Locator, tmp_path: Path) -> None:
    lm, store = tiny_lm(), Store(tmp_path)
    assert list(LOCATORS)[-1] == "length" and own(lm, EXAMPLES[:1]).count == 2
    asked = [Asked(tokenize(lm, example), example) for example in EXAMPLES]
    facts, samples = own.on_facts(Conditions()), own.on_samples(Conditions())
    assert facts == samples == pickle.loads(pickle.dumps(facts)) and hash(facts) == hash(samples)
    CALLS.clear()
    for _ in range(2):
        cuts = [facts.cuts(lm, arrays) for arrays in measured(facts, lm, asked, store)]
        assert [cut["length"].values.nonzero().tolist() for cut in cuts] == [
            [[0, 1], [1, 2]],
            [[0, 5], [1, 2]],
        ]
    assert CALLS == ["one", "two"], "the second time from the store"
    evidence = np.stack([samples.evidence(lm, arrays) for arrays in measured(samples, lm, asked, store)])
    ranks = samples.rank(lm, evidence.mean(0)[None])
    assert ranks.shape == (1, lm.num_layers, lm.num_neurons)
    assert ranks[0, 1, 2] == 1 and ranks[0, 0, 1] == ranks[0, 0, 5] == 0.5 and ranks.sum() == 2
    assert CALLS == ["one", "two"]


def test_another_version_is_another_entry(own: Locator) -> None:
    lm = tiny_lm()
    asked = [Asked(tokenize(lm, example), example) for example in EXAMPLES]
    older = own.on_facts(Conditions())

    def keys(measure: Measure) -> list[str]:
        return [measure.key(lm, one) for one in asked]

    locators._REGISTERED.pop("length")
    register_locator("length", name="n", source="s", places=NeuronMask, version=2, shift=1)(locate_by_length)
    assert set(keys(older)).isdisjoint(keys(caploc.LOCATORS["length"].on_facts(Conditions())))


def test_text_of_tokens_alone_needs_a_measure_of_its_own(own: Locator) -> None:
    lm = tiny_lm()
    with pytest.raises(
        OptionError, match="'length' locates examples with a text, and example 'one' has only"
    ):
        own.on_samples(Conditions()).key(lm, Asked(tokenize(lm, EXAMPLES[0])))


def test_what_cannot_be_registered(own: Locator) -> None:
    with pytest.raises(OptionError, match=r"there is a locator 'length' already \(by length\)"):
        register_locator("length", name="again", source="ours", places=NeuronMask)
    with pytest.raises(OptionError, match="aim must be 'fact' or 'dataset', got 'facts'"):
        register_locator("other", name="other", source="ours", places=NeuronMask, aim="facts")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        LOCATORS["mine"] = own  # type: ignore[index]
    assert math.isnan(NeuronMask(torch.zeros(2, 3, dtype=torch.bool)).overlap(neurons_of_shape(2, 3)))


def neurons_of_shape(*shape: int) -> NeuronMask:
    return NeuronMask(torch.ones(shape, dtype=torch.bool))
