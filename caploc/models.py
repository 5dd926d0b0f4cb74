"""Load a causal language model from a folder, the hub or the registry, and refuse what cannot be trusted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub_errors
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from caploc.architectures import Architecture, architecture_of
from caploc.errors import ModelError, OptionError, UnavailableModelError, UnknownNameError
from caploc.fingerprints import fingerprint, tensor_fingerprint
from caploc.registry import REGISTRY, embedded_folder

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(eq=False)
class LanguageModel:
    """A Hugging Face causal LM, its tokenizer, and where its parts are."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    architecture: Architecture

    @property
    def layers(self) -> list[nn.Module]:
        """The decoder layers, in order."""
        return self.architecture.decoder_layers(self.model)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_neurons(self) -> int:
        """Neurons per layer: the MLP's intermediate size."""
        return _inputs(self.architecture.mlp_out_of(self.layers[0]))

    @property
    def max_length(self) -> int:
        """Tokens that the model's context holds."""
        return int(self.model.config.max_position_embeddings)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def num_parameters(self) -> int:
        """All parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def parameters_per_neuron(self) -> int:
        """Weights that belong to one neuron: its input rows and biases, and its output column."""
        layer = self.layers[0]
        total = self.architecture.mlp_out_of(layer).weight.numel()
        for path in self.architecture.mlp_in:
            total += sum(parameter.numel() for parameter in layer.get_submodule(path).parameters())
        return total // self.num_neurons

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the weights and of the configuration: what results are keyed by."""
        config = {key: str(value) for key, value in self.model.config.to_dict().items() if key not in _NOT_CONTENT}
        return fingerprint([tensor_fingerprint(self.model.state_dict()), config])


_NOT_CONTENT = frozenset({"_name_or_path", "transformers_version", "_attn_implementation_autoset"})


def load_model(
    name_or_path: str, device: str = "cpu", dtype: str = "float32", revision: str | None = None
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
        ModelError: an unsupported family, no safetensors, missing or not finite weights, a quantized model.
        UnavailableModelError: a gated or absent repository, no network.
        OptionError: an unknown device or dtype, or a hub id without a pinned revision.
    """
    torch_dtype, torch_device = _dtype(dtype), _device(device)
    source, commit, label = _resolve(name_or_path, revision)
    with _explained(source):
        config = AutoConfig.from_pretrained(source, revision=commit, trust_remote_code=False)
    architecture = architecture_of(config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"model {name_or_path!r} is quantized; attribution needs the plain weights of its base model")
    if Path(source).is_dir() and not any(Path(source).glob("*.safetensors")):
        raise ModelError(f"model folder {source} holds no .safetensors file; convert its weights with safetensors first")
    with _explained(source):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=commit, trust_remote_code=False)
        model, report = AutoModelForCausalLM.from_pretrained(
            source,
            revision=commit,
            config=config,
            dtype=torch_dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"model {name_or_path!r} lacks {len(missing)} weights, the first {missing[0]}; get a whole copy")
    _check_finite(model, name_or_path)
    model.to(torch_device).eval()
    return wrap(label, model, tokenizer, architecture)


def wrap(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, architecture: Architecture | None = None
) -> LanguageModel:
    """A LanguageModel around a model that is in memory already.

    Raises:
        ModelError: an unsupported family, or layers whose MLPs differ in size.
    """
    lm = LanguageModel(name, model, tokenizer, architecture or architecture_of(model.config.model_type))
    sizes = {_inputs(lm.architecture.mlp_out_of(layer)) for layer in lm.layers}
    if len(sizes) != 1:
        raise ModelError(f"model {name!r} has layers of {sorted(sizes)} neurons; all must have the same number")
    return lm


def untrained_twin(lm: LanguageModel, seed: int = 0) -> LanguageModel:
    """The same architecture and tokenizer with freshly initialized weights: the control for "is it learned?".

    The caller's random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = AutoModelForCausalLM.from_config(lm.model.config, dtype=torch.float32)
    return wrap(f"{lm.name}-untrained-{seed}", twin.to(lm.device, lm.dtype).eval(), lm.tokenizer, lm.architecture)


def _inputs(projection: nn.Module) -> int:
    rows, columns = projection.weight.shape
    return columns if isinstance(projection, nn.Linear) else rows  # Conv1D stores [in, out]


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise OptionError(f"unknown dtype {name!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise OptionError(f"unknown device {name!r}; use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device {name!r} asked for, but this machine has no usable CUDA GPU; use cpu")
    return device


def _resolve(name: str, revision: str | None) -> tuple[str, str | None, str]:
    """Where to load from, at which commit, and the label to show."""
    if name in REGISTRY:
        entry = REGISTRY[name]
        if entry.embedded:
            return str(embedded_folder(name)), None, name
        return entry.hub, revision or entry.revision, name
    if Path(name).is_dir():
        return name, None, Path(name).resolve().name
    hub_id, _, pinned = name.partition("@")
    if not _HUB_ID.fullmatch(hub_id) or name.startswith((".", "/", "~")) or Path(hub_id).parent.is_dir():
        close = difflib.get_close_matches(name, REGISTRY, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UnknownNameError(
            f"model {name!r} is no folder, no registry name ({', '.join(REGISTRY)}) and no hub id ORG/NAME{hint}"
        )
    commit = pinned or revision or ""
    if not _COMMIT.fullmatch(commit):
        raise OptionError(
            f"hub model {hub_id!r} needs a pinned revision, or results could not be reproduced: "
            f"use {hub_id}@COMMIT with the 40-digit commit shown on its hub page"
        )
    return hub_id, commit, hub_id.rpartition("/")[2]


def _check_finite(model: nn.Module, name: str) -> None:
    for path, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(f"model {name!r} has weights that are not finite (nan or inf) in {path}; get a sound copy")


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Turn what transformers and the hub raise into one line with the remedy."""
    try:
        yield
    except (OSError, ValueError, KeyError, hub_errors.HfHubHTTPError) as error:
        if Path(source).is_dir():
            raise ModelError(f"model folder {source} cannot be loaded: {_first_line(error)}") from error
        for kind, explanation in _HUB_ERRORS:
            if any(isinstance(cause, kind) for cause in _causes(error)):
                raise UnavailableModelError(f"model {source!r} {explanation}") from error
        raise UnavailableModelError(
            f"model {source!r} cannot be loaded ({_first_line(error)}); download it where there is a network and pass "
            "its folder instead"
        ) from error


# the most special first: a gated repository is also reported as one that is not found
_HUB_ERRORS = (
    (
        hub_errors.GatedRepoError,
        "is gated: accept its licence on its hub page and log in with `hf auth login`, or pass a folder",
    ),
    (hub_errors.RevisionNotFoundError, "has no such revision on the hub; check the commit"),
    (hub_errors.RepositoryNotFoundError, "does not exist on the hub or is private; check the name"),
)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    lines: list[Any] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
