"""From traces to layers: ranks, options, real input, and layers as a location."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import caploc
from caploc.datasets import load_examples
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, subject_tokens
from caploc.locators.causal_tracing.locate import best_layers, locate, trace
from caploc.locators.causal_tracing.trace import Trace, Tracing
from caploc.locators.layers import LayerSet
from caploc.metrics import chance_overlap, iou, overlap
from caploc.model.loading import load_model
from caploc.model.registry import embedded_folder
from caploc.tests.tiny import SHAPE, SHARED, tiny_lm

FACTS = [
    Example("one", "ann was born in", " rome", subject="ann"),
    Example("two", "the town of bob is", " oslo", subject="bob"),
]
QUIET: dict[str, Any] = {"progress": False, "draws": 2}


def made_up(restored: list[list[float]], subject: range = range(1, 2)) -> Trace:
    values = torch.tensor(restored, dtype=torch.float64)
    draws = torch.stack([values - 0.05, values + 0.05])
    flags = torch.zeros(2, dtype=torch.bool)
    return Trace("made-up", (5, 6, 7), subject, 0.9, torch.zeros(2, dtype=torch.float64), draws, True, flags)


def test_ranks_by_the_last_subject_token_or_the_sum() -> None:
    one = made_up([[0.9, 0.1, 0.1], [0.1, 0.3, 0.2], [0.1, 0.1, 0.1]])
    assert best_layers([one], top_k=3).layers == (1, 2, 0)
    assert best_layers([one], top_k=2, rank="sum").layers == (0, 1)
    assert one.by_layer("sum").tolist() == pytest.approx([1.1, 0.5, 0.4])
    two = made_up([[0, 0, 0], [0.0, 0.0, 0.4], [0, 0, 0]])
    assert best_layers([one, two], top_k=1).layers == (2,)
    assert one.restored[1].tolist() == pytest.approx([0.1, 0.3, 0.2]) and one.spread.numpy() == pytest.approx(
        0.05
    )


@pytest.mark.parametrize("kind", ["mlp", "attention", "hidden"])
def test_locates_the_layers_of_its_traces(kind: str) -> None:
    lm = tiny_lm()
    found = caploc.LOCATORS["rome"](lm, FACTS, top_k=1, kind=kind, **QUIET)
    traces = trace(lm, FACTS, Tracing(kind, draws=2), progress=False)
    assert [one.subject for one in traces] == [subject_tokens(lm, fact) for fact in FACTS]
    mean = torch.stack([one.restored[one.subject[-1]] for one in traces]).mean(0)
    assert found == LayerSet((int(mean.argmax()),), SHAPE[0])
    assert traces[0].settings["kind"] == kind and traces[0].id == "one"
    assert len(traces[0].token_ids) == traces[0].restored.shape[0] == len("<" + FACTS[0].prompt)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 3}, "top_k must be a whole number from 1 to the model's 2 layers, got 3"),
        ({"top_k": 0}, "top_k must be a whole number"),
        ({"rank": "mean"}, "rank must be one of last-subject, sum, got 'mean'"),
        ({"kind": "neuron"}, "kind must be one of hidden, mlp, attention, got 'neuron'"),
        ({"answer": "last"}, "answer must be one of first, whole"),
        ({"kind": "hidden", "window": 3}, "window 3 is for the kinds mlp and attention"),
        ({"window": 0}, "window must be a whole number of at least 1"),
        ({"draws": 1.5}, "draws must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"noise": 0.0}, "noise must be a positive number"),
        ({"noise": math.inf}, "noise must be a positive number"),
        ({"chunk_tokens": 0}, "chunk_tokens must be a whole number"),
        ({"steps": 3}, "causal tracing has no option 'steps'; it has window, noise, draws"),
    ],
)
def test_refuses_options_before_any_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        locate(tiny_lm(), FACTS, **{"top_k": 1, **options})
    assert "\n" not in str(caught.value)


def test_refuses_examples_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caploc.locators.causal_tracing.tracer.Tracer.one", lambda *_: pytest.fail("traced"))
    with pytest.raises(OptionError, match="no examples to trace"):
        locate(tiny_lm(), [], top_k=1)
    with pytest.raises(ExampleError, match="'three' names no subject"):
        locate(tiny_lm(), [*FACTS, Example("three", "a", " b")], top_k=1, progress=False)
    with pytest.raises(OptionError, match="no traces"):
        best_layers([])


def test_a_set_of_layers_is_a_location() -> None:
    a, b = LayerSet((4, 0, 2), 8), LayerSet((2, 3, 4), 8)
    assert a.count == 3 and a.values.tolist() == [True, False, True, False, True, False, False, False]
    assert overlap(a, b) == pytest.approx(2 / 3) and iou(a, b) == pytest.approx(0.5)
    assert overlap(a, LayerSet((), 8)) != overlap(a, LayerSet((), 8))  # nan
    assert chance_overlap(a, b) == pytest.approx(3 / 8)
    with pytest.raises(OptionError, match="locate both in one model"):
        overlap(a, LayerSet((0,), 6))


def test_refuses_impossible_sets_of_layers() -> None:
    with pytest.raises(OptionError, match="layer 8 is out of range: the model has the layers 0 to 7"):
        LayerSet((0, 8), 8)
    with pytest.raises(OptionError, match="names each layer once"):
        LayerSet((1, 1), 8)
    with pytest.raises(OptionError, match="not finite"):
        LayerSet.best([0.1, math.nan], 1)
    assert LayerSet.best([0.5, 0.7, 0.5], 3).layers == (1, 0, 2)


@pytest.mark.parametrize("family", ["llama", "gptj", "opt"])
def test_parameter_share_counts_the_layers_own_weights(family: str) -> None:
    lm = tiny_lm(family)
    one, both = LayerSet((1,), 2), LayerSet((0, 1), 2)
    block = sum(parameter.numel() for parameter in lm.layers[1].parameters())
    assert one.parameter_share(lm, "block") == block / lm.num_parameters
    assert both.parameter_share(lm) == pytest.approx(2 * one.parameter_share(lm))
    mlp = {"llama": 3 * 32 * 20, "gptj": 2 * 32 * 20 + 20 + 32, "opt": 2 * 32 * 20 + 20 + 32}[family]
    assert one.parameter_share(lm) == mlp / lm.num_parameters
    with pytest.raises(OptionError, match="extent must be 'mlp' or 'block'"):
        one.parameter_share(lm, "head")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="a model with 3 layers, this one has 2"):
        LayerSet((1,), 3).parameter_share(lm)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gptj"])
def test_noise_hides_what_the_embedded_models_know_and_early_layers_restore_it(name: str) -> None:
    if not embedded_folder(name).is_dir():
        pytest.skip(f"the embedded model {name} is not there; make it with python -m fixtures.make")
    lm = load_model(name)
    examples = load_examples("known_1000", path=embedded_folder(name).parents[1] / "data", limit=4)
    traces = trace(lm, examples, Tracing("hidden", draws=4), progress=False)
    assert sum(one.clean_is_top for one in traces) >= 3
    assert all(one.corrupted.mean() < one.clean for one in traces)
    # the last token's state behind the last layer is the prediction itself
    assert all(float(one.restored[-1, -1]) == pytest.approx(one.clean, abs=1e-5) for one in traces)


@pytest.mark.parametrize("dataset", ["known_1000", "counterfact"])
def test_runs_on_a_real_model_and_real_facts(dataset: str) -> None:
    stories, data = SHARED / "models" / "stories260K", SHARED / "data"
    if not (stories.is_dir() and data.is_dir()):
        pytest.skip(f"no real model and samples in {SHARED}: put stories260K and the datasets' samples there")
    lm = load_model(stories)
    examples = load_examples(dataset, path=data, limit=2)
    found = locate(lm, examples, **QUIET)
    assert found.count == 3 and found.num_layers == 5
    assert 0 < found.parameter_share(lm) < found.parameter_share(lm, "block") < 1
