"""Models from folders and by name: what loads, which names, options and folders are refused and how it is said, that
nothing in a folder is run, twins and fingerprints."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging as hf_logging

from caploc.architectures import ARCHITECTURES
from caploc.errors import ModelError, OptionError, UnknownNameError
from caploc.model.loading import DTYPES, LanguageModel, load_model, untrained_twin, wrap
from caploc.model.registry import REGISTRY, embedded_folder
from caploc.tests.attribution.families import CONFIGS, CONTEXT, config_of, gpt_neo_config, make_model
from caploc.tests.tiny import (
    EMBEDDED,
    NEURONS,
    REPOSITORY,
    SHAPE,
    SHARED,
    WIDTH,
    edit_config,
    edit_weights,
    error_of,
    save_tiny,
    tiny_lm,
    tokenizer,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STORIES = SHARED / "models" / "stories260K"
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "mine")


# ------------------------------------------------------------------------------------------------ what loads


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_every_family_loads_from_a_folder_in_every_dtype(family: str, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / f"my-{family}", family)
    saved = make_model(config_of(family, *SHAPE), torch.float32).state_dict()
    for name, dtype in DTYPES.items():
        lm = load_model(str(folder), dtype=name)
        assert (lm.name, lm.architecture.family, lm.dtype) == (f"my-{family}", family, dtype)
        assert (lm.num_layers, lm.num_neurons, lm.max_length) == (SHAPE[0], NEURONS, CONTEXT)
        assert lm.device == torch.device("cpu") and not lm.model.training
        assert lm.tokenizer("a1")["input_ids"] == tokenizer()("a1")["input_ids"]
        for key, weight in lm.model.state_dict().items():
            assert torch.equal(weight, saved[key].to(dtype)), key


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models_load_by_name(name: str) -> None:
    if not (REPOSITORY / "fixtures" / "models" / name / "config.json").is_file():
        pytest.skip(f"fixtures/models/{name} is not in this checkout; make it with python -m fixtures.make")
    lm, entry = load_model(name), REGISTRY[name]
    assert (lm.name, lm.architecture.family) == (name, entry.family)
    assert (lm.num_layers, lm.num_neurons) == (entry.layers, entry.neurons)
    assert lm.fingerprint == load_model(embedded_folder(name)).fingerprint


def test_a_real_model_loads() -> None:
    if not STORIES.is_dir():
        pytest.skip(f"no real model: put stories260K, in Hugging Face format, into {STORIES}")
    lm = load_model(STORIES)
    assert (lm.name, lm.num_layers, lm.num_neurons, lm.num_parameters) == ("stories260K", 5, 172, 260_032)
    ids = lm.tokenizer("Once upon a time, there was a little girl named", return_tensors="pt")["input_ids"]
    assert lm.tokenizer.decode(lm.model(ids).logits[0, -1].argmax()).strip()[:1].isupper()


def test_the_name_is_the_folders_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_model(".").name == "mine"


@pytest.mark.parametrize(
    ("family", "per_neuron"),
    [
        ("llama", 3 * WIDTH),  # a row of gate, a row of up, a column of down
        ("phi3", 3 * WIDTH),  # gate and up in one matrix
        ("gpt2", 2 * WIDTH + 1),  # a column of c_fc with its bias, a row of c_proj
        ("opt", 2 * WIDTH + 1),
        ("gptj", 2 * WIDTH + 1),
    ],
)
def test_a_neurons_own_parameters(family: str, per_neuron: int) -> None:
    assert tiny_lm(family).parameters_per_neuron == per_neuron


def test_tied_embeddings_count_once() -> None:
    config = CONFIGS["llama"](*SHAPE)
    untied = wrap("untied", make_model(config, torch.float32), tokenizer()).num_parameters
    config.tie_word_embeddings = True
    tied = wrap("tied", make_model(config, torch.float32), tokenizer()).num_parameters
    assert untied - tied == config.vocab_size * WIDTH


# ------------------------------------------------------------------------------------------------ names and options


@pytest.mark.parametrize(("typed", "meant"), [("tiny-lama", "tiny-llama"), ("llama-2-7b", "llama2-7b")])
def test_an_unknown_name_suggests_the_closest(typed: str, meant: str) -> None:
    error = error_of(UnknownNameError, typed)
    assert error.startswith(f"model '{typed}' is no folder, no registry name (tiny-llama, ")
    assert error.endswith(f"did you mean '{meant}'?")


@pytest.mark.parametrize("name", ["", "/nowhere/at-all", "./nowhere", "~/nowhere", "a/b/c", "{}/model"])
def test_a_folder_that_is_not_there(name: str, tmp_path: Path) -> None:
    name = name.format(tmp_path)
    error = error_of(UnknownNameError, name)
    assert error.startswith(f"model '{name}' is no folder") and "no hub id ORG/NAME" in error


def test_a_file_instead_of_its_folder(folder: Path) -> None:
    assert "is no folder" in error_of(UnknownNameError, folder / "model.safetensors")


@pytest.mark.parametrize("pin", ["", "main", COMMIT[:7], COMMIT.upper(), COMMIT + "0"])
def test_a_hub_id_needs_a_pinned_revision(pin: str) -> None:
    expected = (
        "hub model 'org/name' needs a pinned revision, or results could not be reproduced: use org/name@"
    )
    assert error_of(OptionError, f"org/name@{pin}").startswith(expected)
    assert error_of(OptionError, "org/name", revision=pin).startswith(expected)


def test_a_registry_entry_cannot_be_unpinned() -> None:
    assert "needs a pinned revision" in error_of(OptionError, "gpt2", revision="main")


def test_a_folder_has_no_revision(folder: Path) -> None:
    expected = f"model '{folder}' is a folder and has no revision 'v2'; leave the revision out"
    assert error_of(OptionError, folder, revision="v2") == expected


@pytest.mark.parametrize("dtype", ["float16", "fp32", "", "torch.float32"])
def test_an_unknown_dtype(folder: Path, dtype: str) -> None:
    expected = f"unknown dtype '{dtype}'; choose one of float32, float64, bfloat16"
    assert error_of(OptionError, folder, dtype=dtype) == expected


@pytest.mark.parametrize("device", ["gpu", "mps", "meta", "cpu:3", "cuda:", "cuda:x", ""])
def test_an_unknown_device(folder: Path, device: str) -> None:
    expected = f"unknown device '{device}'; use cpu, cuda, cuda:N or several: cuda:0,1"
    assert error_of(OptionError, folder, device=device) == expected


def test_cuda_where_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0"):
        expected = f"device '{device}' asked for, but this machine has no usable CUDA GPU; use cpu"
        assert error_of(OptionError, folder, device=device) == expected


@pytest.mark.parametrize("index", [2, 7, 999])
def test_a_gpu_beyond_the_last(folder: Path, monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "there is none above cuda:1" in error_of(OptionError, folder, device=f"cuda:{index}")


def test_options_are_checked_before_anything_is_read() -> None:
    assert "unknown dtype" in error_of(OptionError, "/nowhere", dtype="int8")


# ------------------------------------------------------------------------------------------------ twins, fingerprints


def states(lm: LanguageModel) -> list[torch.Tensor]:
    return list(lm.model.state_dict().values())


@pytest.mark.parametrize("family", ["llama", "gptj", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_untrained_twin(family: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(family, dtype)
    lm.model.config.dtype = dtype
    config, before = lm.model.config.to_dict(), lm.fingerprint
    random, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    twin, same, other = untrained_twin(lm, 3), untrained_twin(lm, 3), untrained_twin(lm, 4)
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], numbers)  # noqa: NPY002
    assert lm.model.config.to_dict() == config and twin.model.config is not lm.model.config
    assert wrap("again", lm.model, lm.tokenizer).fingerprint == before

    assert twin.name == f"{lm.name}-untrained-3"
    assert (twin.dtype, twin.device, twin.architecture) == (dtype, lm.device, lm.architecture)
    assert twin.tokenizer is lm.tokenizer and not twin.model.training
    assert [weight.shape for weight in states(twin)] == [weight.shape for weight in states(lm)]
    assert all(torch.equal(a, b) for a, b in zip(states(twin), states(same), strict=True))
    assert twin.fingerprint == same.fingerprint
    assert len({lm.fingerprint, twin.fingerprint, other.fingerprint}) == 3
    down = [x.architecture.mlp_out_of(x.layers[0]).weight for x in (lm, twin, other)]
    assert not torch.equal(down[0], down[1]) and not torch.equal(down[1], down[2])


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path: Path) -> None:
    first, second = save_tiny(tmp_path / "one"), save_tiny(tmp_path / "two")
    assert load_model(first).fingerprint == load_model(second).fingerprint
    assert load_model(first).fingerprint != load_model(first, dtype="float64").fingerprint
    assert load_model(first).fingerprint != load_model(save_tiny(tmp_path / "three", seed=1)).fingerprint


def test_the_fingerprint_changes_with_one_bit_of_a_weight(folder: Path) -> None:
    before = load_model(folder).fingerprint

    def flip(weights: dict[str, torch.Tensor]) -> None:
        weights[DOWN].view(torch.int32)[3, 4] ^= 1

    edit_weights(folder, flip)
    assert load_model(folder).fingerprint != before
    edit_weights(folder, flip)
    assert load_model(folder).fingerprint == before


@pytest.mark.parametrize(
    "change", [{"rms_norm_eps": 1e-3}, {"max_position_embeddings": 48}, {"hidden_act": "gelu"}]
)
def test_the_fingerprint_changes_with_the_configuration(folder: Path, change: dict[str, object]) -> None:
    before = load_model(folder).fingerprint
    edit_config(folder, **change)
    assert load_model(folder).fingerprint != before


def test_no_loading_bar_where_there_is_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    enabled = hf_logging.is_progress_bar_enabled()
    load_model(save_tiny(tmp_path / "model"))
    assert "Loading weights" not in capfd.readouterr().err
    assert hf_logging.is_progress_bar_enabled() == enabled


# --------------------------------------------------------------------------------------- what is refused in a folder


def test_a_folder_without_a_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    expected = f"model folder {folder} has no config.json; give a folder in Hugging Face format"
    assert error_of(ModelError, folder) == expected


@pytest.mark.parametrize("text", ["{not json", "", "[]", "{}", '{"model_type": 3}', "\udc80"])
def test_a_bad_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    error = error_of(ModelError, folder)
    assert error.startswith(f"{folder / 'config.json'} ") and re.search("; (get|give) a ", error)


def test_a_configuration_with_a_wrong_value(folder: Path) -> None:
    edit_config(folder, hidden_size="wide")
    assert str(folder) in error_of(ModelError, folder)


@pytest.mark.parametrize("family", ["bloom", "bert", "not-even-known-to-transformers"])
def test_an_unsupported_family(folder: Path, family: str) -> None:
    edit_config(folder, model_type=family)
    error = error_of(ModelError, folder)
    assert (
        error.startswith(f"model family '{family}' is not supported; ") and "caploc/architectures.py" in error
    )


def test_gpt_neo_is_refused(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_config(gpt_neo_config()).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert error_of(ModelError, tmp_path).startswith("model family 'gpt_neo' is refused: ")


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes", "unheard-of"])
def test_a_quantized_model(folder: Path, method: str) -> None:
    edit_config(folder, quantization_config={"quant_method": method, "bits": 4})
    error = error_of(ModelError, folder)
    assert error.startswith(f"model folder {folder} is quantized") and error.endswith("of its base model")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    edit_weights(folder, lambda weights: weights[DOWN][3, 4].fill_(value))
    expected = (
        f"model folder {folder} has weights that are not finite (nan or inf) in {DOWN}; get a sound copy"
    )
    assert error_of(ModelError, folder) == expected


def test_missing_weights_are_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.pop(DOWN))
    assert (
        error_of(ModelError, folder)
        == f"model folder {folder} lacks 1 weights, the first {DOWN}; get a whole copy"
    )


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    edit_weights(folder, lambda weights: weights.update({DOWN: weights[DOWN][:, :7].clone()}))
    expected = (
        f"model folder {folder}: {DOWN} has shape [32, 7], by config.json it must have [32, 20]; get the"
    )
    assert error_of(ModelError, folder).startswith(expected)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    make_model(CONFIGS["llama"](*SHAPE), torch.float32).save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and load_model(tmp_path).num_layers == SHAPE[0]
    shards[1].unlink()
    assert shards[1].name in error_of(ModelError, tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_weight_file_is_named(folder: Path, damage: str) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"\xff" * 100}[damage]
    )
    error = error_of(ModelError, folder)
    assert error.startswith(f"{path} cannot be loaded (") and error.endswith("; get a sound copy")


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gptj", "gpt_neox", "opt"])
def test_a_folder_without_a_tokenizer(family: str, tmp_path: Path) -> None:
    """transformers makes an empty one for most families, which would read every text as nothing or as unknown."""
    save_tiny(tmp_path, family)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    assert error_of(ModelError, tmp_path).startswith(
        f"model folder {tmp_path} holds no tokenizer (tokenizer.json, "
    )


def test_a_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{not json")
    error = error_of(ModelError, folder)
    assert error.startswith(f"the tokenizer of model folder {folder} cannot be loaded (")
    assert error.endswith("put the original's tokenizer files into the folder")


def test_layers_of_different_sizes() -> None:
    model = make_model(CONFIGS["llama"](*SHAPE), torch.float32)
    model.model.layers[1].mlp.down_proj = nn.Linear(NEURONS + 1, WIDTH)
    with pytest.raises(
        ModelError, match=r"^model 'odd' has layers of \[20, 21\] neurons; all must have the same"
    ):
        wrap("odd", model, tokenizer())


# ------------------------------------------------------------------------------------------------ nothing is run


class _Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


def test_a_pickle_is_never_unpickled(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "unpickled"
    trap = pickle.dumps(_Trap(marker))
    pickle.loads(trap)
    marker.rmdir()  # the trap works
    (folder / "pytorch_model.bin").write_bytes(trap)
    (folder / "tokenizer.pkl").write_bytes(trap)
    assert load_model(folder).num_layers == SHAPE[0] and not marker.exists()
    (folder / "model.safetensors").unlink()
    expected = (
        f"model folder {folder} holds no .safetensors file, and pickled weights are never read; convert them"
    )
    assert error_of(ModelError, folder).startswith(expected)
    # a safetensors file of another purpose does not open the way to the pickle
    save_file({"a": torch.zeros(1)}, folder / "adapter.safetensors")
    assert str(folder) in error_of(ModelError, folder)
    assert not marker.exists()


def test_code_in_a_folder_is_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "run"
    trap = f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n"
    (folder / "mine.py").write_text(
        trap + "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
        "from transformers import PreTrainedTokenizerFast as Tokens\n"
    )
    edit_config(folder, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["mine.Tokens", "mine.Tokens"]}}
    path.write_text(json.dumps(settings))
    assert load_model(folder).model.__module__.startswith("transformers.") and not marker.exists()
    edit_config(folder, model_type="mine")
    assert "model family 'mine' is not supported" in error_of(ModelError, folder)
    assert not marker.exists()
