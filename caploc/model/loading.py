"""Load a causal language model from a folder, the hub or the registry, and refuse what cannot be trusted."""

from __future__ import annotations

import copy
import difflib
import itertools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from caploc.architectures import Architecture, architecture_of, context_of
from caploc.errors import CaplocError, ModelError, OptionError, UnknownNameError
from caploc.fingerprints import file_hash, fingerprint, tensor_fingerprint
from caploc.hub import COMMIT, model_snapshot
from caploc.model.files import ModelFiles, explained
from caploc.model.inside import images_left_out, text_config
from caploc.model.registry import REGISTRY, embedded_folder
from caploc.model.tokenizers import load_tokenizer, settled
from caploc.rows.borrowing import wide_head
from caploc.rows.model import RowModel
from caploc.rows.sizing import refused_if_too_large
from caploc.store import Store

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CPU = torch.device("cpu")
_DEVICE = re.compile(r"cpu|cuda(?::(\d+(?:,\d+)*))?")


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
        """Tokens that the model's context holds, as ``context_of`` counts them."""
        return context_of(self.config)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def move(self, device: str) -> None:
        """Carry the weights to another device, or spread them over several: ``cuda:0,1``.

        Raises:
            ModelError: they do not fit there.
        """
        _placed(self.model, self.architecture, _devices(device), self.name)

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
        devices: Sequence[torch.device],
        load: Callable[[torch.device], PreTrainedModel],
        content: object,
        store: Store,
    ) -> None:
        """``structure`` lies on the meta device; ``load`` may make the weights on the device that it is given, or
        elsewhere; ``content`` is what they follow from, to be hashed."""
        super().__init__(name, structure, tokenizer, architecture)
        self._skeleton = structure
        self._load, self._content, self._store = load, content, store
        self._devices, self._loaded = devices, False

    @property
    def model(self) -> PreTrainedModel:
        if not self._loaded:
            weights = _placed(self._load(self._devices[0]), self.architecture, self._devices, self.name)
            self._model = _shown(weights, self.architecture, f"model {self.name!r}")
            self._loaded = True
        return self._model

    @property
    def loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._loaded

    @property
    def device(self) -> torch.device:
        return self._model.device if self._loaded else self._devices[0]

    def move(self, device: str) -> None:
        self._devices = _devices(device)
        if self._loaded:
            super().move(device)

    def let_go(self) -> None:
        """Free the weights' memory; they are loaded anew when next asked for."""
        self._model, self._loaded = self._skeleton, False

    def twin(self, name: str, seed: int) -> Deferred:
        """The untrained twin, whose weights are drawn when first asked for."""
        content = {"twin of": self._content, "seed": seed}
        if self.device.type == "cuda":  # other cards draw other numbers
            content["drawn on"] = torch.cuda.get_device_name(self.device)
        return Deferred(
            name,
            self.tokenizer,
            self.architecture,
            self._skeleton,
            self._devices,
            partial(_fresh, self, seed),
            content,
            self._store,
        )

    @property
    def content(self) -> str:
        """A hash of what the weights follow from, the files of the model's folder among it."""
        return fingerprint(self._content)

    @property
    def known(self) -> bool:
        """Whether the store remembers the fingerprint, so that no weight is read for it."""
        return self._store.has(self._entry)

    def know(self, known: str) -> None:
        """Takes the fingerprint over from a process that has read the weights."""
        self._store.put(self._entry, {}, {"fingerprint": known}, f"fingerprint of {self.name}")

    @cached_property
    def _entry(self) -> str:
        # the libraries name the tensors and draw the fresh ones
        versions = {
            name: str(module.__version__) for name, module in (("torch", torch), ("hf", transformers))
        }
        return fingerprint(
            {"what": "model fingerprint", "content": self._content, "dtype": str(self.dtype), **versions}
        )

    @cached_property
    def fingerprint(self) -> str:
        entry = self._store.get(self._entry)
        if entry is None:
            known = LanguageModel(self.name, self.model, self.tokenizer, self.architecture).fingerprint
            self.know(known)
            return known
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
        device: ``cpu``, ``cuda``, ``cuda:N``, or several GPUs that the layers are spread over, as in ``cuda:0,1``.
        dtype: ``float32``, ``float64`` or ``bfloat16``.
        revision: the hub commit (40 hexadecimal digits), where neither the registry nor ``@COMMIT`` pins it.

    Only safetensors are read and no code from a model's folder is run.

    Raises:
        UnknownNameError: neither a registry name, nor a folder, nor a hub id.
        ModelError: an unsupported family, no safetensors, weights that are damaged, quantized, not finite or not those
            that config.json asks for, an adapter, or a model whose rows are not its own forward pass.
        UnavailableModelError: a gated or absent repository, no network.
        OptionError: an unknown device or dtype, a hub id without a pinned revision, or a folder with one.
    """
    return _Source.of(name_or_path, device, dtype, revision).whole()


def defer_model(
    name_or_path: str | os.PathLike[str],
    device: str,
    dtype: str,
    store: Store,
    revision: str | None = None,
    elsewhere: bool = False,
) -> LanguageModel:
    """As `load_model`, but the weights are loaded when first asked for; what is wrong with them is told then.

    ``elsewhere``: they never are, and ``device`` is that of other machines, on which results are computed.
    """
    return _Source.of(name_or_path, device, dtype, revision, elsewhere).deferred(store)


@dataclass(frozen=True)
class _Source:
    """A folder whose files were looked at, and how to load from it."""

    name: str
    files: ModelFiles
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    devices: Sequence[torch.device]
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        name_or_path: str | os.PathLike[str],
        device: str,
        dtype: str,
        revision: str | None,
        elsewhere: bool = False,
    ) -> _Source:
        devices = [torch.device(device)] if elsewhere else _devices(device)
        torch_dtype = _dtype(dtype)
        name, title, folder = _locate(os.fspath(name_or_path), revision)
        files = ModelFiles.of(folder, title)
        with explained(f"the configuration of {title}", "compare its config.json with the original"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            if files.renamed is not None:
                config = text_config(config, files.tensors)
        with explained(f"the tokenizer of {title}", "put the original's tokenizer files into the folder"):
            tokenizer = load_tokenizer(folder, title, config)
        return cls(name, files, config, tokenizer, devices, torch_dtype)

    def whole(self) -> LanguageModel:
        """The model with its weights."""
        self.files.skeleton(self.config, self.dtype, one_layer=True)
        weights = _placed(self.weights(), self.files.architecture, self.devices, self.name)
        model = _shown(weights, self.files.architecture, self.files.title)
        return wrap(self.name, model, self.tokenizer, self.files.architecture)

    def weights(self, device: torch.device = _CPU) -> PreTrainedModel:
        """The weights, checked; on the CPU, whatever ``device`` they will go to."""
        renamed = self.files.renamed
        with (
            explained(self.files.title, "get a sound copy"),
            _bar_on_terminals_only(),
            nullcontext() if renamed is None else images_left_out(),
        ):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.files.folder,
                config=copy.deepcopy(self.config),
                dtype=self.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                key_mapping=renamed,
            )
        model, report = loaded
        if renamed is not None:  # it is saved by its own names
            vars(model).pop("_weight_conversions")
        _check_loaded(model, report, self.files.title)
        checked: PreTrainedModel = model.eval()
        return checked

    def deferred(self, store: Store) -> LanguageModel:
        """The model without its weights, for now."""
        structure, folder = self.files.skeleton(self.config, self.dtype), self.files.folder
        if (
            folder / "generation_config.json"
        ).is_file():  # where texts end is asked before any weight is read
            with explained(f"{folder / 'generation_config.json'}", "get a sound copy"):
                structure.generation_config = GenerationConfig.from_pretrained(folder)
        content = {
            "weights": {file.name: file_hash(file) for file in self.files.weights},
            "config": (folder / "config.json").read_text(encoding="utf-8"),
        }
        lm = Deferred(
            self.name,
            self.tokenizer,
            self.files.architecture,
            structure,
            self.devices,
            self.weights,
            content,
            store,
        )
        _check_sizes(lm)
        return lm


def _placed(
    model: PreTrainedModel, architecture: Architecture, devices: Sequence[torch.device], name: str
) -> PreTrainedModel:
    """``model`` on ``devices``. Raises ModelError where it has no room there."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    if len(devices) == 1 and all(tensor.device == devices[0] for tensor in tensors):
        return model
    from caploc.model.splitting import place

    size = sum(parameter.nbytes for parameter in model.parameters())
    with refused_if_too_large(
        f"model {name!r}, whose weights take {size / 1e9:.2g} GB,",
        "use a GPU with more memory, several (cuda:0,1) or dtype bfloat16",
    ):
        place(model, architecture, devices)
    return model


