"""Models that also see images: the text model inside is loaded, computes what the whole does on a text, and is
attributed and erased as any other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from caploc.architectures import INSIDE, architecture_of
from caploc.attribution.engine import Method
from caploc.errors import ModelError
from caploc.interventions.weights import erased
from caploc.model.loading import defer_model, load_model, untrained_twin, wrap
from caploc.neurons import NeuronMask
from caploc.store import Store
from caploc.tests.attribution.families import config_of, in_float64
from caploc.tests.attribution.test_exactness import packed, random_example, relative_error
from caploc.tests.oracles.attribution import reference_scores
from caploc.tests.tiny import NEURONS, SHAPE, edit_config, edit_weights, error_of, tokenizer

_IMAGES = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_PIXTRAL = {**_IMAGES, "model_type": "pixtral", "num_hidden_layers": 3, "head_dim": 8}
_ANGLES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}


def _text(family: str, **more: Any) -> dict[str, Any]:
    return {**config_of(family, *SHAPE).to_dict(), **more}


def _gemma3() -> PreTrainedModel:
    images = {**_IMAGES, "num_hidden_layers": 3}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=_text("gemma3_text"), vision_config=images, mm_tokens_per_image=1)
    )


def _mistral3(family: str, tied: bool = False) -> PreTrainedModel:
    """Whose embeddings are tied as the whole says, not the text model's own part."""
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=_text(family), vision_config=_PIXTRAL, tie_word_embeddings=tied)
    )


def _qwen3_vl() -> PreTrainedModel:
    text = _text("qwen3", rope_parameters=_ANGLES, model_type="qwen3_vl_text")
    for field in ("use_sliding_window", "sliding_window", "layer_types", "max_window_layers"):
        del text[field]
    images = {"depth": 3, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    more = {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config={**images, **more}))


WHOLES: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "gemma3": (_gemma3, "gemma3_text"),
    "mistral3": (lambda: _mistral3("mistral"), "mistral"),
    "mistral3-ministral3": (lambda: _mistral3("ministral3"), "ministral3"),
    "mistral3-tied": (lambda: _mistral3("mistral", tied=True), "mistral"),
    "qwen3_vl": (_qwen3_vl, "qwen3"),
}


