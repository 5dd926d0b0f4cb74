"""Load a causal language model from a folder, the hub or the registry, and refuse what cannot be trusted."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from caploc.architectures import Architecture, architecture_of
from caploc.errors import ModelError, OptionError, UnknownNameError
from caploc.fingerprints import fingerprint, tensor_fingerprint
from caploc.hub import COMMIT, model_snapshot
from caploc.model.registry import REGISTRY, embedded_folder
from caploc.store import Store

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# without any of them transformers makes an empty tokenizer for most families, which reads every text as nothing
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")


class LanguageModel:
    """A Hugging Face causal LM, its tokenizer, and where its parts are."""

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        architecture: Architecture,
    ) -> None:
        self.name, self.tokenizer, self.architecture = name, tokenizer, architecture
        self._model = model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def model(self) -> PreTrainedModel:
        """The model with its weights."""
        return self._model

    @property
    def structure(self) -> PreTrainedModel:
        """The model for its modules and their shapes; its weights may be absent (on the meta device)."""
        return self._model

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return self.structure.config

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order, with their weights."""
        return self.architecture.decoder_layers(self.model)

    @property
    def layer_shapes(self) -> list[nn.Module]:
        """The decoder layers, in order, for their shapes: their weights may be absent."""
        return self.architecture.decoder_layers(self.structure)

    @property
    def num_layers(self) -> int:
        return len(self.layer_shapes)

    @property
    def num_neurons(self) -> int:
        """Neurons per layer: the MLP's intermediate size."""
        return _inputs(self.architecture.mlp_out_of(self.layer_shapes[0]))

    @property
    def max_length(self) -> int:
        """Tokens that the model's context holds."""
        return int(self.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def move(self, device: str) -> None:
        """Carry the weights to another device."""
        model: nn.Module = self.model
        model.to(device)

    @property
    def dtype(self) -> torch.dtype:
        return self.structure.dtype

    @cached_property
    def num_parameters(self) -> int:
        """All parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.structure.parameters())

    @property
    def parameters_per_neuron(self) -> int:
        """Weights that belong to one neuron: its input rows and biases, and its output column."""
        layer = self.layer_shapes[0]
        total = cast(torch.Tensor, self.architecture.mlp_out_of(layer).weight).numel()
        for path in self.architecture.mlp_in:
            total += sum(parameter.numel() for parameter in layer.get_submodule(path).parameters())
        return total // self.num_neurons

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and of the configuration: what results are keyed by."""
        config = {key: str(value) for key, value in self.config.to_dict().items() if key not in _NOT_CONTENT}
        return fingerprint([tensor_fingerprint(self.model.state_dict()), config])


class Deferred(LanguageModel):
    """A model whose weights are loaded when first asked for: tokenizer, shapes and, where the store remembers it, the
    fingerprint are had without them, so that a run whose results are all stored loads no model."""

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        architecture: Architecture,
        structure: PreTrainedModel,
        device: torch.device,
        load: Callable[[], PreTrainedModel],
        content: object,
        store: Store,
    ) -> None:
        """``structure`` lies on the meta device; ``content`` is what the weights follow from, to be hashed."""
        super().__init__(name, structure, tokenizer, architecture)
        self._skeleton = structure
        self._load, self._content, self._store = load, content, store
        self._device, self._loaded = device, False

    @property
    def model(self) -> PreTrainedModel:
        if not self._loaded:
            weights: Any = self._load()
            self._model, self._loaded = weights.to(self._device), True
        return self._model

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._loaded

    @property
    def device(self) -> torch.device:
        return self._model.device if self._loaded else self._device

    def move(self, device: str) -> None:
        self._device = torch.device(device)
        if self._loaded:
            super().move(device)

    def twin(self, name: str, seed: int) -> Deferred:
        """The untrained twin, whose weights are drawn when first asked for."""
        return Deferred(
            name,
            self.tokenizer,
            self.architecture,
            self._skeleton,
            self.device,
            partial(_fresh, self, seed),
            {"twin of": self._content, "seed": seed},
            self._store,
        )

    @cached_property
    def fingerprint(self) -> str:
        # the libraries name the tensors and draw the fresh ones
        versions = {
            name: str(module.__version__) for name, module in (("torch", torch), ("hf", transformers))
        }
        key = fingerprint(
            {"what": "model fingerprint", "content": self._content, "dtype": str(self.dtype), **versions}
        )
        entry = self._store.get(key)
        if entry is None:
            known = LanguageModel(self.name, self.model, self.tokenizer, self.architecture).fingerprint
            entry = self._store.put(key, {}, {"fingerprint": known}, f"fingerprint of {self.name}")
        return str(entry.meta["fingerprint"])