def _shown(model: PreTrainedModel, architecture: Architecture, title: str) -> PreTrainedModel:
    """``model``, once it has passed the rows' self-check."""
    with explained(title, "compare its config.json with the original"):
        try:
            with wide_head(model), RowModel(model, architecture):
                return model
        except CaplocError as error:
            raise ModelError(f"{title}: {error}") from error


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
    family = architecture or architecture_of(model.config.model_type)
    lm = LanguageModel(name, model, settled(tokenizer), family)
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
    devices = list(dict.fromkeys(parameter.device for parameter in lm.model.parameters()))
    twin = _placed(_fresh(lm, seed, lm.device), lm.architecture, devices, name)
    return wrap(name, twin, lm.tokenizer, lm.architecture)


def _fresh(lm: LanguageModel, seed: int, device: torch.device) -> PreTrainedModel:
    """Drawn on the CPU in float32, whatever the dtype; on a GPU there and in the model's dtype, as minutes of a CPU's
    time go by for 7B and the numbers differ from the CPU's in any case."""
    on_gpu = device.type == "cuda"
    config = copy.deepcopy(lm.config)  # from_config writes into it
    with (
        torch.random.fork_rng(devices=[device] if on_gpu else []),
        refused_if_too_large(
            f"the untrained twin of {lm.name}", "use a GPU with more memory or dtype bfloat16"
        ),
        device,
    ):
        torch.manual_seed(seed)
        twin: Any = AutoModelForCausalLM.from_config(config, dtype=lm.dtype if on_gpu else torch.float32)
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


