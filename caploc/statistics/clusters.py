"""Samples that depend on each other, such as the paraphrases of one fact: clusters, moved only as a whole."""

from __future__ import annotations

from collections.abc import Sequence, Sized

import numpy as np

from caploc.statistics.checks import StatisticsError

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
