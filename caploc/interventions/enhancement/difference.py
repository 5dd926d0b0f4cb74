"""What training changed, as it is kept: a few rows of the MLPs' weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caploc.errors import CaplocError
from caploc.model.loading import LanguageModel
from caploc.neurons import NeuronMask

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
