"""A Hugging Face model's own weights, in the shapes that ``caploc.circuits.block`` computes with; nothing is copied."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from caploc.architectures import weight_by_input
from caploc.circuits.block import Block, Projection, Rotary
from caploc.circuits.families import Family
from caploc.circuits.graph import Graph
from caploc.models import LanguageModel


def graph_of(lm: LanguageModel, family: Family) -> Graph:
    """The graph of ``lm``."""
    config = lm.model.config
    heads = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or heads)
    return Graph(lm.num_layers, heads, groups, parallel=family.mlp_norm is None)


def blocks_of(lm: LanguageModel, family: Family, graph: Graph) -> list[Block]:
    """Every layer of ``lm``."""
    return [_block(lm, family, graph, number, layer) for number, layer in enumerate(lm.layers)]


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
    architecture, config = lm.architecture, lm.model.config
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
