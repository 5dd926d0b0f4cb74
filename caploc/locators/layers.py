"""A location made of whole layers, best first: what causal tracing finds and a rank-one edit edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from caploc.architectures import Architecture
from caploc.errors import OptionError
from caploc.metrics import Places
from caploc.streams import Stream, stream

Extent = Literal["mlp", "block"]


class HasLayers(Protocol):
    """What a parameter share needs of a ``caploc.LanguageModel``."""

    @property
    def layer_shapes(self) -> list[nn.Module]: ...

    @property
    def architecture(self) -> Architecture: ...

    @property
    def num_parameters(self) -> int: ...


@dataclass(frozen=True)
class LayerSet(Places):
    """Some of a model's layers: ``layers`` in the order of their rank, the best first, out of ``num_layers``.

    ``caploc.overlap``, ``caploc.iou`` and ``caploc.metrics.chance_overlap`` compare two of them by ``values``.

    Raises:
        OptionError: a layer that the model does not have, or one named twice.
    """

    unit: ClassVar[str] = "layers"

    layers: tuple[int, ...]
    num_layers: int

    def __post_init__(self) -> None:
        outside = [layer for layer in self.layers if not 0 <= layer < self.num_layers]
        if outside:
            raise OptionError(
                f"layer {outside[0]} is out of range: the model has the layers 0 to {self.num_layers - 1}"
            )
        if len(set(self.layers)) != len(self.layers):
            raise OptionError(f"a set of layers names each layer once, got {list(self.layers)}")

    @classmethod
    def best(cls, scores: Sequence[float], count: int) -> LayerSet:
        """The ``count`` layers of the highest of ``scores``, one score a layer; of equal layers the lower.

        Raises:
            OptionError: ``count`` is no number from 1 to that of the layers, or a score is not finite.
        """
        check_top_k(count, len(scores))
        values = torch.as_tensor(scores, dtype=torch.float64)
        if not values.isfinite().all():
            raise OptionError(
                "the layers' scores are not finite, so none can be located; check the model's weights"
            )
        order = values.argsort(descending=True, stable=True)
        return cls(tuple(order[:count].tolist()), len(scores))

    @property
    def values(self) -> Bool[Tensor, " layers"]:
        """True where a layer belongs to the set."""
        members = torch.zeros(self.num_layers, dtype=torch.bool)
        members[list(self.layers)] = True
        return members

    def parameter_share(self, lm: HasLayers, extent: Extent = "mlp") -> float:
        """The set's parameters as a fraction of all of the model's: of its layers' MLPs (``mlp``), or of its whole
        decoder layers with attention and norms (``block``).

        Raises:
            OptionError: an unknown ``extent``, or a model with another number of layers.
        """
        if extent not in get_args(Extent):
            raise OptionError(f"extent must be 'mlp' or 'block', got {extent!r}")
        if len(lm.layer_shapes) != self.num_layers:
            raise OptionError(
                f"the set is of a model with {self.num_layers} layers, this one has {len(lm.layer_shapes)}; "
                "take the model that the layers were located in"
            )
        # torch calls a module itself by the empty path
        paths = [""] if extent == "block" else [*lm.architecture.mlp_in, lm.architecture.mlp_out]
        modules = [lm.layer_shapes[layer].get_submodule(path) for layer in self.layers for path in paths]
        total = sum(parameter.numel() for module in modules for parameter in module.parameters())
        return total / lm.num_parameters

    def random_like(self, seed: int) -> LayerSet:
        """As many layers, drawn uniformly."""
        drawn = stream(Stream.LAYERS, seed).choice(self.num_layers, self.count, replace=False)
        return LayerSet(tuple(drawn.tolist()), self.num_layers)

    @property
    def strata(self) -> Int[np.ndarray, " places"]:
        """All 0: any layer can take another's place."""
        return np.zeros(self.num_layers, dtype=np.int64)

    @property
    def votes(self) -> Float[np.ndarray, " layers"]:
        """1 for each layer of the set."""
        return self.values.numpy().astype(np.float64)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The layers in their order, and how many the model has."""
        return {"layers": np.array(self.layers, dtype=np.int64), "num_layers": np.array(self.num_layers)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LayerSet:
        """Back from ``to_arrays``."""
        return cls(tuple(arrays["layers"].tolist()), int(arrays["num_layers"]))


def check_top_k(count: int, num_layers: int) -> None:
    """Raise ``OptionError`` unless ``count`` of ``num_layers`` layers can be chosen."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= num_layers:
        raise OptionError(
            f"top_k must be a whole number from 1 to the model's {num_layers} layers, got {count!r}"
        )
