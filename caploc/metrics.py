"""Locations, how much two of them agree, and how much they would by chance (eq. 9).

The functions take a bool tensor or array [layers, neurons] (or of any shape), an object whose `values` is one, such as
every `Location`, or a Python set. Both operands are masks of one shape, or both are Python sets. Results are
fractions; one that is undefined, such as the overlap with an empty set, is nan.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Set
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caploc.errors import OptionError

if TYPE_CHECKING:
    from caploc.model.loading import LanguageModel


class HasValues(Protocol):
    """A located set that keeps its members as a bool tensor, such as `caploc.neurons.NeuronMask`."""

    @property
    def values(self) -> Tensor: ...


class Places:
    """What every kind of location inherits: its size, and how it compares with another of its kind in one model."""

    @property
    def count(self: HasValues) -> int:
        """How many places are in the set."""
        return int(self.values.sum())

    @property
    def ratio(self: HasValues) -> float:
        """The share of all places; for neurons the paper's *neuron* ratio (eq. 9). A fraction."""
        return int(self.values.sum()) / self.values.numel()

    def overlap(self: HasValues, other: HasValues) -> float:
        """`caploc.overlap` with ``other``."""
        return overlap(self, other)

    def iou(self: HasValues, other: HasValues) -> float:
        """`caploc.iou` with ``other``."""
        return iou(self, other)


@runtime_checkable
class Location(Protocol):
    """What a method located in a model: a set of neurons, of layers, or of edges.

    ``NeuronMask``, ``LayerSet`` and ``Circuit`` are the three; one of your own derives from ``Places``, which brings
    ``count``, ``ratio``, ``overlap`` and ``iou``, and adds the rest.
    """

    unit: ClassVar[str]
    """What the places are called, in the plural: "neurons"."""

    @property
    def values(self) -> Bool[Tensor, "*places"]:
        """True where a place belongs to the set."""

    @property
    def count(self) -> int:
        """How many places are in the set."""

    @property
    def ratio(self) -> float:
        """The share of all places, a fraction."""

    def overlap(self, other: HasValues) -> float:
        """The mean of what the two share of each (eq. 9); nan if either is empty."""

    def iou(self, other: HasValues) -> float:
        """Intersection over union (eq. 9); nan if both are empty."""

    def parameter_share(self, lm: LanguageModel) -> float:
        """The places' own weights as a fraction of all of the model's parameters."""

    def random_like(self, seed: int) -> Self:
        """A random set of the same size in the same model; of neurons, as many in every layer."""

    @property
    def strata(self) -> Int[np.ndarray, " places"]:
        """For each place, in the order of ``values.flatten()``, the group within which chance places it: its layer; all
        0 where any place can take any other's."""

    @property
    def votes(self) -> Float[np.ndarray, "layers neurons"] | Float[np.ndarray, " layers"]:
        """How strongly it points at each neuron or, where its places are no neurons, at each layer's MLP: what is
        averaged over examples where methods must name equally many neurons."""

    def to_arrays(self) -> dict[str, np.ndarray]:
        """What a store keeps of it."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Back from ``to_arrays``."""


Located = Tensor | np.ndarray | HasValues | Set[Hashable]


def overlap(a: Located, b: Located) -> float:
    """The mean of |a & b| / |a| and |a & b| / |b| (eq. 9); nan if either set is empty.

    Raises `OptionError` for operands that cannot be compared.
    """
    size_a, size_b, common = _sizes(a, b)
    return (common / size_a + common / size_b) / 2 if size_a and size_b else math.nan


def iou(a: Located, b: Located) -> float:
    """|a & b| / |a | b| (eq. 9); nan if both sets are empty.

    Raises `OptionError` for operands that cannot be compared.
    """
    size_a, size_b, common = _sizes(a, b)
    union = size_a + size_b - common
    return common / union if union else math.nan


