"""What a model's folder holds, read from config.json and the headers of its safetensors before anything is built.

Other weights than the folder's would be audited, without a word, where transformers leaves out what it has no place
for, takes stored integers for weights, or follows an index out of the folder; and sizes in config.json that no file
bears out build modules until memory ends. All of it is told here, in milliseconds, in one line that names file and key.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedConfig

from caploc.architectures import INSIDE, Architecture, architecture_of
from caploc.errors import CaplocError, ModelError
from caploc.model.inside import RENAMED, text_section, text_tensors

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PLAIN_NAME = re.compile(r"[^/\\\0]+\.safetensors")
# peft's and MLX's names, and those of a distributed checkpoint, which transformers would read instead of _SINGLE
_ADAPTER = re.compile(r"(adapter.*|.*lora.*)\.(json|safetensors|bin|pt)", re.IGNORECASE)
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_DISTRIBUTED = re.compile(r"shard-\d+-model-\d+-of-\d+\.safetensors")
_LAYERS = ("num_hidden_layers", "n_layer")
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
# buffers that older versions of the families stored, made anew from config.json: angles, positions, causal masks
_DERIVED = re.compile(
    r"\.(rotary_emb\.inv_freq|position_ids|(attn|attention|crossattention)\.(masked_)?bias)$"
)
_OF_AN_ADAPTER = re.compile(r"lora_|\.base_layer\.|\.modules_to_save\.|^base_model\.model\.")
_OF_QUANTIZED = re.compile(r"SCB|scale|zero|qweight|g_idx|absmax|quant|weight_format|codebook|packed")
_LFS = b"version https://git-lfs"
_MOST_TABLE = (
    1 << 28
)  # numbers in a table made from config.json alone, 1 GiB in float32: GPT-J's of positions
_ONE_PLACE = "get the weights and the configuration from one place"
_PLAIN_WEIGHTS = "attribution needs the plain weights of its base model"


@dataclass(frozen=True)
class Stored:
    """A tensor as its file's header has it; ``dtype`` by safetensors' name, F32 say."""

    file: Path
    dtype: str
    shape: list[int]


@dataclass(frozen=True)
class ModelFiles:
    """A folder that was looked at: its architecture, the weight files that are read, and the tensors in them by key.

    ``renamed``: patterns of stored keys and what stands for them in ``tensors``, where only a model inside is read.
    """

    title: str
    folder: Path
    architecture: Architecture
    weights: tuple[Path, ...]
    tensors: Mapping[str, Stored]
    renamed: dict[str, str] | None = None

    @classmethod
    def of(cls, folder: Path, title: str) -> ModelFiles:
        """Look at ``folder``, called ``title`` in errors.

        Raises:
            ModelError: no or a bad config.json, an unsupported family, a quantized model, an adapter, no safetensors, a
                damaged file, an index that does not fit its files, or another number of layers than they hold.
        """
        _refuse_adapters(folder, title)
        path = folder / "config.json"
        if not path.is_file():
            raise ModelError(f"{title} has no config.json; give a folder in Hugging Face format")
        with explained(f"{path}", "get a sound copy"):
            config = json.loads(path.read_text(encoding="utf-8"))
        family = config.get("model_type") if isinstance(config, dict) else None
        if not isinstance(family, str):
            raise ModelError(f"{path} names no model_type; give a folder in Hugging Face format")
        inside = family in INSIDE
        text = text_section(config, path) if inside else config
        architecture = architecture_of(text["model_type"])
        for key in ("quantization_config", "compression_config"):
            if config.get(key) is not None or text.get(key) is not None:
                raise ModelError(f"{title} is quantized ({key} in config.json); {_PLAIN_WEIGHTS}")
        if config.get("transformers_weights") is not None:
            raise ModelError(
                f"{path} names a weight file of its own (transformers_weights), which is never read; call the weights "
                f"{_SINGLE} and take the line out"
            )
        weights, tensors = _weights(folder, title)
        if inside:
            tensors = text_tensors(tensors, title)
        found = cls(title, folder, architecture, weights, tensors, RENAMED if inside else None)
        for key in _LAYERS:  # before transformers makes lists as long
            if isinstance(text.get(key), int) and text[key] != found.layers:
                raise ModelError(
                    f"{path}: {key} is {text[key]}, but the weights ({weights[0].name}) hold {found.layers} layers; "
                    f"{_ONE_PLACE}"
                )
        return found

    @cached_property
    def layers(self) -> int:
        """One more than the highest number of a layer in a key."""
        numbered = re.compile(rf"(?:^|\.){self.architecture.layers.rpartition('.')[2]}\.(\d+)\.")
        return 1 + max((int(match[1]) for key in self.tensors if (match := numbered.search(key))), default=-1)

    def skeleton(self, config: PreTrainedConfig, dtype: torch.dtype, one_layer: bool = False) -> Any:
        """The model made by ``config``, without memory; it must fit the stored tensors.

        Args:
            one_layer: build no more than the first layer, which the others are like.

        Raises:
            ModelError: a tensor that is missing or has no place, another shape or no floating-point numbers.
        """
        if config.num_hidden_layers != self.layers:
            raise ModelError(
                f"{self.folder / 'config.json'} asks for {config.num_hidden_layers} layers, but the weights "
                f"({self.weights[0].name}) hold {self.layers}; {_ONE_PLACE}"
            )
        config = copy.deepcopy(config)  # from_config writes into it
        if one_layer:
            config.num_hidden_layers = 1
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:1]
        with explained(self.title, "compare its config.json with the original"), torch.device("meta"):
            made = AutoModelForCausalLM.from_config(config, dtype=dtype)
        self._compare(made)
        return made

    def _compare(self, skeleton: Any) -> None:
        path, expected = f"{self.architecture.layers}.", dict[str, list[int]]()
        for key, tensor in skeleton.state_dict().items():
            if key.startswith(f"{path}0."):
                rest = key.removeprefix(f"{path}0.")
                expected |= {f"{path}{layer}.{rest}": list(tensor.shape) for layer in range(self.layers)}
            elif not key.startswith(path):
                expected[key] = list(tensor.shape)
        prefix, found = skeleton.base_model_prefix, dict[str, str]()
        for key, stored in self.tensors.items():
            # as transformers does: with or without the prefix of the model inside, and GPT-NeoX's head by either name
            names = (
                key,
                f"{prefix}.{key}",
                key.removeprefix(f"{prefix}."),
                key.replace("embed_out.", "lm_head."),
            )
            name = next((name for name in names if name in expected), None)
            if name is None and _DERIVED.search(key):
                continue
            if name is None or stored.dtype not in _FLOATS:
                raise ModelError(f"{stored.file}: {self._stray(key, stored)}")
            if name in found:
                raise ModelError(
                    f"{stored.file}: {key!r} and {found[name]!r} are one weight; get a sound copy"
                )
            if stored.shape != expected[name]:
                raise ModelError(
                    f"{self.title}: {name} has shape {stored.shape}, by config.json it must have {expected[name]}; "
                    f"{_ONE_PLACE}"
                )
            found[name] = key
        tied = skeleton.all_tied_weights_keys
        either = {**tied, **{source: target for target, source in tied.items()}}
        missing = sorted(name for name in expected if name not in found and either.get(name) not in found)
        if missing:
            raise ModelError(
                f"{self.title} lacks {len(missing)} weights, the first {missing[0]}; get a whole copy"
            )
        table = max((buffer.numel() for buffer in skeleton.buffers()), default=0)
        if table > _MOST_TABLE:
            raise ModelError(
                f"{self.folder / 'config.json'} asks for a table of {table} numbers (max_position_embeddings is "
                f"{skeleton.config.max_position_embeddings}); compare it with the original"
            )

    def _stray(self, key: str, stored: Stored) -> str:
        """What a tensor is that must not be left out, nor taken for a weight."""
        if _OF_AN_ADAPTER.search(key):
            return f"{key!r} is an adapter's; {_MERGE}"
        if stored.dtype not in _FLOATS or _OF_QUANTIZED.search(key):
            return (
                f"{key!r} ({stored.dtype}) belongs to quantized weights, although config.json has no "
                f"quantization_config; {_PLAIN_WEIGHTS}"
            )
        return (
            f"{key!r} has no place in the {self.architecture.family} model of config.json, and would be left out; "
            f"{_ONE_PLACE}"
        )


_MERGE = "merge it into its base model (peft's merge_and_unload) and give the folder that is saved then"


def _refuse_adapters(folder: Path, title: str) -> None:
    names = sorted(path.name for path in folder.iterdir())
    adapters = [name for name in names if _ADAPTER.fullmatch(name)]
    if adapters:
        alone = not {_SINGLE, _INDEX} & set(names)
        raise ModelError(
            f"{title} holds an adapter ({adapters[0]}), whose weights would be left out; {_MERGE}"
            + ("" if alone else ", or take the adapter's files away to audit the base model")
        )
    for name in names:
        if _DISTRIBUTED.fullmatch(name):
            raise ModelError(
                f"{title} holds a distributed checkpoint ({name}), which is not read; save it whole, as {_SINGLE}"
            )


def _weights(folder: Path, title: str) -> tuple[tuple[Path, ...], dict[str, Stored]]:
    """The files that transformers will read, and what they hold."""
    whole = (folder / _SINGLE).is_file()
    remedy = f"take the index away, if {_SINGLE} is the model" if whole else "get a whole copy"
    index = _read_index(folder / _INDEX, remedy) if (folder / _INDEX).exists() else None
    names = [_SINGLE] if whole else sorted(set((index or {}).values()))
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names and others:
        raise ModelError(
            f"{title} holds {others[0]}, but neither {_SINGLE} nor {_INDEX}, which says where the weights are; get a "
            "whole copy"
        )
    if not names:
        raise ModelError(
            f"{title} holds no .safetensors file, and pickled weights are never read; "
            "convert them with safetensors first"
        )
    tensors: dict[str, Stored] = {}
    for name in names:
        for key, stored in _read_header(folder / name).items():
            if key in tensors:
                raise ModelError(
                    f"{stored.file}: {key!r} stands in {tensors[key].file.name} too; get a sound copy"
                )
            tensors[key] = stored
    for key, name in (index or {}).items():
        if key not in tensors or tensors[key].file.name != name:
            raise ModelError(
                f"{folder / _INDEX} places {key!r} in {name}, but it is "
                f"{f'in {tensors[key].file.name}' if key in tensors else 'not there'}; {remedy}"
            )
    unread = [name for name in others if _SHARD.fullmatch(name) and name not in names]
    if unread:
        raise ModelError(
            f"{folder / unread[0]} would not be read: {_SINGLE if whole else _INDEX} goes without it; take it away, or "
            "get a whole copy"
        )
    return tuple(folder / name for name in names), tensors


def _read_index(index: Path, remedy: str) -> dict[str, str]:
    """Key -> name of a file in the index's folder."""
    with explained(f"{index}", "get a sound copy"):
        content = json.loads(index.read_text(encoding="utf-8"))
        places: dict[str, str] = dict(content["weight_map"])
        content["metadata"]  # transformers asks for it
    for key, name in places.items():
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise ModelError(
                f"{index} places {key!r} in {name!r}, which is no .safetensors file of its folder, and others are "
                "never read; get a sound copy"
            )
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} places {key!r} in {name}, which is not there; {remedy}")
    if not places:
        raise ModelError(f"{index} places no weight; get a whole copy")
    return places


def _read_header(file: Path) -> dict[str, Stored]:
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise ModelError(
                f"{file} is Git LFS's note of where the weights are; fetch them with `git lfs pull`"
            )
    with explained(f"{file}", "get a sound copy"), safe_open(file, framework="pt") as opened:
        parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 (no dict)
        return {key: Stored(file, part.get_dtype(), part.get_shape()) for key, part in parts.items()}


@contextmanager
def explained(culprit: str, remedy: str) -> Iterator[None]:
    """Turn what a library raises about a model's files into one line that names ``culprit`` and ``remedy``. Errors of
    our own say both."""
    try:
        yield
    except (
        BaseException
    ) as error:  # transformers, tokenizers and safetensors raise nearly every kind there is
        panic = type(error).__name__ == "PanicException"  # of Rust code, which is no Exception
        if isinstance(error, CaplocError) or not (panic or isinstance(error, Exception)):
            raise
        lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else "no reason given"
        raise ModelError(
            f"{culprit} cannot be loaded ({type(error).__name__}: {reason}); {remedy}"
        ) from error