# "dtype" is that of the file or of the last call that made a model from the configuration; the tensors' own counts
_NOT_CONTENT = frozenset({"_name_or_path", "transformers_version", "_attn_implementation_autoset", "dtype"})


def load_model(
    name_or_path: str | os.PathLike[str],
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
) -> LanguageModel:
    """Load a model that caploc can audit.

    Args:
        name_or_path: a registry name (``llama2-7b``, ``tiny-llama``, ...), a folder in Hugging Face format, or a hub
            id ``ORG/NAME`` or ``ORG/NAME@COMMIT``.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        dtype: ``float32``, ``float64`` or ``bfloat16``.
        revision: the hub commit (40 hexadecimal digits), where neither the registry nor ``@COMMIT`` pins it.

    Only safetensors are read and no code from a model's folder is run.

    Raises:
        UnknownNameError: neither a registry name, nor a folder, nor a hub id.
        ModelError: an unsupported family, no safetensors, damaged, missing or not finite weights, a quantized model.
        UnavailableModelError: a gated or absent repository, no network.
        OptionError: an unknown device or dtype, a hub id without a pinned revision, or a folder with one.
    """
    return _Source.of(name_or_path, device, dtype, revision).whole()


def defer_model(
    name_or_path: str | os.PathLike[str], device: str, dtype: str, store: Store, revision: str | None = None
) -> LanguageModel:
    """As `load_model`, but the weights are loaded when first asked for; what is wrong with them is told then."""
    return _Source.of(name_or_path, device, dtype, revision).deferred(store)


@dataclass(frozen=True)
class _Source:
    """A folder whose files were looked at, and how to load from it."""

    name: str
    title: str
    folder: Path
    architecture: Architecture
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(
        cls, name_or_path: str | os.PathLike[str], device: str, dtype: str, revision: str | None
    ) -> _Source:
        torch_dtype, torch_device = _dtype(dtype), _device(device)
        name, title, folder = _locate(os.fspath(name_or_path), revision)
        architecture = _check_folder(folder, title)
        with _explained(f"the configuration of {title}", "compare its config.json with the original"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with _explained(f"the tokenizer of {title}", "put the original's tokenizer files into the folder"):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(name, title, folder, architecture, config, tokenizer, torch_device, torch_dtype)

    def whole(self) -> LanguageModel:
        """The model with its weights."""
        weights: Any = self.weights()
        return wrap(self.name, weights.to(self.device), self.tokenizer, self.architecture)

    def weights(self) -> PreTrainedModel:
        """The weights, checked."""
        with _explained(self.title, "get a sound copy"), _bar_on_terminals_only():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.folder,
                config=copy.deepcopy(self.config),
                dtype=self.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # so that the report names them, and the error below too
                output_loading_info=True,
            )
        model, report = loaded
        _check_loaded(model, report, self.title)
        checked: PreTrainedModel = model.eval()
        return checked

    def deferred(self, store: Store) -> LanguageModel:
        """The model without its weights, for now."""
        with _explained(self.title, "compare its config.json with the original"), torch.device("meta"):
            structure = AutoModelForCausalLM.from_config(copy.deepcopy(self.config), dtype=self.dtype)
        files = sorted(self.folder.glob("*.safetensors"))
        content = {
            "weights": {file.name: _hash_of(file) for file in files},
            "config": (self.folder / "config.json").read_text(encoding="utf-8"),
        }
        lm = Deferred(
            self.name,
            self.tokenizer,
            self.architecture,
            structure,
            self.device,
            self.weights,
            content,
            store,
        )
        _check_sizes(lm)
        return lm


def _hash_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def wrap(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    architecture: Architecture | None = None,
) -> LanguageModel:
    """A LanguageModel around a model that is in memory already.

    Raises:
        ModelError: an unsupported family, or layers whose MLPs differ in size.
    """
    lm = LanguageModel(name, model, tokenizer, architecture or architecture_of(model.config.model_type))
    _check_sizes(lm)
    return lm


def _check_sizes(lm: LanguageModel) -> None:
    sizes = {_inputs(lm.architecture.mlp_out_of(layer)) for layer in lm.layer_shapes}
    if len(sizes) != 1:
        raise ModelError(
            f"model {lm.name!r} has layers of {sorted(sizes)} neurons; all must have the same number"
        )


def untrained_twin(lm: LanguageModel, seed: int = 0) -> LanguageModel:
    """The same architecture and tokenizer with freshly initialized weights: the control for "is it learned?".

    The caller's random state is left as it was.
    """
    name = f"{lm.name}-untrained-{seed}"
    if isinstance(lm, Deferred):
        return lm.twin(name, seed)
    twin: Any = _fresh(lm, seed)
    return wrap(name, twin.to(lm.device), lm.tokenizer, lm.architecture)


