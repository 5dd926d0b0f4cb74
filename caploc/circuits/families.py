"""Which model families can be taken apart into circuits, and where each keeps the parts: ONE frozen table.

Adding a family is one line; ``caploc/tests/circuits/test_decomposed.py`` compares it with the Hugging Face model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from caploc.architectures import Architecture
from caploc.errors import ModelError


@dataclass(frozen=True)
class Family:
    """Paths from the causal LM, or from a layer, beside those of ``caploc.architectures``.

    ==================  ==========================================================================================
    ``family``          ``config.model_type``
    ``embedding``       the token embedding
    ``positions``       the learned position embedding, or None
    ``final_norm``      the norm before the output head
    ``attention_norm``  from a layer: the norm that attention reads through
    ``mlp_norm``        from a layer: the norm that the MLP reads through; None: attention's own, both in parallel
    ``projections``     from a layer: query, key and value projection, or one that makes all three
    ``rotary``          which coordinates of a head turn together: its ``halves``, neighbouring ``pairs``, or None
    ``scaled``          whether scores are divided by the root of the head's size
    ==================  ==========================================================================================
    """

    family: str
    embedding: str
    positions: str | None
    final_norm: str
    attention_norm: str
    mlp_norm: str | None
    projections: tuple[str, ...]
    rotary: Literal["halves", "pairs"] | None
    scaled: bool = True


def _llama_like(family: str) -> Family:
    return Family(
        family,
        embedding="model.embed_tokens",
        positions=None,
        final_norm="model.norm",
        attention_norm="input_layernorm",
        mlp_norm="post_attention_layernorm",
        projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        rotary="halves",
    )


_TABLE = (
    _llama_like("llama"),
    _llama_like("mistral"),
    _llama_like("qwen2"),
    Family(
        "gptj",
        embedding="transformer.wte",
        positions=None,
        final_norm="transformer.ln_f",
        attention_norm="ln_1",
        mlp_norm=None,
        projections=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        rotary="pairs",
    ),
    Family(
        "gpt2",
        embedding="transformer.wte",
        positions="transformer.wpe",
        final_norm="transformer.ln_f",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        projections=("attn.c_attn",),
        rotary=None,
    ),
    Family(
        "gpt_neo",
        embedding="transformer.wte",
        positions="transformer.wpe",
        final_norm="transformer.ln_f",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        projections=tuple(f"attn.attention.{name}_proj" for name in "qkv"),
        rotary=None,
        scaled=False,
    ),
)

FAMILIES: Mapping[str, Family] = MappingProxyType({entry.family: entry for entry in _TABLE})

# Not in caploc.architectures, whose methods would go wrong on it: caploc.model.loading.wrap takes it explicitly.
GPT_NEO = Architecture(
    "gpt_neo", "transformer.h", ("mlp.c_fc",), "mlp.act", "mlp.c_proj", "attn.attention.out_proj"
)


def family_of(model_type: str) -> Family:
    """The table's entry for ``model_type``.

    Raises:
        ModelError: the family cannot be taken apart; the message names it and those that can.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"circuits are not supported for model family {model_type!r}; use one of {', '.join(FAMILIES)} "
            "(caploc/circuits/families.py)"
        )
    return FAMILIES[model_type]
