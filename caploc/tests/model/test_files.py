"""What a folder's headers say against config.json: other weights than the folder's are never audited, and what is wrong
is told before anything is built."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from caploc.errors import ModelError, TooLongError
from caploc.evaluation import prepare, text_loss
from caploc.examples import Example
from caploc.model.files import ModelFiles
from caploc.model.loading import defer_model, load_model
from caploc.store import Store
from caploc.tests.attribution.families import CONFIGS, make_model
from caploc.tests.tiny import SHAPE, edit_config, edit_weights, error_of, save_tiny, tokenizer

INDEX = "model.safetensors.index.json"
DOWN = "model.layers.1.mlp.down_proj.weight"
Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "mine")


@pytest.fixture
def sharded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In several files with their index, where a pickle that is read is an error of the test."""
    made = tmp_path / "sharded"
    make_model(CONFIGS["llama"](*SHAPE), torch.float32).save_pretrained(made, max_shard_size="20KB")
    tokenizer().save_pretrained(made)

    def unpickled(*args: object, **kwargs: object) -> None:
        pytest.fail("a pickle was read")

    monkeypatch.setattr(torch, "load", unpickled)
    return made


def edit_index(folder: Path, **places: object) -> Path:
    path = folder / INDEX
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "weight_map": {**index["weight_map"], **places}}))
    return path


def add_whole(folder: Path) -> None:
    """All weights of the folder in one file more."""
    weights: Weights = {}
    for shard in folder.glob("model-*.safetensors"):
        weights |= load_file(shard)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# ------------------------------------------------------------------------------------------------ the index


