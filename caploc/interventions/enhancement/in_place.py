"""Training that leaves no room for a second set of weights on the GPU: in the model's own matrices.

Beside the model, training a weight takes 16 bytes (its difference, gradient and Adam's two moments in float32) and two
copies of its matrix, with the located neurons zeroed and with the difference added: 78 GB for the MLPs of Llama-2-7B.
Here the matrices themselves hold the trained values, and only the float32 gradients, 4 bytes a weight, stay on the
GPU. The difference, Adam's moments and the weights' own values lie in pinned memory of the host. An update carries
them to the GPU and back piece by piece; pieces alternate between two streams, so that one is copied while another is
computed with.

Where `TrainableRows` trains whole matrices the numbers are the very same, by the same operations in the same order; in
layers with few trained neurons, and where matrices are stored transposed (GPT-2), they are equal but for rounding
(caploc/tests/gpu/test_training_in_place.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.adam import adam

from caploc.errors import ModelError
from caploc.interventions.enhancement.difference import (
    MATRIX_SHARE,
    LayerRows,
    RowDifference,
    matrix_of,
)
from caploc.interventions.enhancement.recipe import Recipe
from caploc.interventions.weights import NeuronWeights, neuron_weights
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask
from caploc.rows.borrowing import Borrower, replaced_forward

# Large enough for full speed over PCIe, and a power of two, to which torch rounds up what it pins.
PIECE_BYTES = 16 << 20
STREAMS = 2
# Of the memory that the weights leave: below it, passes would be of an example or two at a time.
PASSES_SHARE = 1 / 8


@dataclass(frozen=True)
class TrainingBytes:
    """What a training holds beyond the model's weights and its passes' activations.

    Attributes:
        beside: on the GPU, with the differences beside the model (`TrainableRows`).
        in_place: on the GPU, in the model's own matrices (`RowsInPlace`).
        host: in the host's memory for the latter, with the differences that are kept.
    """

    beside: int
    in_place: int
    host: int

    @classmethod
    def of(
        cls, lm: LanguageModel, mask: NeuronMask, recipe: Recipe, zeroed: NeuronMask | None
    ) -> TrainingBytes:
        """Of training ``mask``."""
        own, wide = lm.dtype.itemsize, torch.promote_types(lm.dtype, torch.float32).itemsize
        rows = changed = erased = matrix = piece = 0
        for layer, count in enumerate(mask.values.sum(1).tolist()):
            for part in neuron_weights(lm, layer):
                size = part.parameter.numel()
                if zeroed is not None and zeroed.values[layer].any():
                    erased += own * size
                if count and recipe.train in ("both", part.side):
                    here = size // part.neurons * count
                    rows, matrix = rows + here, max(matrix, size)
                    changed += own * size if count >= MATRIX_SHARE * part.neurons else 0
                    piece = max(piece, min(PIECE_BYTES, wide * here))
        # gradients come as the backward pass lets go of changed matrices; one matrix's is in float32 twice at the end
        beside = 3 * wide * rows + max(wide * rows, changed) + erased + 2 * wide * matrix
        in_place = wide * rows + max(own * matrix, 5 * STREAMS * piece)
        return cls(beside, in_place, (3 + len(recipe.keep)) * wide * rows + own * rows)


def needs_to_be_in_place(
    lm: LanguageModel, mask: NeuronMask, recipe: Recipe, zeroed: NeuronMask | None
) -> bool:
    """Whether the GPUs that the model lies on have no room for a training beside it; by their size, not by what is
    free, so that a card always gives the same numbers.

    Raises:
        ModelError: they have none, and the host's memory is too small as well.
    """
    if lm.device.type != "cuda":
        return False
    needed = TrainingBytes.of(lm, mask, recipe, zeroed)
    devices = {parameter.device for parameter in lm.model.parameters()}
    whole = sum(torch.cuda.get_device_properties(device).total_memory for device in devices)
    left = whole - lm.num_parameters * lm.dtype.itemsize
    if needed.beside <= (1 - PASSES_SHARE) * left:
        return False
    host = _host_bytes()
    if needed.host > host:
        raise ModelError(
            f"training {mask.count} neurons takes {needed.beside / 1e9:.3g} GB beside {lm.name}, where the GPU has "
            f"{left / 1e9:.3g}, or {needed.host / 1e9:.3g} GB of the host's memory, which has {host / 1e9:.3g}; use a "
            "larger GPU or host, or keep fewer epochs"
        )
    return True


def _host_bytes() -> int:
    """The host's memory, in use or not."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class _Piece(NamedTuple):
    """Some rows of a parameter, in pinned memory but for ``places``.

    ``state``: the difference and Adam's two moments. ``span``: which of the parameter's trained rows they are.
    """

    span: slice
    places: Int[Tensor, " r"]
    own: Float[Tensor, "r ..."]
    state: tuple[Float[Tensor, "r ..."], ...]


