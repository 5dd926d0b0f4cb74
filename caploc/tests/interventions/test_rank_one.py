"""The rank-one edit: the closed form, what it does to the embedded models, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from caploc.datasets import load_examples
from caploc.datasets.edits import EditRequest, load_edits
from caploc.errors import CaplocError, ExampleError, ModelError, OptionError
from caploc.fingerprints import tensor_fingerprint
from caploc.interventions.rank_one import (
    Editing,
    KeyCovariance,
    RankOneEdit,
    SingularCovarianceError,
    draw_prefixes,
    edit_all_layers,
    identity_covariance,
    key_covariance,
    rank_one_edit,
    score_edit,
    summarize_edits,
)
from caploc.interventions.rank_one.prompts import edit_prompts
from caploc.model.loading import LanguageModel, load_model
from caploc.tests.attribution.families import CONFIGS
from caploc.tests.oracles.rank_one import reference_key
from caploc.tests.tiny import NEURONS, REPOSITORY, tiny_lm

DATA = REPOSITORY / "fixtures" / "data"
REQUEST = EditRequest("f1", "in the town of ab cd lives", "ab cd", " xyz", " q")
EDITING = Editing(prefixes=("no. ", "well then. "), steps=3)
EMBEDDED = ("tiny-llama", "tiny-gptj")


@cache
def _embedded(name: str) -> tuple[LanguageModel, KeyCovariance]:
    lm = load_model(name)
    examples = load_examples("counterfact", DATA, "locate", limit=60) + load_examples(
        "imdb", DATA, "locate", limit=30
    )
    texts = [example.prompt + example.answer for example in examples]
    return lm, key_covariance(lm, texts, ridge=1e-4, progress=False)


def _random_covariance(lm: LanguageModel, seed: int = 0) -> KeyCovariance:
    keys = np.random.default_rng(seed).standard_normal((lm.num_layers, 3 * NEURONS, NEURONS))
    matrices = {layer: torch.from_numpy(own.T @ own) / len(own) for layer, own in enumerate(keys)}
    return KeyCovariance(matrices, 3 * NEURONS, "drawn")


@pytest.mark.parametrize("key", ["prompt", "mean"])
@pytest.mark.parametrize("family", CONFIGS)
def test_the_key_maps_to_the_value(family: str, key: Any) -> None:
    lm = tiny_lm(family)
    edits = edit_all_layers(
        lm, REQUEST, _random_covariance(lm), editing=replace(EDITING, key=key, token="last-prompt")
    )
    assert sorted(edits) == list(range(lm.num_layers))
    for layer, edit in edits.items():
        projection = lm.architecture.mlp_out_of(lm.layers[layer])
        with torch.no_grad():
            before = projection(edit.key[None])[0]
            weights = edit.weights(lm)
            with edit.applied(lm):
                after = projection(edit.key[None])[0]
                assert torch.equal(lm.model.get_parameter(edit.parameter), weights[edit.parameter])
            assert torch.equal(projection(edit.key[None])[0], before)
        assert (after - edit.value).norm() <= 1e-5 * edit.value.norm()
        assert torch.allclose(edit.value - before, edit.delta, atol=1e-5)
        assert edit.delta.norm() > 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_other_keys_change_as_little_as_can_be(family: str) -> None:
    """The closed form against the constrained least-squares problem (eq. 2), solved from its Lagrangian."""
    lm = tiny_lm(family, torch.float64)
    covariance = _random_covariance(lm)
    with rank_one_edit(lm, REQUEST, 1, covariance, replace(EDITING, key="mean")) as edit:
        pass
    weight = lm.model.get_parameter(edit.parameter).detach()
    changed = edit.weights(lm)[edit.parameter]
    if family == "gpt2":
        weight, changed = weight.T, changed.T
    key, matrix = edit.key.numpy(), covariance.matrices[1].numpy()
    system = np.block([[2 * matrix, -key[:, None]], [key[None], np.zeros((1, 1))]])
    for row, target in zip((changed - weight).numpy(), edit.delta.numpy(), strict=True):
        right = np.concatenate([np.zeros(NEURONS), [target]])
        assert row == pytest.approx(np.linalg.solve(system, right)[:-1], rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("key", ["prompt", "mean"])
def test_which_key_is_edited_and_in_which_direction(key: Any) -> None:
    lm = tiny_lm("llama", torch.float64)
    covariance = _random_covariance(lm)
    (edit,) = edit_all_layers(lm, REQUEST, covariance, [1], replace(EDITING, key=key)).values()
    keys = reference_key(lm, edit_prompts(lm, REQUEST, EDITING.prefixes or (), "last-subject"), 1)
    assert len(keys) == 3
    assert torch.allclose(edit.key, keys.mean(0) if key == "mean" else keys[0], rtol=1e-9)
    solved = torch.linalg.solve(covariance.matrices[1], keys.mean(0))
    assert torch.allclose(edit.direction, solved / solved.dot(edit.key), rtol=1e-7)


@pytest.mark.parametrize("name", EMBEDDED)
def test_edits_take_at_the_last_prompt_token(name: str) -> None:
    """In the last two layers every edit of a few takes; facts told in twelve wordings are firm, so that some layers in
    the middle turn two in five (python -m caploc.benchmarks editing --only success)."""
    lm, covariance = _embedded(name)
    editing = Editing(token="last-prompt", prefixes=draw_prefixes(lm, (4, 8)))
    requests = load_edits("counterfact", DATA, "evaluate", limit=5)
    before = [score_edit(lm, request) for request in requests]
    scores = []
    for request, unedited in zip(requests, before, strict=True):
        for layer, edit in edit_all_layers(lm, request, covariance, editing=editing).items():
            with edit.applied(lm):
                scores.append((layer, score_edit(lm, request)))
            assert edit.known is unedited.recalled
        assert score_edit(lm, request) == unedited
    assert sum(unedited.recalled for unedited in before) >= 4
    assert summarize_edits(before).efficacy == 0
    assert summarize_edits([score for _, score in scores]).efficacy > 0.6
    last = summarize_edits([score for layer, score in scores if layer >= lm.num_layers - 2])
    assert last.efficacy == last.exact == 1


def test_an_answer_of_several_tokens_and_a_fact_that_the_model_does_not_know() -> None:
    lm, covariance = _embedded("tiny-llama")
    request = EditRequest("new", "Zurk Blomp was born in", "Zurk Blomp", " Bel", " Tresk")
    before = score_edit(lm, request)
    with rank_one_edit(lm, request, 1, covariance, Editing(token="last-prompt", prefixes=())) as edit:
        score = score_edit(lm, request)
    assert edit.known is before.recalled is False
    assert score.efficacy == 1 > before.efficacy
    assert score.new > before.new + 2  # nats a token, of two


def test_weights_can_be_kept() -> None:
    lm, other = tiny_lm(), tiny_lm()
    with rank_one_edit(lm, REQUEST, 0, _random_covariance(lm), EDITING) as edit:
        edited = score_edit(lm, REQUEST)
    assert score_edit(lm, REQUEST) != edited
    other.model.load_state_dict(edit.weights(lm), strict=False)
    assert score_edit(other, REQUEST) == edited


def test_an_edit_records_how_it_was_made() -> None:
    lm = tiny_lm()
    (edit,) = edit_all_layers(lm, REQUEST, _random_covariance(lm), [1], EDITING).values()
    assert isinstance(edit, RankOneEdit) and edit.layer == 1
    assert edit.settings["prefixes"] == EDITING.prefixes and edit.settings["steps"] == 3
    assert edit.settings["covariance"] == {"corpus": "drawn", "tokens": 60, "ridge": 0.0}


def test_prefixes_are_the_model_s_own_and_repeatable() -> None:
    lm, _ = _embedded("tiny-llama")
    drawn = draw_prefixes(lm, (2, 6), seed=3)
    assert drawn == draw_prefixes(lm, (2, 6), seed=3) != draw_prefixes(lm, (2, 6), seed=4)
    assert drawn[:1] == draw_prefixes(lm, (2,), seed=3)
    assert all(text.endswith(". ") for text in drawn)
    lm.tokenizer.bos_token, bos = None, lm.tokenizer.bos_token
    lm.tokenizer.eos_token, eos = None, lm.tokenizer.eos_token
    try:
        with pytest.raises(ModelError, match="no token that begins a sequence"):
            draw_prefixes(lm, (2,))
    finally:
        lm.tokenizer.bos_token, lm.tokenizer.eos_token = bos, eos


def _refused(kind: type[CaplocError], message: str, lm: LanguageModel, **changed: Any) -> None:
    given = {
        "request": REQUEST,
        "layers": None,
        "editing": EDITING,
        "covariance": identity_covariance(lm),
        **changed,
    }
    before = tensor_fingerprint(lm.model.state_dict())
    with pytest.raises(kind, match=message) as caught:
        edit_all_layers(lm, **given)
    assert "\n" not in str(caught.value)
    assert tensor_fingerprint(lm.model.state_dict()) == before


@pytest.mark.parametrize("layer", [2, -1, 1.0, True])
def test_a_layer_out_of_range(layer: Any) -> None:
    _refused(
        OptionError,
        f"layer {layer!r} is out of range: tiny-llama has the layers 0 to 1",
        tiny_lm(),
        layers=[layer],
    )


def test_what_is_refused() -> None:
    lm = tiny_lm()
    _refused(OptionError, "no layer to edit", lm, layers=[])
    _refused(
        ExampleError, "its subject 'rome' is not in its prompt", lm, request=replace(REQUEST, subject="rome")
    )
    _refused(ExampleError, "prompt and answer have", lm, request=replace(REQUEST, prompt="ab cd " * 40))
    _refused(ModelError, "less than bfloat16 can tell apart", tiny_lm(dtype=torch.bfloat16))
    one_layer = replace(_random_covariance(lm), matrices={1: torch.eye(NEURONS, dtype=torch.float64)})
    _refused(OptionError, r"no covariance of layer 0, only of \[1\]", lm, covariance=one_layer)
    singular = key_covariance(lm, ["ab"], progress=False)
    _refused(
        SingularCovarianceError,
        "layer 0's keys, 3 tokens, 20 neurons, is singular or nearly so",
        lm,
        covariance=singular,
    )
    lm.layers[0].mlp.up_proj.weight.data.zero_()
    _refused(ModelError, "edit 'f1': at layer 0 the prompt's key has no part", lm)
    lm.model.model.norm.weight.data.fill_(torch.nan)
    _refused(ModelError, "probabilities that are not numbers", lm, layers=[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "first"}, "token must be one of last-subject, last-prompt, got 'first'"),
        ({"key": "both"}, "key must be one of prompt, mean, got 'both'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
        ({"prefix_tokens": (2, 0)}, r"prefix_tokens must be lengths of at least 1, got \(2, 0\)"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"learning_rate": None}, "learning_rate must be a positive number, got None"),
        ({"clamp": -1.0}, "clamp must be a positive number, got -1.0"),
        ({"kl_weight": float("nan")}, "kl_weight must be a number of at least 0, got nan"),
        ({"decay": True}, "decay must be a number of at least 0, got True"),
    ],
)
def test_options_that_make_no_sense(options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Editing(**options)


def test_an_edit_to_what_is_true() -> None:
    with pytest.raises(ExampleError, match="edit 'f1': the new target ' q' is the true one"):
        replace(REQUEST, target_new=" q")
