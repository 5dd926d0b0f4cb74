"""One class or two: Otsu's threshold, and what data with a single mode would give (Silverman's test)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from caploc.statistics.checks import StatisticsError, finite_array
from caploc.statistics.comparisons import Effect, effect_of_draws
from caploc.streams import Stream, stream

MODE_SAMPLES = 499


@dataclass(frozen=True)
class Split:
    """Values cut in two: those below ``threshold`` and the rest. ``eta2``: the share of the variance between them."""

    threshold: float
    eta2: float


def otsu(values: np.ndarray) -> Split:
    """Otsu's threshold: of all cuts between two values that of the largest variance between the sides (exact, without a
    histogram).

    It cuts any distribution: a Gaussian at its mean, where eta2 is 2 / pi. Raises `StatisticsError` where all values
    are equal.
    """
    ordered = np.sort(finite_array("values", values, at_least=2))
    if ordered[0] == ordered[-1]:
        raise StatisticsError(f"all values are {ordered[0]:g}: no threshold cuts them in two")
    n = len(ordered)
    below = np.arange(1, n)
    gap = np.cumsum(ordered)[:-1] / below - (ordered.sum() - np.cumsum(ordered)[:-1]) / (n - below)
    between = np.where(ordered[1:] > ordered[:-1], below * (n - below) / n**2 * gap**2, -1.0)
    cut = int(between.argmax())
    threshold = float((ordered[cut] + ordered[cut + 1]) / 2)
    return Split(threshold, float(min(1.0, between[cut] / ordered.var())))


@dataclass(frozen=True, eq=False)
class OneMode:
    """What data with one mode, as like the values as such data can be, give.

    Attributes:
        eta2: ``[samples]`` Otsu's eta2 of each sample.
        p_modes: of one mode: the share of samples that need as wide a kernel as the values to show one mode, of those
            with one mode (Silverman 1981) or of a uniform, the flattest density with one, whichever is larger.
    """

    eta2: np.ndarray
    p_modes: float

    def excess(self, eta2: float, units: int) -> Effect:
        """How far ``eta2`` lies above these, with the intervals that their own spread gives; p is the larger of its
        rank's among them and ``p_modes``."""
        rank = (1 + int((self.eta2 >= eta2).sum())) / (1 + len(self.eta2))
        return effect_of_draws(
            eta2 - float(self.eta2.mean()), eta2 - self.eta2, max(rank, self.p_modes), units
        )


def one_mode(values: np.ndarray, seed: int, samples: int = MODE_SAMPLES) -> OneMode:
    """Samples from the Gaussian kernel estimate of ``values`` whose bandwidth is the least that leaves one mode, shrunk
    to the variance of the values. Raises `StatisticsError` where all values are equal."""
    data = finite_array("values", values, at_least=2)
    spread = data.std()
    if spread == 0:
        raise StatisticsError(f"all values are {data[0]:g}: they have no spread that could have modes")
    width = critical_width(data)
    generator = stream(Stream.ONE_MODE, seed)
    drawn = generator.choice(data, (samples, len(data)))
    noise = width * generator.standard_normal(drawn.shape)
    drawn = data.mean() + (drawn - data.mean() + noise) / math.sqrt(1 + (width / spread) ** 2)
    # of a uniform, Silverman's test alone finds modes in one sample of ten at a level of 5 %
    uniform = generator.random(drawn.shape)
    uniform *= (spread / uniform.std(1))[:, None]
    several = max(sum(_modes(row, width) > 1 for row in rows) for rows in (drawn, uniform))
    return OneMode(np.array([otsu(row).eta2 for row in drawn]), (1 + several) / (1 + samples))


def critical_width(data: np.ndarray) -> float:
    """The least bandwidth at which the Gaussian kernel estimate of ``data`` has one mode, to 0.5 %: the number of modes
    falls as it grows (Silverman 1981)."""
    low, high = 0.0, float(data.std())
    while _modes(data, high) > 1:
        low, high = high, 2 * high
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _modes(data, middle) > 1 else (low, middle)
    return high


def _modes(data: np.ndarray, width: float, points: int = 256) -> int:
    """Maxima of the kernel estimate on a grid that reaches three widths beyond the data."""
    grid = np.linspace(data.min() - 3 * width, data.max() + 3 * width, points)
    density = np.exp(-0.5 * ((grid[:, None] - data) / width) ** 2).sum(1)
    rises = np.sign(np.diff(density))
    rises = rises[rises != 0]
    return int((np.diff(rises) < 0).sum())
