"""Scores of neurons and their sums over examples, the set that a threshold locates among them (eq. 8), and random sets
that match it.

A *neuron* is one unit of a layer's FFN intermediate activation, the input of the MLP's output projection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from caploc.errors import OptionError
from caploc.metrics import Places

Dispersion = Literal["std", "variance"]
Scope = Literal["model", "layer"]
Deviation = Literal["absolute", "positive"]
Matching = Literal["layer", "count"]
_NUMBERS = (int, float, np.integer, np.floating)


class HasMLPs(Protocol):
    """What a parameter share needs of a ``caploc.LanguageModel``."""

    @property
    def parameters_per_neuron(self) -> int: ...

    @property
    def num_parameters(self) -> int: ...


@dataclass(frozen=True, eq=False)
class NeuronMask(Places):
    """A set of neurons: ``values [layers, neurons]`` is True where a neuron belongs to it.

    ``model`` is the fingerprint of the model that they were located in, where it is known: what changes weights refuses
    a mask of another model. ``NeuronMask(mask.values)`` is one of no model in particular.

    ``scores``: what the set was cut from, if its method ranks neurons, the largest |score| first.
    """

    unit: ClassVar[str] = "neurons"

    values: Bool[Tensor, "layers neurons"]
    model: str | None = None
    scores: Float[Tensor, "layers neurons"] | None = None

    def __post_init__(self) -> None:
        if self.values.dtype != torch.bool or self.values.dim() != 2:
            raise OptionError(
                f"a neuron mask is a bool tensor [layers, neurons], got {self.values.dtype} {tuple(self.values.shape)}"
            )

    @property
    def per_layer(self) -> list[int]:
        """How many neurons of each layer are in the set."""
        return self.values.sum(1).tolist()

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
        return NeuronMask(torch.from_numpy(drawn).to(self.values.device), self.model)

    @property
    def strata(self) -> Int[np.ndarray, " places"]:
        """Each neuron's layer."""
        layers, neurons = self.values.shape
        return np.repeat(np.arange(layers), neurons)

    @property
    def votes(self) -> Float[np.ndarray, "layers neurons"]:
        """1 for each neuron of the set."""
        return self.values.numpy(force=True).astype(np.float64)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The mask alone: a store's key says which model it is of."""
        return {"values": self.values.numpy(force=True)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NeuronMask:
        """Back from ``to_arrays``; of no model in particular."""
        return cls(torch.from_numpy(np.array(arrays["values"])))


@dataclass(frozen=True, eq=False)
class NeuronScores:
    """Eq. (7)'s scores, the mean over ``count`` examples, with what is needed to trust them.

    ``completeness [layers]``: mean over examples and answer positions of |sum of attributions - (P(1) - P(0))|, the
    quadrature's error. ``gap [layers]``: the mean |P(1) - P(0)| it stands against. ``points [layers]``: mean gradient
    evaluations for one (layer, position). ``settings`` names the quadrature and everything else that was chosen,
    ``model`` is the fingerprint of the model, for its masks.

    One neuron at a time (path "neuron") there is no quadrature: ``completeness`` is zero, ``gap`` the neurons' mean
    |P(1) - P(0)| and ``points`` counts forward rows.
    """

    values: Float[Tensor, "layers neurons"]
    completeness: Float[Tensor, " layers"]
    gap: Float[Tensor, " layers"]
    points: Float[Tensor, " layers"]
    count: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None

    def mask(
        self,
        sigma: float = 6.0,
        dispersion: Dispersion = "std",
        scope: Scope = "model",
        deviation: Deviation = "absolute",
    ) -> NeuronMask:
        """Eq. (8): the neurons with |score - mean| > sigma * dispersion, both over all neurons; see ``Threshold``.

        Raises:
            OptionError: ``sigma`` is no positive number, another value is unknown, or the scores are not finite.
        """
        values = located(self.values, sigma, dispersion, scope, deviation)
        return NeuronMask(values, self.model, self.values)

    def z(self, scope: Scope = "model") -> Tensor:
        """``[layers, neurons]`` the scores in standard deviations from their mean, over all layers or each its own;
        zeros where all are equal."""
        sets = self.values.reshape(1 if scope == "model" else len(self.values), -1)
        centred = sets - sets.mean(1, keepdim=True)
        equal = sets.amin(1, keepdim=True) == sets.amax(1, keepdim=True)
        z = torch.where(equal, 0.0, centred / sets.std(1, correction=0, keepdim=True))
        return z.reshape(self.values.shape)


@dataclass(eq=False)
class ScoreSums:
    """float64 sums over ``count`` examples, what shards store and halves, curves and splits are recombined from; fields
    as in ``NeuronScores``, which is their mean.

    ``squares`` holds the sum of squared scores, for the spread between examples.
    """

    total: Float64[np.ndarray, "layers neurons"]
    squares: Float64[np.ndarray, "layers neurons"]
    completeness: Float64[np.ndarray, " layers"]
    gap: Float64[np.ndarray, " layers"]
    points: Float64[np.ndarray, " layers"]
    count: int

    @classmethod
    def zeros(cls, layers: int, neurons: int) -> ScoreSums:
        """No examples yet."""
        completeness, gap, points = np.zeros((3, layers))
        return cls(np.zeros((layers, neurons)), np.zeros((layers, neurons)), completeness, gap, points, 0)

    @classmethod
    def of_one(
        cls, values: np.ndarray, completeness: np.ndarray, gap: np.ndarray, points: np.ndarray
    ) -> ScoreSums:
        """One example."""
        return cls(values, values**2, completeness, gap, points, 1)

    @classmethod
    def merge(cls, parts: Iterable[ScoreSums]) -> ScoreSums:
        """The sum of ``parts`` (at least one), added in the order given."""
        parts = list(parts)
        merged = cls.zeros(*parts[0].total.shape)
        for part in parts:
            merged.add(part)
        return merged

    def add(self, other: ScoreSums) -> None:
        """Add ``other`` to this one, in place."""
        self.total += other.total
        self.squares += other.squares
        self.completeness += other.completeness
        self.gap += other.gap
        self.points += other.points
        self.count += other.count

    def scores(self, settings: Mapping[str, Any] | None = None) -> NeuronScores:
        """The means."""
        count = max(self.count, 1)
        return NeuronScores(
            torch.from_numpy(self.total / count),
            torch.from_numpy(self.completeness / count),
            torch.from_numpy(self.gap / count),
            torch.from_numpy(self.points / count),
            self.count,
            settings or {},
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """As the store keeps it."""
        return {
            "total": self.total,
            "squares": self.squares,
            "completeness": self.completeness,
            "gap": self.gap,
            "points": self.points,
            "count": np.array([self.count], dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ScoreSums:
        """Back from the store."""
        fields = {name: arrays[name] for name in ("total", "squares", "completeness", "gap", "points")}
        return cls(**fields, count=int(arrays["count"][0]))


@dataclass(frozen=True)
class Threshold:
    """Eq. (8), the cut that locates, and how it is read.

    ==============  ==========================================================================================
    ``sigma``       the paper uses 3, 6 and 12
    ``dispersion``  the paper prints "var" and speaks of scores "outside sigma = 6": ``std`` does not depend on
                    the unit of the scores, ``variance`` is the literal reading
    ``scope``       mean and dispersion are taken over all neurons of the ``model`` or of each ``layer``
    ``deviation``   ``absolute`` as printed, both tails; ``positive``: only score - mean > sigma * dispersion
    ==============  ==========================================================================================

    Under "std" at most 1/sigma^2 of the neurons can pass (Chebyshev), with "positive" 1/(1 + sigma^2) (Cantelli), and
    none if sigma > sqrt(neurons - 1).

    Raises:
        OptionError: ``sigma`` is no positive number, or another value is unknown.
    """

    sigma: float = 6.0
    dispersion: Dispersion = "std"
    scope: Scope = "model"
    deviation: Deviation = "absolute"

    def __post_init__(self) -> None:
        sigma = self.sigma
        if (
            isinstance(sigma, bool)
            or not isinstance(sigma, _NUMBERS)
            or not (math.isfinite(sigma) and sigma > 0)
        ):
            raise OptionError(f"sigma must be a positive number, got {sigma!r} (the paper uses 3, 6 and 12)")
        for name, choices in (("dispersion", Dispersion), ("scope", Scope), ("deviation", Deviation)):
            value, (first, second) = getattr(self, name), get_args(choices)
            if value not in (first, second):
                raise OptionError(f"{name} must be {first!r} or {second!r}, got {value!r}")

    def locate(
        self, scores: Float[np.ndarray, "sets layers neurons"]
    ) -> Bool[np.ndarray, "sets layers neurons"]:
        """The neurons that pass, for many sets of scores at once.

        Raises:
            OptionError: the scores are not finite.
        """
        sets, layers, neurons = scores.shape
        rows = scores.reshape(sets * layers, neurons) if self.scope == "layer" else scores.reshape(sets, -1)
        return self._passing(rows).reshape(scores.shape)

    def _passing(self, rows: np.ndarray) -> np.ndarray:
        """Eq. (8) on each row, with its own mean and dispersion."""
        if not np.isfinite(rows).all():
            raise OptionError(
                "scores are not finite, so nothing can be located; check the model's weights and dtype"
            )
        centred = rows - rows.mean(1, keepdims=True)
        centred[rows.min(1) == rows.max(1)] = 0  # the mean of equal numbers may differ from them by rounding
        size = np.abs(centred)
        absolute = self.deviation == "absolute"
        if self.dispersion == "variance":
            return (size if absolute else centred) > self.sigma * (size**2).mean(1, keepdims=True)
        largest = size.max(1, keepdims=True)
        # squares of tiny or huge scores would leave the range of floats
        unit = np.where(largest > 0, largest, 1)
        size /= unit
        passing = size if absolute else centred / unit
        return passing > self.sigma * np.sqrt((size**2).mean(1, keepdims=True))


def located(
    values: Float[Tensor, "layers neurons"],
    sigma: float,
    dispersion: Dispersion = "std",
    scope: Scope = "model",
    deviation: Deviation = "absolute",
) -> Bool[Tensor, "layers neurons"]:
    """Eq. (8) on one set of scores; see ``Threshold``."""
    threshold = Threshold(sigma, dispersion, scope, deviation)
    return torch.from_numpy(threshold.locate(values[None].double().numpy(force=True))[0]).to(values.device)
