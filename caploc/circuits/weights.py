"""Which model families can be taken apart into circuits, and the weights of a model in the shapes that circuits
compute with.

``FAMILIES`` is ONE frozen table; adding a family is one line, and ``caploc/tests/circuits/test_decomposed.py``
compares it with the Hugging Face model. Nothing is copied: a ``Block`` holds views.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from caploc.architectures import Architecture, weight_by_input
from caploc.circuits.graph import Graph
from caploc.errors import ModelError
from caploc.model.loading import LanguageModel


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
            "(caploc/circuits/weights.py)"
        )
    return FAMILIES[model_type]


@dataclass(frozen=True, eq=False)
class Rotary:
    """Turns queries and keys by their position: ``x * cos + x[..., partner] * sin``.

    ``cos, sin [tokens, size]``, the sign of the partner's part in ``sin``; ``partner [size]``.
    """

    cos: Tensor
    sin: Tensor
    partner: Tensor

    def on(self, device: torch.device) -> Rotary:
        """The same on ``device``."""
        return Rotary(self.cos.to(device), self.sin.to(device), self.partner.to(device))

    def __call__(self, states: Float[Tensor, "*batch rows size"]) -> Float[Tensor, "*batch rows size"]:
        """``states`` of the last ``rows`` tokens."""
        rows = states.shape[-2]
        return states * self.cos[-rows:] + states[..., self.partner] * self.sin[-rows:]


@dataclass(frozen=True, eq=False)
class Projection:
    """``weight [parts, width, size]`` and ``bias [parts, 1, size]``; a part is a head or a key/value group."""

    weight: Tensor
    bias: Tensor | None

    def __call__(
        self, states: Float[Tensor, "parts batch rows width"], parts: Int[Tensor, " parts"] | None
    ) -> Float[Tensor, "parts batch rows size"]:
        """Each of ``parts`` (None: all) applied to its own input."""
        count, batch, rows, width = states.shape
        weight = self.weight if parts is None else self.weight[parts]
        made = torch.bmm(states.reshape(count, batch * rows, width), weight)
        if self.bias is not None:
            made += self.bias if parts is None else self.bias[parts]
        return made.view(count, batch, rows, -1)

    @property
    def parameters_per_part(self) -> int:
        """Weights and biases of one part."""
        return self.weight[0].numel() + (0 if self.bias is None else self.bias[0].numel())


@dataclass(frozen=True, eq=False)
class Block:
    """The layer's weights, as views, in the shape that circuits need; the biases of what it writes stand apart.

    Attributes:
        query, key, value: by head and by key/value group.
        output: ``[heads, size, width]``, attention's output projection by head.
        attention_bias, mlp_bias: ``[width]`` what the output projections add whatever they read; zeros without bias.
        mlp_in: the MLP's input projections, as in ``caploc.architectures``.
        mlp_out: ``[neurons, width]``.
        scale: what queries times keys are multiplied with.
        window: how many tokens back (its own counted) a token attends, None for all.
    """

    attention_norm: nn.Module
    mlp_norm: nn.Module
    query: Projection
    key: Projection
    value: Projection
    output: Tensor
    attention_bias: Tensor
    mlp_in: tuple[nn.Module, ...]
    activation: nn.Module
    mlp_out: Tensor
    mlp_bias: Tensor
    scale: float
    window: int | None

    def attend(
        self,
        query: Float[Tensor, "heads batch rows width"],
        key: Float[Tensor, "groups batch tokens width"],
        value: Float[Tensor, "groups batch tokens width"],
        rotary: Rotary | None,
        mask: Float[Tensor, "rows tokens"],
        heads: Int[Tensor, " heads"] | None = None,
        groups: Int[Tensor, " groups"] | None = None,
        group_of: Int[Tensor, " heads"] | None = None,
    ) -> Float[Tensor, "heads batch rows width"]:
        """What heads write, each from its own three inputs, which ``attention_norm`` has passed already.

        ``heads`` and ``groups`` name those that are given, None all; ``group_of`` says where each head's group stands
        among those given, None where every head has its own. The query's rows are the last tokens.
        """
        home, there = query.device, self.output.device  # the layer may lie on another device
        query, key, value, mask = (states.to(there) for states in (query, key, value, mask))
        heads, groups, group_of = (
            None if one is None else one.to(there) for one in (heads, groups, group_of)
        )
        queries, keys, values = self.query(query, heads), self.key(key, groups), self.value(value, groups)
        if rotary is not None:
            queries, keys = rotary.on(there)(queries), rotary.on(there)(keys)
        if group_of is not None:
            keys, values = keys[group_of], values[group_of]
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=self.scale
        )
        output = self.output if heads is None else self.output[heads]
        count, batch, rows, size = mixed.shape
        return (
            torch.bmm(mixed.reshape(count, batch * rows, size), output).view(count, batch, rows, -1).to(home)
        )

    def transform(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """What the MLP writes, its output bias left out."""
        normed = self.mlp_norm(states.to(self.mlp_out.device))
        neurons = self.activation(self.mlp_in[0](normed))
        if len(self.mlp_in) == 2:  # gated
            neurons = neurons * self.mlp_in[1](normed)
        return (neurons @ self.mlp_out).to(states.device)

    def normed(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """What attention is fed of ``states``."""
        found: Tensor = self.attention_norm(states.to(self.output.device)).to(states.device)
        return found


def graph_of(lm: LanguageModel, family: Family) -> Graph:
    """The graph of ``lm``."""
    config = lm.config
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return Graph(lm.num_layers, heads, groups, parallel=family.mlp_norm is None)


def blocks_of(lm: LanguageModel, family: Family, graph: Graph, layers: Sequence[nn.Module]) -> list[Block]:
    """Every one of ``layers``, which are those of ``lm``, or, where only shapes are asked, its ``layer_shapes``."""
    return [_block(lm, family, graph, number, layer) for number, layer in enumerate(layers)]


def rotary_of(lm: LanguageModel, family: Family, tokens: int) -> Rotary | None:
    """The model's own angles for positions 0 to ``tokens`` - 1; None where positions are learned."""
    if family.rotary is None:
        return None
    return (
        _turning_pairs(lm, family, tokens)
        if family.rotary == "pairs"
        else _turning_halves(lm, family, tokens)
    )


