"""How often something happened in a simulation, and how well that is known."""

from __future__ import annotations

from dataclasses import dataclass

from caploc.statistics import binomial_interval


@dataclass(frozen=True)
class Sizes:
    """How much is simulated: samples for coverage and power, samples for levels, sizes of samples, of proportions."""

    samples: int
    nulls: int
    units: tuple[int, ...]
    items: tuple[int, ...]


FULL = Sizes(samples=3000, nulls=10_000, units=(10, 30, 100), items=(10, 20, 40, 100))
QUICK = Sizes(samples=100, nulls=200, units=(10, 30), items=(10, 20))

ERROR_NOTE = "+- is the binomial error of the figure before it: half its exact 95 % interval, in points."


def percent(count: int, out_of: int) -> tuple[float, float]:
    """The share in per cent, and half the width of its exact 95 % interval in points."""
    return 100 * count / out_of, 50 * binomial_interval(count, out_of).width