def _fresh(lm: LanguageModel, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = copy.deepcopy(lm.config)  # from_config writes into it
        twin: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    made: PreTrainedModel = twin.to(lm.dtype).eval()
    return made


@contextmanager
def _bar_on_terminals_only() -> Iterator[None]:
    """transformers draws its loading bar into log files too."""
    shown = hf_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _check_folder(folder: Path, title: str) -> Architecture:
    """The architecture of the model in ``folder``, read before any library looks at its files.

    Raises:
        ModelError: no or a bad config.json, an unsupported family, a quantized model, no tokenizer, no safetensors, or
            a damaged file.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{title} has no config.json; give a folder in Hugging Face format")
    with _explained(f"{path}", "get a sound copy"):
        config = json.loads(path.read_text(encoding="utf-8"))
    family = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(family, str):
        raise ModelError(f"{path} names no model_type; give a folder in Hugging Face format")
    architecture = architecture_of(family)
    if config.get("quantization_config") is not None:
        raise ModelError(
            f"{title} is quantized (quantization_config); attribution needs the plain weights of its base model"
        )
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"{title} holds no tokenizer ({', '.join(_TOKENIZER_FILES)}); put the original's tokenizer files into it"
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"{title} holds no .safetensors file, and pickled weights are never read; "
            "convert them with safetensors first"
        )
    for file in files:
        with _explained(f"{file}", "get a sound copy"), safe_open(file, framework="pt"):
            pass
    return architecture


def _check_loaded(model: nn.Module, report: Mapping[str, Any], title: str) -> None:
    """Raise unless every weight came from the files, in its place and finite; ``report`` is transformers' own.

    Raises:
        ModelError: naming the first weight that is missing, has another shape, or is nan or infinite.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{title} lacks {len(missing)} weights, the first {missing[0]}; get a whole copy")
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        key, stored, expected = mismatched[0]
        raise ModelError(
            f"{title}: {key} has shape {list(stored)}, by config.json it must have {list(expected)}; "
            "get the weights and the configuration from one place"
        )
    for path, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"{title} has weights that are not finite (nan or inf) in {path}; get a sound copy"
            )


@contextmanager
def _explained(culprit: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises about a model's files into one line that names ``culprit`` and ``remedy``."""
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors raise nearly every kind there is
        lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else "no reason given"
        raise ModelError(
            f"{culprit} cannot be loaded ({type(error).__name__}: {reason}); {remedy}"
        ) from error


def _inputs(projection: nn.Module) -> int:
    rows, columns = cast(torch.Tensor, projection.weight).shape
    return columns if isinstance(projection, nn.Linear) else rows  # Conv1D stores [in, out]


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _device(name: str) -> torch.device:
    match = _DEVICE.fullmatch(name)
    if match is None:
        raise OptionError(f"unknown device {name!r}; use cpu, cuda or cuda:N")
    if name != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise OptionError(f"device {name!r} asked for, but this machine has no usable CUDA GPU; use cpu")
        if int(match[1] or 0) >= count:
            raise OptionError(
                f"device {name!r} asked for, but there is none above cuda:{count - 1}; use one of those"
            )
    return torch.device(name)


def _locate(name: str, revision: str | None) -> tuple[str, str, Path]:
    """The label to show, what to call the model in errors, and the folder it lies in, fetched if it must be."""
    entry = REGISTRY.get(name)
    if entry is not None and not entry.embedded:
        commit = _commit(entry.hub, revision or entry.revision)
        return name, f"model {name!r}", model_snapshot(entry.hub, commit)
    if entry is not None or (name and Path(name).is_dir()):
        if revision is not None:
            raise OptionError(
                f"model {name!r} is a folder and has no revision {revision!r}; leave the revision out"
            )
        folder = Path(name) if entry is None else embedded_folder(name)
        return (folder.resolve().name if entry is None else name), f"model folder {folder}", folder
    hub_id, _, pinned = name.partition("@")
    if not _HUB_ID.fullmatch(hub_id) or Path(hub_id).parent.is_dir():
        close = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"model {name!r} is no folder, no registry name ({', '.join(REGISTRY)}) and no hub id ORG/NAME{hint}"
        )
    folder = model_snapshot(hub_id, _commit(hub_id, pinned or revision or ""))
    return hub_id.rpartition("/")[2], f"model {hub_id!r}", folder


def _commit(hub_id: str, revision: str) -> str:
    if not COMMIT.fullmatch(revision):
        raise OptionError(
            f"hub model {hub_id!r} needs a pinned revision, or results could not be reproduced: "
            f"use {hub_id}@COMMIT with the 40-digit commit shown on its hub page"
        )
    return revision
