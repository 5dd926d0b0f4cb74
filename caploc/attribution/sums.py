"""Sums of scores over some examples: what shards store and what halves, curves and splits are recombined from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from caploc.neurons import NeuronScores


@dataclass(eq=False)
class ScoreSums:
    """float64 sums over ``count`` examples; fields as in ``NeuronScores``, which is their mean.

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
