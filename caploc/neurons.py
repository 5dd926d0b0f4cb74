"""Scores of neurons, the set that a threshold locates among them (eq. 8), and random sets that match it.

A *neuron* is one unit of a layer's FFN intermediate activation, the input of the MLP's output projection.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caploc.errors import OptionError

Dispersion = Literal["std", "variance"]
Matching = Literal["layer", "count"]
_NUMBERS = (int, float, np.integer, np.floating)


class HasMLPs(Protocol):
    """What a parameter share needs of a ``caploc.LanguageModel``."""

    @property
    def parameters_per_neuron(self) -> int: ...

    @property
    def num_parameters(self) -> int: ...


@dataclass(frozen=True, eq=False)
class NeuronMask:
    """A set of neurons: ``values [layers, neurons]`` is True where a neuron belongs to it."""

    values: Bool[Tensor, "layers neurons"]

    def __post_init__(self) -> None:
        if self.values.dtype != torch.bool or self.values.dim() != 2:
            raise OptionError(
                f"a neuron mask is a bool tensor [layers, neurons], got {self.values.dtype} {tuple(self.values.shape)}"
            )

    @property
    def count(self) -> int:
        """How many neurons are in the set."""
        return int(self.values.sum())

    @property
    def per_layer(self) -> list[int]:
        """How many neurons of each layer are in the set."""
        return self.values.sum(1).tolist()

    @property
    def ratio(self) -> float:
        """The paper's *neuron* ratio (eq. 9): located over all neurons, a fraction."""
        return self.count / self.values.numel()

    def parameter_share(self, lm: HasMLPs) -> float:
        """The neurons' own weights (rows of the input projections, column of the output projection, input biases)
        as a fraction of all of the model's parameters."""
        return self.count * lm.parameters_per_neuron / lm.num_parameters

    def random_like(self, seed: int, match: Matching = "layer") -> NeuronMask:
        """A uniformly random set of the same size: per layer (``"layer"``) or in total only (``"count"``).

        Raises:
            OptionError: an unknown ``match``.
        """
        generator = np.random.default_rng(seed)
        layers, neurons = self.values.shape
        drawn = np.zeros((layers, neurons), dtype=bool)
        if match == "layer":
            for layer, count in enumerate(self.per_layer):
                drawn[layer, generator.choice(neurons, count, replace=False)] = True
        elif match == "count":
            drawn.ravel()[generator.choice(layers * neurons, self.count, replace=False)] = True
        else:
            raise OptionError(f"match must be 'layer' or 'count', got {match!r}")
        return NeuronMask(torch.from_numpy(drawn).to(self.values.device))


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """Eq. (7)'s scores, the mean over ``count`` examples, with what is needed to trust them.

    ``completeness [layers]``: mean over examples and answer positions of |sum of attributions - (P(1) - P(0))|, the
    quadrature's error. ``gap [layers]``: the mean |P(1) - P(0)| it stands against. ``points [layers]``: mean gradient
    evaluations for one (layer, position). ``settings`` names the quadrature and everything else that was chosen.
    """

    values: Float[Tensor, "layers neurons"]
    completeness: Float[Tensor, " layers"]
    gap: Float[Tensor, " layers"]
    points: Float[Tensor, " layers"]
    count: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def mask(self, sigma: float = 6.0, dispersion: Dispersion = "std") -> NeuronMask:
        """Eq. (8): the neurons with |score - mean| > sigma * dispersion, mean and dispersion over all neurons.

        The paper prints "var" and speaks of scores "outside sigma = 6": ``"std"`` (default) is the reading that does
        not depend on the unit of the scores, ``"variance"`` the literal one. Under "std" at most 1/sigma^2 of the
        neurons can pass (Chebyshev), none if sigma > sqrt(neurons - 1).

        Raises:
            OptionError: ``sigma`` is no positive number, ``dispersion`` unknown, or the scores are not finite.
        """
        return NeuronMask(located(self.values, sigma, dispersion))

    def z(self) -> Tensor:
        """``[layers, neurons]`` the scores in standard deviations from their mean; zeros where all are equal."""
        centred = self.values - self.values.mean()
        if self.values.min() == self.values.max():
            return torch.zeros_like(centred)
        return centred / self.values.std(correction=0)


def located(values: Float[Tensor, "layers neurons"], sigma: float, dispersion: Dispersion = "std") -> Tensor:
    """Eq. (8) as a bool tensor; see ``NeuronScores.mask``."""
    rows = located_rows(values.reshape(1, -1).double().numpy(force=True), sigma, dispersion)
    return torch.from_numpy(rows).reshape(values.shape).to(values.device)


def located_rows(
    rows: Float[np.ndarray, "sets scores"], sigma: float, dispersion: Dispersion = "std"
) -> np.ndarray:
    """Eq. (8) for many sets of scores at once, each with its own mean and dispersion: bool ``[sets, scores]``."""
    if isinstance(sigma, bool) or not isinstance(sigma, _NUMBERS) or not (math.isfinite(sigma) and sigma > 0):
        raise OptionError(f"sigma must be a positive number, got {sigma!r} (the paper uses 3, 6 and 12)")
    if dispersion not in ("std", "variance"):
        raise OptionError(f"dispersion must be 'std' or 'variance', got {dispersion!r}")
    if not np.isfinite(rows).all():
        raise OptionError(
            "scores are not finite, so nothing can be located; check the model's weights and dtype"
        )
    centred = np.abs(rows - rows.mean(1, keepdims=True))
    centred[rows.min(1) == rows.max(1)] = 0  # the mean of equal numbers may differ from them by rounding
    if dispersion == "variance":
        return centred > sigma * (centred**2).mean(1, keepdims=True)
    largest = centred.max(1, keepdims=True)
    # squares of tiny or huge scores would leave the range of floats
    centred /= np.where(largest > 0, largest, 1)
    return centred > sigma * np.sqrt((centred**2).mean(1, keepdims=True))
