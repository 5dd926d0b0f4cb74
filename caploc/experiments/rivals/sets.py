"""Sets of equal size by every method, from means over the same samples.

CNL cuts by eq. (8), and as many neurons as pass are what every other method may name: KN those of the highest scores,
plain magnitude the largest ones. Layers and circuits name layers, not neurons; they get the largest neurons of their
best layer, and where it has too few, those of the next.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from caploc.experiments.rivals.samples import Samples
from caploc.neurons import Threshold

CNL, KN, LAYERS, CIRCUITS, MAGNITUDE = "CNL", "KN", "layers", "circuits", "magnitude"
RIVALS = (KN, LAYERS, CIRCUITS)
"""Those that the claim is about; plain magnitude stands beside."""

Sets = Mapping[str, Bool[np.ndarray, "rows layers neurons"]]


def located(samples: Samples, weights: Float[np.ndarray, "rows samples"], threshold: Threshold) -> Sets:
    """What each method locates by means with the ``weights`` of a row; without circuits where the family cannot be
    taken apart. All sets of a row are of one size, that of CNL's."""
    normal = weights / weights.sum(1, keepdims=True)

    def mean(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = normal @ values.reshape(len(values), -1)
        return found.reshape(-1, *values.shape[1:])

    found = {CNL: threshold.locate(mean(samples.commonality))}
    counts, sizes = found[CNL].sum((1, 2)), mean(samples.magnitude)
    found[KN] = _largest(mean(samples.knowledge), counts)
    found[LAYERS] = _largest_in_best(sizes, mean(samples.restored), counts)
    if samples.edges is not None and samples.at is not None:
        found[CIRCUITS] = _largest_in_best(sizes, node_strength(mean(samples.edges), samples.at), counts)
    found[MAGNITUDE] = _largest(sizes, counts)
    return found


def node_strength(
    edges: Float[np.ndarray, "rows edges"], at: Bool[np.ndarray, "edges layers"]
) -> Float[np.ndarray, "rows layers"]:
    """How much each layer's MLP matters: its edges' |score|, summed."""
    return np.abs(edges) @ at.astype(np.float64)


def _largest(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """In each row the ``counts [rows]`` largest of all layers' values, as a mask."""
    flat = values.reshape(len(values), -1)
    chosen = np.zeros(flat.shape, dtype=bool)
    for row, count in enumerate(counts):
        if count:
            chosen[row, np.argpartition(flat[row], -count)[-count:]] = True
    return chosen.reshape(values.shape)


def _largest_in_best(sizes: np.ndarray, layers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """In each row the ``counts [rows]`` largest of ``sizes [rows, layers, neurons]``, layer by layer, those of the
    highest ``layers [rows, layers]`` first; of equal layers the lower."""
    chosen = np.zeros(sizes.shape, dtype=bool)
    order = np.argsort(-layers, axis=1, kind="stable")
    for row, count in enumerate(counts):
        left = int(count)
        for layer in order[row]:
            take = min(left, sizes.shape[2])
            if not take:
                break
            chosen[row, layer, np.argpartition(sizes[row, layer], -take)[-take:]] = True
            left -= take
    return chosen