@pytest.mark.parametrize(
    "name",
    ["../evil.bin", "evil.bin", "../evil.safetensors", "sub/evil.safetensors", "..\\evil.safetensors", "",
     ".safetensors/", "pytorch_model.bin", 3, None, ["model.safetensors"], "\0.safetensors", "evil.safetensors.bin"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a whole file"])
def test_an_index_leads_to_nothing_but_safetensors_of_its_folder(
    sharded: Path, name: object, beside: bool
) -> None:
    torch.save({DOWN: torch.ones(1)}, sharded.parent / "evil.bin")
    save_file({DOWN: torch.ones(1)}, sharded.parent / "evil.safetensors")
    if beside:
        add_whole(sharded)
    index = edit_index(sharded, **{DOWN: name})
    error = error_of(ModelError, sharded)
    assert error.startswith(
        f"{index} places '{DOWN}' in {name!r}, which is no .safetensors file of its folder"
    )


def test_an_index_that_fits_loads(sharded: Path) -> None:
    edit_index(sharded)
    assert load_model(sharded).num_layers == SHAPE[0]


def test_an_index_of_other_files_than_the_one_that_is_read(sharded: Path) -> None:
    """transformers reads model.safetensors and no shard: which of them is meant is not for us to say."""
    add_whole(sharded)
    error = error_of(ModelError, sharded)
    assert error.startswith(f"{sharded / INDEX} places ")
    assert error.endswith(
        "it is in model.safetensors; take the index away, if model.safetensors is the model"
    )
    (sharded / INDEX).unlink()
    for shard in sharded.glob("model-*.safetensors"):
        shard.unlink()
    assert load_model(sharded).num_layers == SHAPE[0]


def test_a_key_that_its_shard_does_not_hold(sharded: Path) -> None:
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(name for name in places.values() if name != places[DOWN])
    edit_index(sharded, **{DOWN: other})
    assert f"places '{DOWN}' in {other}, but it is in {places[DOWN]}; get a whole copy" in error_of(
        ModelError, sharded
    )
    edit_index(sharded, **{DOWN: places[DOWN], "ghost.weight": other})
    assert f"places 'ghost.weight' in {other}, but it is not there; get a whole copy" in error_of(
        ModelError, sharded
    )


def test_a_key_in_two_shards(sharded: Path) -> None:
    places = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = sharded / next(name for name in places.values() if name != places[DOWN])
    save_file({**load_file(other), DOWN: torch.zeros(2, 2)}, other)
    assert f"'{DOWN}' stands in " in error_of(ModelError, sharded)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": {}}', '{"metadata": {}, "weight_map": {}}']
)
def test_a_bad_index(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    assert error_of(ModelError, sharded).startswith(f"{sharded / INDEX} ")


def test_a_shard_that_the_index_leaves_out(sharded: Path) -> None:
    """Even where config.json agrees: the layers in it would be dropped."""
    index = json.loads((sharded / INDEX).read_text())
    first = min(index["weight_map"].values())
    kept = {key: name for key, name in index["weight_map"].items() if name == first}
    (sharded / INDEX).write_text(json.dumps({**index, "weight_map": kept}))
    assert re.search(
        r"model-00002-of-.* would not be read: model.safetensors.index.json", error_of(ModelError, sharded)
    )
    (sharded / INDEX).unlink()
    add_whole(sharded)
    assert "would not be read: model.safetensors goes without it; take it away" in error_of(
        ModelError, sharded
    )


def test_a_note_of_git_lfs_instead_of_the_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    )
    assert error_of(ModelError, folder).endswith("; fetch them with `git lfs pull`")


def test_shards_without_their_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    assert f"but neither model.safetensors nor {INDEX}" in error_of(ModelError, sharded)


def test_weights_that_transformers_would_read_instead(folder: Path) -> None:
    """A name in config.json, and the shards of a distributed checkpoint, go before model.safetensors."""
    edit_config(folder, transformers_weights="adapter_model.bin")
    assert "names a weight file of its own (transformers_weights)" in error_of(ModelError, folder)
    edit_config(folder, transformers_weights=None)
    save_file({DOWN: torch.ones(1)}, folder / "shard-00001-model-00001-of-00001.safetensors")
    assert "holds a distributed checkpoint (shard-00001-model-" in error_of(ModelError, folder)


# ------------------------------------------------------------------------------------------------ sizes


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(sorted(CONFIGS)),
    size=st.sampled_from(["num_hidden_layers", "vocab_size", "hidden_size", "max_position_embeddings"]),
    value=st.sampled_from([1, 3, 48, 100_000, 10**9, 10**18]),
)
def test_sizes_that_the_weights_do_not_bear_out(
    family: str, size: str, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Told at once and without memory, however large they are. Angles are made of any position, but tables are not."""
    folder = tmp_path_factory.mktemp(family)
    save_tiny(folder, family)
    names: Any = type(CONFIGS[family](*SHAPE)).attribute_map
    edit_config(folder, **{names.get(size, size): value})
    table = family in ("gpt2", "opt") or (family == "gptj" and value >= 10**9)
    begun = time.process_time()
    if size == "max_position_embeddings" and not table and value < 2**31:
        assert load_model(folder).max_length == value
        return
    assert str(folder) in error_of(ModelError, folder) or size == "max_position_embeddings"
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("layers", [1, 3, 100_000])
def test_another_number_of_layers_than_the_file_has(family: str, layers: int, tmp_path: Path) -> None:
    """Fewer, too: the first ones alone are another model."""
    save_tiny(tmp_path, family)
    key = "n_layer" if family == "gpt2" else "num_hidden_layers"
    edit_config(tmp_path, **{key: layers})
    assert error_of(ModelError, tmp_path) == (
        f"{tmp_path / 'config.json'}: {key} is {layers}, but the weights (model.safetensors) hold {SHAPE[0]} layers; "
        "get the weights and the configuration from one place"
    )


def test_a_number_of_layers_that_config_leaves_to_its_class(folder: Path) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["num_hidden_layers"]
    path.write_text(json.dumps(config))
    assert "asks for 32 layers, but the weights (model.safetensors) hold 2" in error_of(ModelError, folder)


@pytest.mark.parametrize("length", [None, 0, -1, 2.5, "long", 2**31])
def test_a_context_that_is_no_number_of_tokens(folder: Path, length: object) -> None:
    edit_config(folder, max_position_embeddings=length)
    error_of(ModelError, folder)


# ------------------------------------------------------------------------------------------------ strays


def quantize(weights: Weights, dtype: torch.dtype, scale: str | None) -> None:
    rows = weights[DOWN].abs().amax(1)
    weights[DOWN] = (weights[DOWN] / rows[:, None] * 100).to(dtype)
    if scale:
        weights[DOWN.removesuffix("weight") + scale] = rows


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("scale", [None, "SCB", "weight_scale", "weight_scale_inv"])
def test_quantized_weights_whose_configuration_was_taken_out(
    folder: Path, dtype: torch.dtype, scale: str | None
) -> None:
    edit_weights(folder, lambda weights: quantize(weights, dtype, scale))
    error = error_of(ModelError, folder)
    assert error.startswith(f"{folder / 'model.safetensors'}: 'model.layers.1.mlp.down_proj.")
    assert error.endswith("no quantization_config; attribution needs the plain weights of its base model")


@pytest.mark.parametrize("name", ["qweight", "qzeros", "scales", "g_idx", "weight.absmax", "weight_packed"])
def test_tensors_of_quantized_weights(folder: Path, name: str) -> None:
    edit_weights(folder, lambda weights: weights.update({DOWN.replace("weight", name): torch.ones(2)}))
    assert f"down_proj.{name}' (F32) belongs to quantized weights" in error_of(ModelError, folder)


@pytest.mark.parametrize(
    "key", ["model.layers.1.mlp.down_proj.lora_A.weight", "base_model.model.model.norm.weight",
            "model.layers.0.self_attn.q_proj.base_layer.weight", "model.layers.0.mlp.up_proj.lora_B.default.weight"],
)  # fmt: skip
def test_an_adapters_tensors_in_the_file(folder: Path, key: str) -> None:
    edit_weights(folder, lambda weights: weights.update({key: torch.ones(2)}))
    assert f"{folder / 'model.safetensors'}: '{key}' is an adapter's; merge it" in error_of(
        ModelError, folder
    )


@pytest.mark.parametrize(
    "key", ["score.weight", "v_head.summary.weight", "model.layers.1.mlp.down_proj.bias", "model.norm.bias",
            "model.layers.0.self_attn.q_norm.weight", "model.extra\nline", "MODEL.norm.weight"],
)  # fmt: skip
def test_a_tensor_that_has_no_place(folder: Path, key: str) -> None:
    edit_weights(folder, lambda weights: weights.update({key: torch.ones(2)}))
    assert error_of(ModelError, folder) == (
        f"{folder / 'model.safetensors'}: {key!r} has no place in the llama model of config.json, and would be left "
        "out; get the weights and the configuration from one place"
    )


def test_two_keys_of_one_weight(tmp_path: Path) -> None:
    save_tiny(tmp_path, "gpt2")
    edit_weights(
        tmp_path, lambda weights: weights.update({"ln_f.bias": weights["transformer.ln_f.bias"] + 1})
    )
    assert " and 'ln_f.bias' are one weight; get a sound copy" in error_of(ModelError, tmp_path)


@pytest.mark.parametrize(
    "names", [("adapter_config.json",), ("adapter_model.safetensors",), ("adapter_model.bin", "adapter_config.json"),
              ("adapters.safetensors",), ("pytorch_lora_weights.safetensors",)],
)  # fmt: skip
def test_an_adapter_beside_the_base_and_alone(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).write_text("{}")
    beside = error_of(ModelError, folder)
    assert beside.startswith(
        f"model folder {folder} holds an adapter ({min(names, key=sorted(names).index)})"
    )
    assert "merge_and_unload" in beside and beside.endswith(
        "take the adapter's files away to audit the base model"
    )
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    alone = error_of(ModelError, folder)
    assert "holds an adapter (" in alone and alone.endswith("and give the folder that is saved then")


# ------------------------------------------------------------------------------------------------ what is harmless


HARMLESS = {
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
    "gptj": {"transformer.h.1.attn.bias": torch.ones(1, 1, 9, 9, dtype=torch.bool),
             "transformer.h.1.attn.masked_bias": torch.tensor(-1e9)},
    "gpt2": {"h.0.attn.bias": torch.ones(1, 1, 9, 9, dtype=torch.uint8)},
    "gpt_neox": {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 9, 9, dtype=torch.bool),
                 "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
                 "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(2)},
    "phi": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)},
}  # fmt: skip


@pytest.mark.parametrize("family", HARMLESS)
def test_buffers_that_older_versions_stored_do_no_harm(family: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, family)
    before = load_model(tmp_path).fingerprint
    edit_weights(tmp_path, lambda weights: weights.update(HARMLESS[family]))
    assert load_model(tmp_path).fingerprint == before


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_a_tied_head_and_keys_without_the_models_prefix_load(family: str, tmp_path: Path) -> None:
    config = CONFIGS[family](*SHAPE)
    config.tie_word_embeddings = True
    make_model(config, torch.float32).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    before = load_model(tmp_path).fingerprint
    assert "lm_head.weight" not in ModelFiles.of(tmp_path, "mine").tensors
    embedding = next(
        key for key in load_file(tmp_path / "model.safetensors") if "embed_tok" in key or "wte" in key
    )
    edit_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": weights[embedding].clone()}))
    assert load_model(tmp_path).fingerprint == before
    edit_weights(tmp_path, lambda weights: weights.pop(embedding))
    assert load_model(tmp_path).fingerprint == before
    bare = {
        key.partition(".")[2] if "lm_head" not in key else key
        for key in load_file(tmp_path / "model.safetensors")
    }

    def strip(weights: Weights) -> None:
        for key in list(weights):
            if key != "lm_head.weight":
                weights[key.partition(".")[2]] = weights.pop(key)

    edit_weights(tmp_path, strip)
    assert set(load_file(tmp_path / "model.safetensors")) == bare
    assert load_model(tmp_path).fingerprint == before


def test_other_files_beside_the_weights_are_not_read(folder: Path) -> None:
    before = load_model(folder).fingerprint
    (folder / "consolidated.safetensors").write_bytes(b"something else")
    assert load_model(folder).fingerprint == before


# ------------------------------------------------------------------------------------------------ what positions mean


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("llama", {"is_causal": False}),
        ("gpt2", {"is_causal": False}),
        ("gptj", {"is_causal": False}),
        ("gemma3_text", {"use_bidirectional_attention": True}),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}),
        ("gptj", {"rotary_dim": 12}),
        ("llama", {"rope_parameters": {"rope_type": "su", "rope_theta": 100.0}}),
    ],
)
def test_what_rows_cannot_reproduce_is_refused_at_load(
    family: str, change: dict[str, object], tmp_path: Path
) -> None:
    save_tiny(tmp_path / "model", family)
    edit_config(tmp_path / "model", **change)
    error_of(ModelError, tmp_path / "model")
    with pytest.raises(ModelError):  # in a run, when the weights are first asked for
        _ = defer_model(tmp_path / "model", "cpu", "float32", Store(tmp_path / "store")).model


@pytest.mark.parametrize("family", ["phi3", "llama"])
def test_a_context_ends_where_the_angles_change(family: str, tmp_path: Path) -> None:
    """Long RoPE: what exceeds the original context is left out, so that no other text in its batch is changed by it."""
    save_tiny(tmp_path, family)
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope |= {"rope_theta": 100.0, "original_max_position_embeddings": 32, "partial_rotary_factor": 1.0}
    edit_config(tmp_path, rope_parameters=rope, original_max_position_embeddings=32)
    lm = load_model(tmp_path)
    assert lm.max_length == 32 < lm.config.max_position_embeddings
    items = [Example("short", "ab", " c"), Example("long", "ab" * 20, " c")]
    both = prepare(lm, "mine", items, scoring="tokens")
    assert [one.id for one in both.excluded] == ["long"] and "holds 32" in both.excluded[0].reason
    with pytest.raises(TooLongError, match="holds 32"):
        text_loss(lm, ["ab", "ab" * 20])
