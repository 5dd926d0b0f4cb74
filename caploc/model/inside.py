"""The text model inside one that also sees images: which part of its configuration and weights is loaded.

On a text without images such a model computes what its text model computes, so that one is loaded, as a model of its
own family. The image encoder's weights are never read.

============  ====================================================================================================
``gemma3``    ``gemma3_text``
``mistral3``  ``mistral`` or ``ministral3``
``qwen3_vl``  ``qwen3``: the angles for time, height and width, which a text has all the same, are its angles then
============  ====================================================================================================

Equality of logits with the whole model's: ``caploc/tests/model/test_inside.py``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedConfig, Qwen3Config

from caploc.architectures import INSIDE
from caploc.errors import ModelError

Tensor = TypeVar("Tensor")

RENAMED = {r"^language_model\.": "", r"^model\.language_model\.": "model."}
"""From a weight's name in the files to its name in the text model, for transformers and for us: the older way and the
newer one."""
_OF_IMAGES = re.compile(r"^(model\.)?(vision_tower|multi_modal_projector|visual)\.")
_QWEN3_VL = "qwen3_vl_text"


def text_section(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The part of ``config``, read from ``path``, that describes the text model, with the family that it is loaded as.

    Raises:
        ModelError: the part is missing.
    """
    whole = config["model_type"]
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ModelError(
            f"{path} describes no text model (text_config), which a {whole} model has; get a sound copy"
        )
    family = text.get("model_type", INSIDE[whole])
    return {**text, "model_type": "qwen3" if family == _QWEN3_VL else family}


def text_config(config: PreTrainedConfig, keys: Collection[str]) -> PreTrainedConfig:
    """The configuration of the text model, whose tensors have these ``keys``, in that of the whole."""
    text: PreTrainedConfig = config.text_config
    if text.model_type == _QWEN3_VL:
        fields = {**text.to_dict(), "model_type": "qwen3"}
        angles = fields["rope_parameters"]
        fields["rope_parameters"] = {key: angles[key] for key in angles if not key.startswith("mrope_")}
        text = Qwen3Config.from_dict(fields)
    # the whole model's word counts; but some say nothing, which means tied, and hold a head of their own
    text.tie_word_embeddings = config.tie_word_embeddings and "lm_head.weight" not in keys
    return text


@contextmanager
def images_left_out() -> Iterator[None]:
    """Keep transformers from listing the image encoder's weights as unexpected: all keys of the files have been
    compared by then (``ModelFiles.skeleton``)."""

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def text_tensors(tensors: Mapping[str, Tensor], title: str) -> dict[str, Tensor]:
    """Those of the text model, by their names there.

    Raises:
        ModelError: two have one name.
    """
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if _OF_IMAGES.match(key):
            continue
        name = key
        for pattern, replacement in RENAMED.items():
            name = re.sub(pattern, replacement, name)
        if name in found:
            raise ModelError(f"{title} holds {name!r} by two names, {key!r} is one; get a sound copy")
        found[name] = tensor
    return found