def _turning_pairs(lm: LanguageModel, family: Family, tokens: int) -> Rotary:
    """Of the first coordinates only; the rest stands still."""
    attention: Any = lm.layers[0].get_submodule(family.projections[0].rpartition(".")[0])
    angles = attention.embed_positions[:tokens].to(lm.device, lm.dtype)
    sin, cos = angles.repeat_interleave(2, dim=1).chunk(2, dim=1)
    still = attention.head_dim - sin.shape[1]
    coordinates = torch.arange(attention.head_dim, device=lm.device)
    signed = functional.pad(sin, (0, still)) * (coordinates % 2 * 2 - 1)
    return Rotary(functional.pad(cos, (0, still), value=1.0), signed, coordinates ^ 1)


def _turning_halves(lm: LanguageModel, family: Family, tokens: int) -> Rotary:
    decoder: Any = lm.model.get_submodule(family.embedding.rpartition(".")[0])
    positions = torch.arange(tokens, device=lm.device)[None]
    cos, sin = decoder.rotary_emb(torch.zeros(1, dtype=lm.dtype, device=lm.device), positions)
    half = cos.shape[2] // 2
    sign = torch.tensor([-1, 1], device=lm.device).repeat_interleave(half)
    return Rotary(cos[0], sin[0] * sign, torch.arange(2 * half, device=lm.device).roll(half))


def _block(lm: LanguageModel, family: Family, graph: Graph, number: int, layer: nn.Module) -> Block:
    architecture, config = lm.architecture, lm.config
    query, key, value = _projections(layer, family, graph)
    attention_out, attention_bias = _matrix(layer.get_submodule(architecture.attention_out))
    mlp_out, mlp_bias = _matrix(architecture.mlp_out_of(layer))
    size = query.weight.shape[2]
    zeros = mlp_out.new_zeros(mlp_out.shape[1])
    scale = size**-0.5 if family.scaled and getattr(config, "scale_attn_weights", True) else 1.0
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scale /= number + 1
    attention_norm = layer.get_submodule(family.attention_norm)
    return Block(
        attention_norm=attention_norm,
        mlp_norm=attention_norm if family.mlp_norm is None else layer.get_submodule(family.mlp_norm),
        query=query,
        key=key,
        value=value,
        output=attention_out.unflatten(0, (graph.heads, size)),
        attention_bias=zeros if attention_bias is None else attention_bias,
        mlp_in=tuple(layer.get_submodule(path) for path in architecture.mlp_in),
        activation=architecture.activation_of(layer),
        mlp_out=mlp_out,
        mlp_bias=zeros if mlp_bias is None else mlp_bias,
        scale=scale,
        window=_window(config, number),
    )


def _projections(layer: nn.Module, family: Family, graph: Graph) -> list[Projection]:
    """Query, key and value, from three modules or from one that makes all."""
    made = [_matrix(layer.get_submodule(path)) for path in family.projections]
    if len(made) == 1:
        ((weight, bias),) = made
        biases = (None, None, None) if bias is None else bias.chunk(3)
        made = list(zip(weight.chunk(3, dim=1), biases, strict=True))
    return [
        Projection(
            weight.unflatten(1, (parts, -1)).transpose(0, 1),  # [parts, width, size]
            None if bias is None else bias.view(parts, 1, -1),
        )
        for (weight, bias), parts in zip(made, (graph.heads, graph.groups, graph.groups), strict=True)
    ]


def _matrix(
    module: nn.Module,
) -> tuple[Float[Tensor, "inputs outputs"], Float[Tensor, " outputs"] | None]:
    """A projection as a matrix that multiplies from the right, and its bias."""
    bias = cast("Tensor | None", module.bias)
    return weight_by_input(module), None if bias is None else bias.detach()


def _window(config: Any, layer: int) -> int | None:
    """The sliding window of one layer, wherever its family's configuration tells it."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if kinds is not None and kinds[layer] not in ("sliding_attention", "local"):
        return None
    return getattr(config, "sliding_window", None) or getattr(config, "window_size", None)
