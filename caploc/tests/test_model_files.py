"""Folders that hold no sound model: what is refused and how it is said, and that nothing in a folder is run."""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

from caploc.errors import ModelError
from caploc.models import load_model, wrap
from caploc.tests.attribution.families import CONFIGS, gpt_neo_config, make_model
from caploc.tests.tiny import (
    NEURONS,
    SHAPE,
    WIDTH,
    edit_config,
    edit_weights,
    error_of,
    save_tiny,
    tokenizer,
)

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "mine")


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


@pytest.mark.parametrize("family", ["falcon", "bert", "not-even-known-to-transformers"])
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
