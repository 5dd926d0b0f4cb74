"""What a model's folder must be before anything is loaded from it, and what loading it must have given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from caploc.architectures import Architecture, architecture_of
from caploc.errors import ModelError

# without any of them transformers makes an empty tokenizer for most families, which reads every text as nothing
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_folder(folder: Path, title: str) -> Architecture:
    """The architecture of the model in ``folder``, read before any library looks at its files.

    Raises:
        ModelError: no or a bad config.json, an unsupported family, a quantized model, no tokenizer, no safetensors, or
            a damaged file.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{title} has no config.json; give a folder in Hugging Face format")
    with explained(f"{path}", "get a sound copy"):
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
        with explained(f"{file}", "get a sound copy"), safe_open(file, framework="pt"):
            pass
    return architecture


def check_loaded(model: nn.Module, report: Mapping[str, Any], title: str) -> None:
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
def explained(culprit: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises about a model's files into one line that names ``culprit`` and ``remedy``."""
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors raise nearly every kind there is
        lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else "no reason given"
        raise ModelError(
            f"{culprit} cannot be loaded ({type(error).__name__}: {reason}); {remedy}"
        ) from error
