"""A tokenizer of single characters, and tiny random models with it, in memory and in folders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from caploc.model.loading import LanguageModel, load_model, wrap
from caploc.model.registry import REGISTRY
from caploc.tests.attribution.families import VOCABULARY, config_of, make_model

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared"
EMBEDDED = [name for name, entry in REGISTRY.items() if entry.embedded]
SHAPE = (2, 4, 2, 5)  # layers, heads, key heads, window
NEURONS, WIDTH = 20, 32  # what families.py makes of it

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n.,:?+-*/=#'!"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, with ``<s>`` in front of a prompt; all ids lie below ``VOCABULARY``.

    Its normalizer makes "?" of any other character, so that it reads every text.
    """
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *_CHARACTERS])}
    assert len(vocabulary) <= VOCABULARY
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Replace(Regex(f"[^{re.escape(_CHARACTERS)}]"), "?")
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def tiny_lm(family: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0) -> LanguageModel:
    """A random model of ``family`` with the tokenizer above."""
    return wrap(f"tiny-{family}", make_model(config_of(family, *SHAPE), dtype, seed), tokenizer())


def save_tiny(folder: Path, family: str = "llama", seed: int = 0) -> Path:
    """The same in a folder in Hugging Face format, in float32."""
    make_model(config_of(family, *SHAPE), torch.float32, seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def error_of(kind: type[Exception], name: str | Path, **options: str) -> str:
    """The one line that ``load_model`` raises."""
    with pytest.raises(kind) as caught:
        load_model(name, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_config(folder: Path, **fields: object) -> None:
    """Change fields of the folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Let ``edit`` change the folder's tensors, by name, in place."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})