def neuron_ratio(mask: Tensor | np.ndarray | HasValues) -> float:
    """The located share of all neurons, "neuron" in eq. (9) and Table 1; nan for a mask without any place.

    Raises `OptionError` for anything but a bool mask: a Python set does not know how many neurons there are.
    """
    members = _tensor(mask)
    if members is None:
        raise OptionError(
            f"neuron_ratio needs a bool mask, got {type(mask).__name__}; a set does not say how many neurons "
            "there are"
        )
    return int(members.sum()) / members.numel() if members.numel() else math.nan


def chance_overlap(a: Located, b: Located, by_layer: bool = False, universe: int | None = None) -> float:
    """The expected `overlap` of random sets as large as `a` and `b`; nan if either is empty.

    Placed uniformly among N places, independently, they are expected to share |a| |b| / N members, so the
    expected overlap is

        (|a| + |b|) / (2 N)

    With `by_layer`, layer l of n places keeps its own counts a_l and b_l (row l of a mask), and the expected
    overlap is

        (1/|a| + 1/|b|) / 2  *  sum_l a_l b_l / n

    which is larger where both sets gather in the same layers. Python sets need `universe`, the number N of
    places they are drawn from. `test_chance_is_what_random_placement_gives` checks both by random draws.

    Raises `OptionError` for operands that cannot be compared, a `universe` smaller than their union or given
    with masks, and `by_layer` without layers.
    """
    size_a, size_b, common = _sizes(a, b)
    if by_layer:
        expected = _chance_by_layer(a, b)
    else:
        expected = size_a * size_b / max(_places(a, universe, size_a + size_b - common), 1)
    return (1 / size_a + 1 / size_b) / 2 * expected if size_a and size_b else math.nan


def _chance_by_layer(a: Located, b: Located) -> float:
    members_a, members_b = _tensor(a), _tensor(b)
    if members_a is None or members_b is None or members_a.dim() != 2:
        raise OptionError(
            "by_layer needs masks [layers, neurons]; leave it out for others and for Python sets"
        )
    counts_a, counts_b = (members.sum(1, dtype=torch.float64).cpu() for members in (members_a, members_b))
    return float(counts_a @ counts_b) / max(members_a.shape[1], 1)


def _places(a: Located, universe: int | None, union: int) -> int:
    members = _tensor(a)
    if members is not None and universe is None:
        return members.numel()
    if members is not None:
        raise OptionError("universe is for Python sets; a mask knows its number of places")
    if universe is None or universe < union:
        raise OptionError(
            "chance_overlap of Python sets needs universe, the number of places they are drawn from, of at "
            f"least {union}; got {universe}"
        )
    return universe


def _sizes(a: Located, b: Located) -> tuple[int, int, int]:
    """|a|, |b|, |a & b|."""
    if isinstance(a, Set) and isinstance(b, Set):
        return len(a), len(b), len(a & b)
    members_a, members_b = _tensor(a), _tensor(b)
    if members_a is None or members_b is None:
        raise OptionError(
            f"cannot compare {type(a).__name__} with {type(b).__name__}: give two bool masks or two sets"
        )
    if members_a.shape != members_b.shape:
        raise OptionError(
            f"cannot compare masks of shapes {tuple(members_a.shape)} and {tuple(members_b.shape)}: "
            "locate both in one model"
        )
    common = members_a & members_b.to(members_a.device)
    return int(members_a.sum()), int(members_b.sum()), int(common.sum())


def _tensor(located: Any) -> Tensor | None:
    """The bool tensor of a mask; None for what is none."""
    members = located
    if not isinstance(located, Tensor | np.ndarray):
        members = getattr(located, "values", None)
    if not isinstance(members, Tensor | np.ndarray):
        return None
    if members.dtype not in (torch.bool, np.bool_):
        raise OptionError(f"a mask must be of type bool, got {members.dtype}; threshold the scores first")
    return members if isinstance(members, Tensor) else torch.from_numpy(members)
