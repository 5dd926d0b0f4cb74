"""One decoder layer with an input of its own for every head and the MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class Rotary:
    """Turns queries and keys by their position: ``x * cos + x[..., partner] * sin``.

    ``cos, sin [tokens, size]``, the sign of the partner's part in ``sin``; ``partner [size]``.
    """

    cos: Tensor
    sin: Tensor
    partner: Tensor

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
        queries, keys, values = self.query(query, heads), self.key(key, groups), self.value(value, groups)
        if rotary is not None:
            queries, keys = rotary(queries), rotary(keys)
        if group_of is not None:
            keys, values = keys[group_of], values[group_of]
        mixed = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=self.scale
        )
        output = self.output if heads is None else self.output[heads]
        count, batch, rows, size = mixed.shape
        return torch.bmm(mixed.reshape(count, batch * rows, size), output).view(count, batch, rows, -1)

    def transform(self, states: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """What the MLP writes, its output bias left out."""
        normed = self.mlp_norm(states)
        neurons = self.activation(self.mlp_in[0](normed))
        if len(self.mlp_in) == 2:  # gated
            neurons = neurons * self.mlp_in[1](normed)
        return neurons @ self.mlp_out
