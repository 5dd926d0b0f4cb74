"""KN: scores equal the oracle's, the cut is what it says, and planted knowledge is found."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import caploc
from caploc.attribution.engine import Method
from caploc.errors import ExampleError, OptionError
from caploc.examples import Example, tokenize
from caploc.interventions.scaling import probabilities
from caploc.locators import knowledge_neurons
from caploc.locators.knowledge_neurons import Cut, example_scores, locate, shared
from caploc.metrics import overlap
from caploc.model.loading import LanguageModel
from caploc.model.registry import embedded_folder
from caploc.neurons import NeuronMask, NeuronScores
from caploc.store import Store
from caploc.tests.attribution.test_exactness import relative_error
from caploc.tests.oracles.attribution import captum_scores, reference_scores
from caploc.tests.tiny import SHAPE, SHARED, tiny_lm

FACT = [
    Example(f"p{number}", prompt, " rome", "f") for number, prompt in enumerate(["a city is", "where? in"])
]
ONE_TOKEN = Example("o", "two and two", "4")


def scores_of(lm: LanguageModel, examples: list[Example], **options: Any) -> list[NeuronScores]:
    answer_tokens = options.pop("answer_tokens", None)
    tokenized = [tokenize(lm, example, answer_tokens) for example in examples]
    return list(example_scores(lm, tokenized, progress=False, **options))


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
@pytest.mark.parametrize("answer_tokens", [None, 1])
def test_scores_equal_the_oracle(family: str, answer_tokens: int | None) -> None:
    """Of every example by itself: all answer tokens teacher forced, or the first alone."""
    lm = tiny_lm(family)
    for example, found in zip(FACT, scores_of(lm, FACT, answer_tokens=answer_tokens), strict=True):
        tokenized = tokenize(lm, example, answer_tokens)
        expected = reference_scores(lm, tokenized, Method())
        assert found.values.dtype == torch.float32 and found.count == 1
        assert relative_error(found.values, expected) <= 2e-6
        assert (found.gap > 0).all() and (found.completeness >= 0).all() and (found.points == 20).all()


def test_scores_equal_captum() -> None:
    pytest.importorskip("captum", reason="captum is not installed (extra: test)")
    lm = tiny_lm(dtype=torch.float64)
    tokenized = tokenize(lm, ONE_TOKEN)
    assert tokenized.num_answer_tokens == 1
    projections = [layer.mlp.down_proj for layer in lm.layers]
    prompt, target = tokenized.prompt_ids, int(tokenized.answer_ids[0])
    expected = torch.stack([captum_scores(lm, module, prompt, target) for module in projections])
    (found,) = scores_of(lm, [ONE_TOKEN])
    assert relative_error(found.values, expected) <= 1e-6


SCORES = st.lists(st.sampled_from([-2.0, -0.5, 0.0, 0.1, 0.2, 0.5, 1.0]), min_size=6, max_size=6)


@given(SCORES, st.sampled_from([0.05, 0.2, 0.5, 1.0]), st.none() | st.integers(1, 8))
def test_the_cut_is_what_it_says(scores: list[float], threshold: float, top_k: int | None) -> None:
    mask = Cut(threshold, top_k).locate(torch.tensor(scores).reshape(2, 3))
    positive = [place for place, score in enumerate(scores) if score > 0]
    if top_k is None:
        expected = {
            place for place in positive if np.float32(scores[place]) >= threshold * np.float32(max(scores))
        }
    else:
        expected = set(sorted(positive, key=lambda place: (-scores[place], place))[:top_k])
    assert set(mask.values.ravel().nonzero().ravel().tolist()) == expected


def test_no_positive_score_locates_nothing() -> None:
    """Empty, and never nan: zeroing an empty set changes nothing, and its overlap is undefined."""
    for values in (torch.zeros(2, 3), -torch.rand(2, 3)):
        for cut in (Cut(), Cut(top_k=2)):
            assert cut.locate(values).count == 0
    assert np.isnan(overlap(Cut().locate(torch.zeros(2, 3)), Cut().locate(torch.ones(2, 3))))


@given(
    st.lists(SCORES, min_size=1, max_size=20), st.floats(0.01, 1) | st.integers(1, 20).map(lambda n: n / 20)
)
def test_refinement_counts_prompts(prompts: list[list[float]], share: float) -> None:
    masks = [NeuronMask(torch.tensor(one).reshape(2, 3) > 0) for one in prompts]
    kept = shared(masks, share).values.ravel().tolist()
    counts = [sum(one[place] > 0 for one in prompts) for place in range(6)]
    assert kept == [count / len(prompts) >= share for count in counts]


def test_locating_by_one_prompt_by_their_mean_and_by_what_they_share() -> None:
    lm = tiny_lm()
    each = [one.values.double() for one in scores_of(lm, FACT)]
    own = [Cut(0.3).locate(values).values for values in each]

    def found(*examples: Example, **options: Any) -> Tensor:
        return caploc.LOCATORS["kn"](lm, examples, threshold=0.3, progress=False, **options).values

    assert torch.equal(found(FACT[0]), own[0]) and not torch.equal(own[0], own[1])
    assert torch.equal(found(*FACT), Cut(0.3).locate(sum(each) / 2).values)
    assert torch.equal(found(*FACT, share=1.0), own[0] & own[1])
    assert torch.equal(found(*FACT, share=0.5), own[0] | own[1])
    assert found(*FACT, top_k=3).sum() == 3
    assert not torch.equal(found(FACT[0], answer_tokens=1), own[0])
    assert not torch.equal(found(FACT[0], path="neuron"), own[0])


@pytest.mark.parametrize("family", ["llama", "gptj"])
def test_planted_knowledge_is_located_and_holds_the_fact(family: str) -> None:
    """One neuron of the last layer writes the answer: KN ranks it first, and zeroing it takes the answer away."""
    lm = tiny_lm(family)
    tokenized = tokenize(lm, ONE_TOKEN)
    projection = lm.architecture.mlp_out_of(lm.layers[-1])
    entering: list[Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _, args: entering.append(args[0][0, -1]))
    with torch.no_grad():
        lm.model(input_ids=tokenized.prompt_ids[None])
        handle.remove()
        head: Tensor = lm.model.get_output_embeddings().weight  # type: ignore[assignment]
        answer = head[tokenized.answer_ids[0]] - head.mean(0)
        projection.weight[:, 7] = 12 * answer / answer.norm() / entering[0][7]  # type: ignore[index, operator]
    mask = locate(lm, [ONE_TOKEN], top_k=1, progress=False)
    assert mask.values.nonzero().tolist() == [[SHAPE[0] - 1, 7]]
    changed = probabilities(lm, ONE_TOKEN, mask, 0)
    assert float(changed.clean.sum().exp()) > 0.2 and float(changed.probability[0]) < 0.1


def test_the_store_keeps_the_scores_of_every_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, store = tiny_lm(), Store(tmp_path)
    plain = scores_of(lm, [*FACT, FACT[0]])
    first = scores_of(lm, [*FACT, FACT[0]], store=store)
    assert store.describe().entries == 2  # the same tokens are the same entry
    warmed = locate(lm, FACT, store=store, progress=False)
    monkeypatch.setattr(knowledge_neurons, "Attributor", None)  # a warm run makes no model ready
    second = scores_of(lm, [*FACT, FACT[0]], store=store)
    for one, two, three in zip(plain, first, second, strict=True):
        for name in ("values", "completeness", "gap", "points"):
            assert torch.equal(getattr(one, name), getattr(two, name))
            assert torch.equal(getattr(one, name), getattr(three, name))
        assert one.settings == three.settings
    assert torch.equal(warmed.values, locate(lm, FACT, store=store, progress=False).values)
    monkeypatch.undo()
    for options in ({"method": Method(steps=5)}, {"method": Method(value="pre")}, {"answer_tokens": 1}):
        before = store.describe().entries
        scores_of(lm, FACT, store=store, **options)
        assert store.describe().entries == before + 2
    scores_of(tiny_lm(seed=1), FACT, store=store)
    scores_of(tiny_lm(dtype=torch.float64), FACT, store=store)
    assert store.describe().entries == before + 6


BAD: dict[str, dict[str, Any]] = {
    r"threshold must be a fraction of the largest score, in \(0, 1\], got 0": {"threshold": 0},
    r"threshold must be a fraction .* got 1\.2": {"threshold": 1.2},
    r"threshold must be a fraction .* got nan": {"threshold": float("nan")},
    r"threshold must be a fraction .* got '0\.2'": {"threshold": "0.2"},
    r"top_k must be a number of neurons of at least 1, got 0": {"top_k": 0},
    r"share must be a fraction of the prompts, in \(0, 1\], got 70": {"share": 70},
    r"unknown quadrature 'simpson'": {"quadrature": "simpson"},
    r"answer_tokens must be at least 1": {"answer_tokens": 0},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_options_are_refused_before_any_work(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_neurons, "Attributor", None)
    with pytest.raises(OptionError, match=message):
        locate(tiny_lm(), FACT, progress=False, **BAD[message])


def test_bad_examples_are_refused() -> None:
    with pytest.raises(OptionError, match="no examples to locate with"):
        locate(tiny_lm(), [])
    with pytest.raises(ExampleError, match="'e': the answer is empty"):
        locate(tiny_lm(), [*FACT, Example("e", "a", " ")])
    with pytest.raises(OptionError, match="no masks to compare"):
        shared([], 0.5)


def test_wordings_of_a_fact_agree_more_than_facts() -> None:
    """On an embedded model and its facts: 4 facts in 3 wordings."""
    lm = caploc.load_model("tiny-llama")
    data = str(embedded_folder("tiny-llama").parents[1] / "data")
    facts: dict[str, list[Example]] = {}
    for example in caploc.load_examples("pararel", data, split="locate"):
        facts.setdefault(str(example.group), []).append(example)
    chosen = [one for wordings in list(facts.values())[::30][:4] for one in wordings[:3]]
    assert len(chosen) == 12
    masks = [Cut().locate(one.values) for one in scores_of(lm, chosen)]
    assert all(mask.count for mask in masks)
    pairs = list(itertools.combinations(range(12), 2))
    same = np.mean([overlap(masks[a], masks[b]) for a, b in pairs if chosen[a].group == chosen[b].group])
    different = np.mean([overlap(masks[a], masks[b]) for a, b in pairs if chosen[a].group != chosen[b].group])
    assert same > different + 0.1


def test_real_facts_on_a_real_model() -> None:
    """What the model does not know has small scores, but finite ones, and still a set."""
    model, facts = SHARED / "models" / "stories260K", SHARED / "data" / "known_1000.jsonl"
    if not model.is_dir() or not facts.is_file():
        pytest.skip("needs ../shared/models/stories260K and ../shared/data/known_1000.jsonl")
    lm = caploc.load_model(model)
    examples = caploc.load_examples("known_1000", str(facts.parent), limit=6)
    for example, found in zip(examples, scores_of(lm, examples), strict=True):
        mask = Cut().locate(found.values)
        assert found.values.isfinite().all() and found.values.shape == (lm.num_layers, lm.num_neurons)
        assert mask.count <= lm.num_layers * lm.num_neurons
        changed = probabilities(lm, example, [mask, mask], [2.0, 0.0])
        assert changed.log_probs.isfinite().all() and float(changed.clean.sum().exp()) < 0.5
