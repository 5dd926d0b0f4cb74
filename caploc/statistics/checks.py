"""What every statistic asks of its input: finite arrays, parameters that make sense, labels of clusters, and as
many random draws as a small p value takes."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Sequence, Sized
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from caploc.errors import CaplocError


class StatisticsError(CaplocError):
    """A sample or a parameter for which the statistic is not defined."""


def finite_array(name: str, values: ArrayLike, dimensions: int = 1, at_least: int = 1) -> np.ndarray:
    """`values` as float64 of that many dimensions, with at least so many rows, all finite, or `StatisticsError`."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StatisticsError(f"{name} is not an array of numbers: {error}") from error
    if array.ndim != dimensions:
        raise StatisticsError(f"{name} has shape {array.shape}: expected {dimensions} dimension(s)")
    if array.shape[0] < at_least or array.size == 0:
        raise StatisticsError(f"{name} has shape {array.shape}: at least {at_least} value(s) are needed")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        place = ", ".join(str(index) for index in bad[0])
        raise StatisticsError(
            f"{name}[{place}] is {array[tuple(bad[0])]}: remove or explain undefined values before testing"
        )
    return array


def truth_array(name: str, values: ArrayLike) -> np.ndarray:
    """`values` [n] of true and false, or 1 and 0, as booleans."""
    array = finite_array(name, values)
    other = np.flatnonzero((array != 0) & (array != 1))
    if other.size:
        raise StatisticsError(f"{name}[{other[0]}] is {array[other[0]]:g}: it must be true or false, 1 or 0")
    return array == 1


def finite_number(name: str, value: float) -> float:
    """A number that is neither nan nor infinite."""
    number = float(value)
    if not math.isfinite(number):
        raise StatisticsError(f"{name} is {number}: it must be finite")
    return number


def fraction(name: str, value: float) -> float:
    """A number strictly between 0 and 1."""
    if not 0 < value < 1:
        raise StatisticsError(f"{name} is {value}: it must lie strictly between 0 and 1")
    return float(value)


def whole_number(name: str, value: int, at_least: int, at_most: int | None = None) -> int:
    """A whole number within bounds, both included."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise StatisticsError(f"{name} is {value!r}: it must be a whole number") from error
    if number < at_least or (at_most is not None and number > at_most):
        limit = f"at least {at_least}" if at_most is None else f"between {at_least} and {at_most}"
        raise StatisticsError(f"{name} is {number}: it must be {limit}")
    return number


def one_of(name: str, value: str, allowed: Collection[str]) -> str:
    """One of the allowed names."""
    if value not in allowed:
        raise StatisticsError(f"{name} is {value!r}: choose one of {', '.join(allowed)}")
    return value


Clusters = Sequence[object] | np.ndarray
"""A label per row; rows of one label form a cluster. Labels are anything that can be a key of a dict, but nan."""


def cluster_codes(rows: int, clusters: Clusters | None, name: str = "clusters") -> np.ndarray:
    """The number of each row's cluster [rows], in order of first appearance; without labels every row is its own."""
    if clusters is None:
        return np.arange(rows)
    labels = clusters.tolist() if isinstance(clusters, np.ndarray) else clusters
    if not isinstance(labels, Sequence) or len(labels) != rows:
        given = f"{len(labels)} labels" if isinstance(labels, Sized) else "no labels"
        raise StatisticsError(f"{name} has {given} for {rows} samples: give one per sample")
    numbers: dict[object, int] = {}
    codes = np.empty(rows, dtype=np.intp)
    for row, label in enumerate(labels):
        if label is None or label != label:
            raise StatisticsError(
                f"{name}[{row}] is {label}: label every sample, a lone one by a name of its own"
            )
        try:
            codes[row] = numbers.setdefault(label, len(numbers))
        except TypeError as error:
            raise StatisticsError(f"{name}[{row}] is no label: {error}") from error
    return codes


def cluster_rows(rows: int, clusters: Clusters) -> list[np.ndarray]:
    """The row numbers of each cluster, in order of first appearance."""
    codes = cluster_codes(rows, clusters)
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])


def minimum_draws(level: float, comparisons: int = 1) -> int:
    """The fewest random draws m with which the smallest p, 1 / (1 + m), can stay at or below `level` after Holm.

    Holm multiplies the smallest of `comparisons` p values by their number. For two-sided p values, whose smallest is
    2 / (1 + m), double the comparisons. Raises `StatisticsError`.
    """
    level = fraction("level", level)
    whole_number("comparisons", comparisons, at_least=1)
    # exact in the decimals the user wrote, so that level 0.05 gives 19 and not 20
    draws = math.ceil(comparisons / Fraction(str(level))) - 1
    while comparisons * (1 / (1 + draws)) > level:
        draws += 1
    return max(1, draws)


def draws_for(asked: int, level: float, comparisons: int, usual: int = 100) -> int:
    """How many random draws to make where ``asked`` for: as many more as it takes for the smallest rank p to lie below
    ``level`` after `holm` over so many comparisons; fewer than the ``usual`` number are taken as they were asked for.
    """
    return asked if asked < usual else max(asked, 1 + minimum_draws(level, comparisons))


def few_draws(draws: int, level: float, comparisons: int) -> list[str]:
    """Says, where so few draws cannot bring a rank p below ``level`` after `holm`, how many can."""
    needed = 1 + minimum_draws(level, comparisons)
    if draws >= needed:
        return []
    over = f", Holm-corrected over {comparisons} datasets," if comparisons > 1 else ""
    return [
        f"SUPPORTED is out of reach: with {draws} random sets no p{over} lies below {level:g}; give --draws {needed}"
    ]