class _Part:
    """A parameter whose chosen rows are trained where they are."""

    def __init__(self, part: NeuronWeights, indices: Tensor, parameter: nn.Parameter) -> None:
        self.path, self.parameter, self.dim = part.path, parameter, part.dim
        self.places = part.rows(indices.to(parameter.device))
        self.gradient: Tensor | None = None
        self._shape = part.row_shape(len(indices))
        self._dtype = torch.promote_types(parameter.dtype, torch.float32)
        step = max(1, PIECE_BYTES // (self._dtype.itemsize * math.prod(self._shape[1:])))
        self.pieces = [self._piece(start, start + step) for start in range(0, len(self.places), step)]

    def _piece(self, start: int, stop: int) -> _Piece:
        places = self.places[start:stop]
        own = self.parameter.detach().index_select(self.dim, places).movedim(self.dim, 0).cpu().contiguous()
        state = tuple(torch.zeros(own.shape, dtype=self._dtype).pin_memory() for _ in range(3))
        return _Piece(slice(start, stop), places, own.pin_memory(), state)

    def take(self, parameter: Tensor) -> None:
        """Adds the gradient of the parameter to that of its rows, and lets go of it."""
        assert parameter.grad is not None  # torch calls this once it is there
        found = parameter.grad.index_select(self.dim, self.places).movedim(self.dim, 0)
        parameter.grad = None
        if self.gradient is None:
            self.gradient = torch.empty(self._shape, dtype=self._dtype, device=found.device).copy_(found)
        else:
            self.gradient += found

    def forget(self) -> None:
        self.gradient = self.parameter.grad = None

    def write(self, piece: _Piece, rows: Tensor) -> None:
        """Put the rows ``[r, ...]`` into the parameter."""
        self.parameter.index_copy_(self.dim, piece.places, rows.movedim(0, self.dim))

    @torch.no_grad()
    def restore(self) -> None:
        for piece in self.pieces:
            self.write(piece, piece.own.to(self.places.device))


class RowsInPlace(Borrower):
    """The chosen neurons' weights, trained in the model's own parameters by Adam, whose state is on the host.

    Serves a `Trainer` as its rows and as its optimizer. Leaving ``with`` writes the own values back, bit for bit.
    """

    def __init__(self, lm: LanguageModel, mask: NeuronMask, recipe: Recipe) -> None:
        self._lm, self._recipe, self._updates = lm, recipe, 0
        self._indices: dict[int, Tensor] = {}
        self._parts: dict[int, list[_Part]] = {}
        for layer in mask.values.any(1).nonzero().ravel().tolist():
            self._indices[layer] = mask.values[layer].cpu().nonzero().ravel()
            self._parts[layer] = [
                _Part(part, self._indices[layer], lm.model.get_parameter(part.name))
                for part in neuron_weights(lm, layer)
                if recipe.train in ("both", part.side)
            ]
        self._devices = {part.places.device for part in self._all()}
        self._streams = {
            device: [torch.cuda.Stream(device) for _ in range(STREAMS)] for device in self._devices
        }

    def _all(self) -> Iterator[_Part]:
        return (part for parts in self._parts.values() for part in parts)

    def _borrow(self, stack: ExitStack) -> None:
        stack.enter_context(_another_model(self._lm))
        architecture = self._lm.architecture
        for layer, parts in self._parts.items():
            for part in parts:
                stack.callback(setattr, part.parameter, "grad", part.parameter.grad)
                part.parameter.grad = None
                stack.callback(part.restore)
                stack.callback(part.forget)
                part.parameter.requires_grad_(True)
                stack.callback(part.parameter.requires_grad_, False)
                stack.callback(part.parameter.register_post_accumulate_grad_hook(part.take).remove)
            trained = {part.path.rpartition(".")[0] for part in parts}
            for path in (*architecture.mlp_in, architecture.mlp_out):
                if path in trained:
                    projection = self._lm.layers[layer].get_submodule(path)
                    stack.enter_context(replaced_forward(projection, partial(_forward, projection)))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Let go of the gradients."""
        for part in self._all():
            part.forget()

    @torch.no_grad()
    def step(self) -> None:
        """Adam's step along the gradients, piece by piece."""
        for device, streams in self._streams.items():
            for stream in streams:
                stream.wait_stream(torch.cuda.current_stream(device))
        pieces = [(part, piece) for part in self._all() for piece in part.pieces]
        try:
            for turn, (part, piece) in enumerate(pieces):
                with torch.cuda.stream(self._streams[part.places.device][turn % STREAMS]):
                    self._update(part, piece)
        finally:  # also where one had no room: the own values are written back next
            for device, streams in self._streams.items():
                for stream in streams:
                    torch.cuda.current_stream(device).wait_stream(stream)
        self._updates += 1

    def _update(self, part: _Part, piece: _Piece) -> None:
        device, recipe = part.places.device, self._recipe
        assert part.gradient is not None  # every trained row has one
        change, mean, square = (one.to(device, non_blocking=True) for one in piece.state)
        before = torch.full((), float(self._updates), device=device)
        adam(
            [change], [part.gradient[piece.span]], [mean], [square], [], [before],
            fused=True, amsgrad=False, beta1=recipe.betas[0], beta2=recipe.betas[1], lr=recipe.lr,
            weight_decay=0.0, eps=recipe.eps, maximize=False,
        )  # fmt: skip
        sums = piece.own.to(device, non_blocking=True) + change
        part.write(piece, sums.to(part.parameter.dtype))
        for kept, new in zip(piece.state, (change, mean, square), strict=True):
            kept.copy_(new, non_blocking=True)

    def finite(self) -> bool:
        """Whether all trained rows still are numbers."""
        self._wait()
        return all(bool(piece.state[0].isfinite().all()) for part in self._all() for piece in part.pieces)

    def difference(self, fingerprint: str, zeroed: NeuronMask | None) -> RowDifference:
        """A copy of the differences as they are now."""
        self._wait()
        layers = {
            layer: LayerRows(
                self._indices[layer],
                {part.path: torch.cat([piece.state[0] for piece in part.pieces]) for part in parts},
            )
            for layer, parts in self._parts.items()
        }
        return RowDifference(fingerprint, (self._lm.num_layers, self._lm.num_neurons), layers, zeroed)

    def _wait(self) -> None:
        """Until the host has what the last update gave: copies from a GPU run behind Python's back."""
        for device in self._devices:
            torch.cuda.synchronize(device)


def _forward(projection: nn.Module, states: Tensor) -> Tensor:
    """As `TrainableRows` computes a matrix with differences in it, whatever the projection's class does."""
    bias: Any = projection.bias
    return nn.functional.linear(states, matrix_of(projection), bias)


@contextmanager
def zeroed_in_place(lm: LanguageModel, zeroed: NeuronMask) -> Iterator[None]:
    """Within it the neurons' weights are 0, as in `zeroed_weights`, without a copy of the others on the GPU."""
    with ExitStack() as stack:
        stack.enter_context(_another_model(lm))
        for layer, chosen in enumerate(zeroed.values.cpu()):
            indices = chosen.nonzero().ravel()
            for part in neuron_weights(lm, layer) if len(indices) else ():
                parameter, places = part.parameter, part.rows(indices.to(part.parameter.device))
                own = parameter.detach().index_select(part.dim, places).cpu()
                stack.callback(_put, parameter, part.dim, places, own)
                with torch.no_grad():
                    parameter.index_fill_(part.dim, places, 0)
        yield


@torch.no_grad()
def _put(parameter: Tensor, dim: int, places: Tensor, own: Tensor) -> None:
    parameter.index_copy_(dim, places, own.to(parameter.device))


@contextmanager
def _another_model(lm: LanguageModel) -> Iterator[None]:
    """Results under changed weights are not mistaken for the model's own: within it, and at its end, the fingerprint is
    not the one known before."""
    known = lm.__dict__.pop("fingerprint", None)
    try:
        yield
    finally:
        lm.__dict__.pop("fingerprint", None)
        if known is not None:
            lm.__dict__["fingerprint"] = known