def whole(name: str) -> PreTrainedModel:
    """Random, with weights wide enough for its logits to differ."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = WHOLES[name][0]().float()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def save_whole(folder: Path, name: str) -> Path:
    whole(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_every_such_family_is_tested() -> None:
    assert {name.partition("-")[0] for name in WHOLES} == set(INSIDE)


@pytest.mark.parametrize("name", WHOLES)
def test_computes_what_the_whole_does_on_a_text(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, ids = save_whole(tmp_path / name, name), random_example(20, 20).input_ids[None]
    lm = load_model(folder, dtype="float64")
    assert "UNEXPECTED" not in caplog.text
    assert (lm.architecture.family, lm.config.model_type) == (WHOLES[name][1],) * 2
    assert (lm.num_layers, lm.num_neurons) == (SHAPE[0], NEURONS)
    with in_float64(), torch.no_grad():
        expected = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float64)(
            input_ids=ids
        ).logits
        found = lm.model(input_ids=ids).logits
    assert expected.std() > 0.1 and relative_error(found, expected) <= 1e-12


def test_a_head_of_its_own_stays(tmp_path: Path) -> None:
    """Mistral Small's files hold one, but its config.json says nothing of ties, and transformers' default is to tie."""
    folder, ids = save_whole(tmp_path / "mine", "mistral3"), random_example(20, 20).input_ids[None]
    edit_config(folder, tie_word_embeddings=True)
    lm = load_model(folder, dtype="float64")
    with torch.no_grad():
        expected = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float64)(
            input_ids=ids
        ).logits
        assert relative_error(lm.model(input_ids=ids).logits, expected) <= 1e-12
    head, embedding = lm.model.get_output_embeddings().weight, lm.model.get_input_embeddings().weight
    assert not torch.equal(head, embedding)
    deferred = defer_model(folder, "cpu", "float64", Store(tmp_path / "store"))
    assert (deferred.num_parameters, deferred.fingerprint) == (lm.num_parameters, lm.fingerprint)


@pytest.mark.parametrize("name", WHOLES)
def test_attribution_equals_the_oracle(name: str, tmp_path: Path) -> None:
    lm = load_model(save_whole(tmp_path / name, name), dtype="float64")
    example, method = random_example(11, 9), Method(steps=5, chunk_tokens=30)
    with in_float64():
        error = relative_error(packed(lm, example, method), reference_scores(lm, example, method))
    assert error <= 1e-12


@pytest.mark.parametrize("name", WHOLES)
def test_an_erased_neuron_is_erased_in_the_whole(name: str, tmp_path: Path) -> None:
    folder = save_whole(tmp_path / name, name)
    lm, model = (
        load_model(folder, dtype="float64"),
        AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float64),
    )
    members = torch.rand(lm.num_layers, lm.num_neurons, generator=torch.Generator().manual_seed(0)) < 0.3
    for layer, chosen in zip(model.model.language_model.layers, members, strict=True):
        layer.mlp.down_proj.weight.data[:, chosen] = 0
    ids = random_example(12, 4).input_ids[None]
    with in_float64(), torch.no_grad():
        expected, before = model(input_ids=ids).logits, lm.model(input_ids=ids).logits
        with erased(lm, NeuronMask(members)):
            found = lm.model(input_ids=ids).logits
        assert torch.equal(lm.model(input_ids=ids).logits, before)
    assert relative_error(found, expected) <= 1e-12 < relative_error(before, expected)


@pytest.mark.parametrize("name", WHOLES)
def test_both_ways_of_naming_weights(name: str, tmp_path: Path) -> None:
    """As the older files have them, ``language_model.model.``, and the newer, ``model.language_model.``."""
    folder = save_whole(tmp_path / name, name)
    fingerprints = {load_model(folder).fingerprint}
    weights = load_file(folder / "model.safetensors")
    for text, head, images in (
        ("language_model.model.", "language_model.lm_head.", ""),
        ("model.language_model.", "lm_head.", "model."),
    ):
        places = {
            r"(language_model\.model|model\.language_model)\.": text,
            r"(language_model\.)?lm_head\.": head,
            r"(model\.)?(?=vision_tower|visual|multi_modal)": images,
        }
        renamed = weights
        for old, new in places.items():
            renamed = {re.sub(f"^{old}", new, key): tensor for key, tensor in renamed.items()}
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        fingerprints.add(load_model(folder).fingerprint)
    assert len(fingerprints) == 1


def test_deferred_twin_and_saved(tmp_path: Path) -> None:
    folder = save_whole(tmp_path / "whole", "gemma3")
    lm = load_model(folder)
    deferred = defer_model(folder, "cpu", "float32", Store(tmp_path / "store"))
    assert deferred.num_parameters == lm.num_parameters and deferred.fingerprint == lm.fingerprint
    twin = untrained_twin(lm)
    assert twin.model.state_dict().keys() == lm.model.state_dict().keys()
    lm.model.save_pretrained(tmp_path / "text")
    tokenizer().save_pretrained(tmp_path / "text")
    saved = load_model(tmp_path / "text")
    for key, weight in saved.model.state_dict().items():
        assert torch.equal(weight, lm.model.state_dict()[key]), key


# ------------------------------------------------------------------------------------------------ what is refused


def test_a_whole_in_memory_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^model family 'gemma3' also sees images, .*; give load_model the"):
        wrap("whole", whole("gemma3"), tokenizer())


def test_what_is_wrong_with_the_files_of_the_text_model(tmp_path: Path) -> None:
    folder = save_whole(tmp_path / "whole", "qwen3_vl")
    config = folder / "config.json"
    by_old_name = "language_model.model.layers.1.mlp.down_proj.weight"
    described = json.loads(config.read_text())["text_config"]
    edit_config(folder, text_config=None)
    assert error_of(ModelError, folder).startswith(
        f"{config} describes no text model (text_config), which a qwen3_vl"
    )
    edit_config(folder, text_config={**described, "num_hidden_layers": 3})
    assert error_of(ModelError, folder).startswith(f"{config}: num_hidden_layers is 3, but the weights")
    edit_config(folder, text_config={**described, "model_type": "bloom"})
    assert "model family 'bloom' is not supported" in error_of(ModelError, folder)
    edit_config(folder, text_config=described)
    edit_weights(folder, lambda weights: weights.update({"model.language_model.other": torch.ones(1)}))
    assert "'model.other' has no place in the qwen3 model" in error_of(ModelError, folder)
    edit_weights(folder, lambda weights: weights.pop("model.language_model.other"))
    edit_weights(folder, lambda weights: weights.update({by_old_name: torch.ones(1)}))
    assert "holds 'model.layers.1.mlp.down_proj.weight' by two names" in error_of(ModelError, folder)


@pytest.mark.parametrize(
    "family",
    [
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "gpt_oss",
        "deepseek_v3",
        "glm4_moe",
        "dbrx",
        "llama4",
        "qwen3_vl_moe",
    ],
)
def test_mixtures_of_experts_are_refused(family: str, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=f"^model family '{family}' is refused: it is a mixture of experts, whose"
    ):
        architecture_of(family)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    assert error_of(ModelError, tmp_path).startswith(f"model family '{family}' is refused: it is a mixture")


@pytest.mark.parametrize("family", ["bloom", "bert", "gemma3n_text", "not-even-known-to-transformers"])
def test_others_are_not_called_so(family: str) -> None:
    with pytest.raises(ModelError, match="is not supported; add one line"):
        architecture_of(family)
