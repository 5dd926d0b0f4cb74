"""The difference that training makes to a few neurons' weights: trained, kept, and put into a model.

While it trains, the difference is added where the weights act, so that the model's own need no gradient. A layer in
which few neurons are chosen runs its own projections and adds the chosen rows' difference to their outputs; the
gradient of the frozen matrices is never made. Where many are chosen that would cost more than it saves: there the
difference is added to the matrices themselves. The parameters are the same, [rows, width] for the chosen rows alone.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from caploc.architectures import input_axis
from caploc.errors import CaplocError
from caploc.interventions.enhancement.recipe import Train
from caploc.interventions.weights import neuron_weights, replaced_weights, zeroed_weights
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import Borrower, replaced_forward
from caploc.rows.sizing import refused_if_too_large

# By operations, of a frozen pass 2 + 3 k/N against 3 with the gradient of whole matrices.
MATRIX_SHARE = 1 / 3
LAYOUT = "1"


class DifferenceError(CaplocError):
    """A difference cannot be read, or belongs to another model."""


@dataclass(frozen=True, eq=False)
class LayerRows:
    """Trained neurons of one layer, and by how much their weights differ from the model's own.

    ``indices [k]``: the neurons, ascending. ``changes``: by the parameter's path from the layer, such as
    ``mlp.up_proj.weight``; ``[k, width]`` for a weight, one row a neuron (of the output projection too, whose
    columns the neurons are), ``[k]`` for a bias. Where one projection holds gate and up (Phi-3) the rows of all gates
    stand before those of all ups, so that there are 2k.
    """

    indices: Int[Tensor, " k"]
    changes: Mapping[str, Float[Tensor, "rows ..."]]


@dataclass(frozen=True, eq=False)
class RowDifference:
    """The difference that training makes to a model, on the CPU in the precision that it was trained in.

    Attributes:
        fingerprint: of the model it was trained on, and the only one that it can be applied to.
        shape: (layers, neurons) of that model.
        layers: by their numbers, where a neuron was trained.
        zeroed: neurons whose own weights are 0 in the resulting model; None where there are none.
    """

    fingerprint: str
    shape: tuple[int, int]
    layers: Mapping[int, LayerRows]
    zeroed: NeuronMask | None = None

    @property
    def mask(self) -> NeuronMask:
        """The trained neurons; not the zeroed ones."""
        values = torch.zeros(self.shape, dtype=torch.bool)
        for layer, rows in self.layers.items():
            values[layer, rows.indices] = True
        return NeuronMask(values)

    def check(self, lm: LanguageModel) -> None:
        """Refuse another model than the one that was trained.

        Raises:
            DifferenceError: its fingerprint differs, so its weights, dtype or configuration do.
        """
        if lm.fingerprint != self.fingerprint:
            raise DifferenceError(
                f"this difference was trained on a model with fingerprint {self.fingerprint[:12]}, {lm.name} as it is "
                f"now has {lm.fingerprint[:12]}; apply it to the very weights and dtype that it was trained on"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as one safetensors file."""
        tensors = {}
        for layer, rows in self.layers.items():
            tensors[f"{layer}.indices"] = rows.indices
            tensors |= {f"{layer}.{name}": change.contiguous() for name, change in rows.changes.items()}
        if self.zeroed is not None:
            tensors["zeroed"] = self.zeroed.values.cpu()
        layers, neurons = self.shape
        about = {"layout": LAYOUT, "fingerprint": self.fingerprint, "shape": f"{layers} {neurons}"}
        save_file(tensors, path, metadata=about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RowDifference:
        """Read what ``save`` wrote.

        Raises:
            DifferenceError: there is no such file, it is damaged, or it holds something else.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about: dict[str, str] = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise DifferenceError(
                f"{os.fspath(path)} cannot be read ({error}); name a file that RowDifference.save has written"
            ) from error
        try:
            return _from_file(about, tensors)
        except (KeyError, ValueError) as error:
            raise DifferenceError(
                f"{os.fspath(path)} holds no difference of layout {LAYOUT}; name a file that RowDifference.save "
                "has written"
            ) from error


def _from_file(about: Mapping[str, str], tensors: dict[str, Any]) -> RowDifference:
    if about["layout"] != LAYOUT:
        raise ValueError(f"layout {about['layout']}")
    layers, neurons = map(int, about["shape"].split())
    zeroed = tensors.pop("zeroed", None)
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, path = name.partition(".")
        parts.setdefault(int(layer), {})[path] = tensor
    return RowDifference(
        about["fingerprint"],
        (layers, neurons),
        {layer: LayerRows(part.pop("indices"), part) for layer, part in sorted(parts.items())},
        None if zeroed is None else NeuronMask(zeroed),
    )


class TrainableRows(Borrower):
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
            there = lm.architecture.mlp_out_of(lm.layers[layer]).get_parameter("weight").device
            indices = mask.values[layer].nonzero().ravel().to(there)
            self._indices[layer] = indices
            self._changes[layer] = {
                part.path: nn.Parameter(
                    torch.zeros(part.row_shape(len(indices)), dtype=self._dtype, device=there)
                )
                for part in neuron_weights(lm, layer)
                if train in ("both", part.side)
            }
        self.parameters = [change for changes in self._changes.values() for change in changes.values()]

    def _borrow(self, stack: ExitStack) -> None:
        for layer in self._changes:
            self._enter_layer(stack, layer)

    def finite(self) -> bool:
        """Whether all trained rows still are numbers."""
        return all(bool(parameter.isfinite().all()) for parameter in self.parameters)

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


def matrix_of(projection: nn.Module) -> Tensor:
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
    matrix, bias = matrix_of(projection), cast(Tensor | None, projection.bias)
    outputs: Tensor = _Columns.apply(states, weight, matrix, bias, places, lowest)
    return outputs


def _matrix(
    projection: nn.Module, places: Tensor, weight: Tensor, bias: Tensor | None, out: bool, states: Tensor
) -> Tensor:
    """A projection with the differences in its matrix."""
    matrix, own_bias = matrix_of(projection), cast(Tensor | None, projection.bias)
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
        # no view, which a layer that adds to it in place (Falcon) could not differentiate
        return outputs + chosen @ weight.to(states.dtype)

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


@contextmanager
def enhanced(lm: LanguageModel, difference: RowDifference) -> Iterator[None]:
    """Within it ``lm`` is the trained model: the difference is in its weights, rounded to their dtype.

    Only the matrices that have trained neurons are copied. Leaving it, even by an exception, gives back the very bits.

    Raises:
        DifferenceError: the difference was trained on another model. Nothing has been changed then.
    """
    with replaced_weights(lm, changed_weights(lm, difference)):
        yield


def merge(lm: LanguageModel, difference: RowDifference) -> PreTrainedModel:
    """A copy of ``lm.model`` with the difference in its weights, plain transformers: ``save_pretrained`` writes it.

    Raises:
        DifferenceError: the difference was trained on another model.
    """
    weights = changed_weights(lm, difference)
    merged = copy.deepcopy(lm.model)
    with torch.no_grad():
        for name, weight in weights.items():
            merged.get_parameter(name).copy_(weight)
    return merged


@refused_if_too_large("a copy of the weights that change")
def changed_weights(lm: LanguageModel, difference: RowDifference) -> dict[str, Tensor]:
    """By name, the parameters of ``lm.model`` that the difference changes, as they are with it.

    Raises:
        DifferenceError: the difference was trained on another model.
    """
    difference.check(lm)
    weights = {} if difference.zeroed is None else zeroed_weights(lm, difference.zeroed)
    for layer, rows in difference.layers.items():
        for part in neuron_weights(lm, layer):
            if part.path in rows.changes:
                name = part.name
                weights[name] = part.added(
                    weights.get(name, part.parameter.detach()), rows.indices, rows.changes[part.path]
                )
    return weights