def _check_loaded(model: nn.Module, report: Mapping[str, Any], title: str) -> None:
    """Raise unless every weight came from the files and is finite; ``report`` is transformers' own.

    Raises:
        ModelError: naming the first weight that is missing, nan or infinite.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{title} lacks {len(missing)} weights, the first {missing[0]}; get a whole copy")
    for path, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(
                f"{title} has weights that are not finite (nan or inf) in {path}; get a sound copy"
            )


def _inputs(projection: nn.Module) -> int:
    rows, columns = cast(torch.Tensor, projection.weight).shape
    return columns if isinstance(projection, nn.Linear) else rows  # Conv1D stores [in, out]


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _devices(name: str) -> list[torch.device]:
    """What ``name`` stands for. Raises OptionError for what is not there."""
    match = _DEVICE.fullmatch(name)
    if match is None:
        raise OptionError(f"unknown device {name!r}; use cpu, cuda, cuda:N or several: cuda:0,1")
    numbers = [int(number) for number in (match[1] or "").split(",") if number]
    if name != "cpu":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise OptionError(f"device {name!r} asked for, but this machine has no usable CUDA GPU; use cpu")
        if len(set(numbers)) < len(numbers):
            raise OptionError(f"device {name!r} names a GPU twice; name each once")
        if max(numbers, default=0) >= count:
            raise OptionError(
                f"device {name!r} asked for, but there is none above cuda:{count - 1}; use one of those"
            )
    return [torch.device("cuda", number) for number in numbers] or [torch.device(name)]


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
