"""Trainable differences of a few neurons, added where their weights act, so that the model's own need no gradient.

A layer in which few neurons are chosen runs its own projections and adds the chosen rows' difference to their outputs;
the gradient of the frozen matrices is never made. Where many are chosen that would cost more than it saves: there the
difference is added to the matrices themselves. The parameters are the same, [rows, width] for the chosen rows alone.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from caploc.architectures import input_axis
from caploc.interventions.enhancement.difference import LayerRows, RowDifference
from caploc.interventions.enhancement.placing import neuron_weights
from caploc.interventions.enhancement.recipe import Train
from caploc.models import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import replaced_forward

# By operations, of a frozen pass 2 + 3 k/N against 3 with the gradient of whole matrices.
MATRIX_SHARE = 1 / 3


class TrainableRows:
    """The differences of the chosen neurons' weights, zero at first, and the model that computes with them.

    Inside ``with`` every call of ``lm.model`` does so; leaving takes it away. Parameters are float32 also where the
    model is in half precision, since steps of 1e-5 would be lost in its rounding.

    Attributes:
        parameters: what an optimizer takes.
    """

    def __init__(self, lm: LanguageModel, mask: NeuronMask, train: Train = "both") -> None:
        self._lm = lm
        self._dtype = torch.promote_types(lm.dtype, torch.float32)
        self._indices: dict[int, Tensor] = {}
        self._changes: dict[int, dict[str, nn.Parameter]] = {}
        for layer in mask.values.any(1).nonzero().ravel().tolist():
            indices = mask.values[layer].nonzero().ravel().to(lm.device)
            self._indices[layer] = indices
            self._changes[layer] = {
                part.path: nn.Parameter(
                    torch.zeros(part.row_shape(len(indices)), dtype=self._dtype, device=lm.device)
                )
                for part in neuron_weights(lm, layer)
                if train in ("both", part.side)
            }
        self.parameters = [change for changes in self._changes.values() for change in changes.values()]
        self._stack = ExitStack()

    def __enter__(self) -> TrainableRows:
        with ExitStack() as stack:
            for layer in self._changes:
                self._enter_layer(stack, layer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def difference(self, fingerprint: str, zeroed: NeuronMask | None) -> RowDifference:
        """A copy of the differences as they are now."""
        layers = {
            layer: LayerRows(
                self._indices[layer].cpu(),
                {path: change.detach().to("cpu", copy=True) for path, change in changes.items()},
            )
            for layer, changes in self._changes.items()
        }
        return RowDifference(fingerprint, (self._lm.num_layers, self._lm.num_neurons), layers, zeroed)

    def _enter_layer(self, stack: ExitStack, layer: int) -> None:
        lm, changes = self._lm, self._changes[layer]
        module, indices = lm.layers[layer], self._indices[layer]
        whole = len(indices) >= MATRIX_SHARE * lm.num_neurons
        places = {part.path: part.rows(indices) for part in neuron_weights(lm, layer)}
        for path in (*lm.architecture.mlp_in, lm.architecture.mlp_out):
            projection = module.get_submodule(path)
            weight: Tensor | None = changes.get(f"{path}.weight")
            bias: Tensor | None = changes.get(f"{path}.bias")
            if weight is None:
                continue  # this side is not trained
            rows, out = places[f"{path}.weight"], path == lm.architecture.mlp_out
            if whole:
                forward: Any = partial(_matrix, projection, rows, weight, bias, out)
            elif out:
                forward = partial(_columns, projection, rows, weight, layer == min(self._changes))
            else:
                forward = partial(_rows, projection, projection.forward, rows, weight, bias)
            stack.enter_context(replaced_forward(projection, forward))


def _matrix_of(projection: nn.Module) -> Tensor:
    """The projection's weight as ``[outputs, inputs]``."""
    weight = cast(Tensor, projection.weight)
    return weight if input_axis(projection) else weight.T


def _rows(
    projection: nn.Module, own: Any, places: Tensor, weight: Tensor, bias: Tensor | None, states: Tensor
) -> Tensor:
    """An input projection whose chosen rows differ by ``weight [rows, width]``."""
    outputs: Tensor = own(states)
    added = nn.functional.linear(
        states, weight.to(states.dtype), None if bias is None else bias.to(states.dtype)
    )
    return outputs.index_add_(-1, places, added)  # nothing needs the outputs as they were


def _columns(projection: nn.Module, places: Tensor, weight: Tensor, lowest: bool, states: Tensor) -> Tensor:
    """An output projection whose chosen columns differ by ``weight [k, width]``."""
    matrix, bias = _matrix_of(projection), cast(Tensor | None, projection.bias)
    outputs: Tensor = _Columns.apply(states, weight, matrix, bias, places, lowest)
    return outputs


def _matrix(
    projection: nn.Module, places: Tensor, weight: Tensor, bias: Tensor | None, out: bool, states: Tensor
) -> Tensor:
    """A projection with the differences in its matrix."""
    matrix, own_bias = _matrix_of(projection), cast(Tensor | None, projection.bias)
    change = weight.T if out else weight
    changed = matrix.to(weight.dtype).index_add(int(out), places, change).to(matrix.dtype)
    if bias is not None and own_bias is not None:
        own_bias = own_bias.to(bias.dtype).index_add(0, places, bias).to(own_bias.dtype)
    return nn.functional.linear(states, changed, own_bias)


class _Columns(torch.autograd.Function):
    """states @ (matrix + columns)^T, keeping only the chosen activations for the backward pass.

    In the lowest layer nothing but the chosen neurons asks for gradients of the activations, so only theirs are made.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        places: Tensor,
        lowest: bool,
    ) -> Tensor:
        chosen = states.index_select(-1, places)
        ctx.save_for_backward(chosen, weight, matrix, places)
        ctx.lowest, ctx.shape = lowest, states.shape
        outputs = nn.functional.linear(states, matrix, bias)
        return outputs.add_(chosen @ weight.to(states.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        chosen, weight, matrix, places = ctx.saved_tensors
        inner = columns = None
        if ctx.needs_input_grad[0]:
            through = outer @ weight.to(outer.dtype).T  # [..., k]
            if ctx.lowest:
                inner = outer.new_zeros(ctx.shape)
                through += outer @ matrix.index_select(1, places)
            else:
                inner = outer @ matrix
            inner.index_add_(-1, places, through)
        if ctx.needs_input_grad[1]:
            columns = (chosen.flatten(0, -2).T @ outer.flatten(0, -2)).to(weight.dtype)
        return inner, columns, None, None, None, None
