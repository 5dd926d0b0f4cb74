"""Attribute examples shard by shard through the store, so that runs resume and processes share the work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from caploc.attribution.engine import Attributor, Method, describe
from caploc.attribution.sums import ScoreSums
from caploc.examples import TokenizedExample
from caploc.models import LanguageModel
from caploc.rows.sizing import automatic_chunk
from caploc.store import Store, fingerprint

# Part of every key: raise it when a change of the engine changes numbers by more than rounding.
CODE_VERSION = 1
# Splits, curves and partitions recombine shards, so there must be many; each is a file of two float64 per neuron.
MOST_SHARDS = 128


@dataclass(frozen=True, eq=False)
class ShardSums:
    """The scores of one set of examples, in K shards.

    ``totals [K, layers * neurons]`` float64 sums of scores, ``counts [K]`` examples in each, ``members`` the indices of
    each shard's examples. ``whole`` is the sum over all.
    """

    totals: np.ndarray
    counts: np.ndarray
    members: tuple[tuple[int, ...], ...]
    whole: ScoreSums

    @property
    def layers(self) -> int:
        return self.whole.total.shape[0]

    @property
    def neurons(self) -> int:
        """Neurons per layer."""
        return self.whole.total.shape[1]


def shard_size(examples: int) -> int:
    """Examples in a shard: one where that keeps the shards at ``MOST_SHARDS`` or fewer."""
    return max(1, math.ceil(examples / MOST_SHARDS))


def sharded_sums(
    lm: LanguageModel,
    examples: Sequence[TokenizedExample],
    method: Method,
    store: Store,
    progress: bool = True,
) -> ShardSums:
    """Sums of ``examples``' scores per shard of neighbours, from the store where they are there already.

    A shard's key hashes the model's weights and configuration, the tokens, the method, dtype and device type, so that
    nothing else can be taken for it. Shards are merged in their order: the result does not depend on who computed
    which.
    """
    size = shard_size(len(examples))
    members = tuple(
        tuple(range(begin, min(begin + size, len(examples)))) for begin in range(0, len(examples), size)
    )
    lazy = _LazyAttributor(lm, method)
    tasks = []
    for shard in members:
        chosen = [examples[index] for index in shard]
        tasks.append((_key(lm, chosen, method), lambda chosen=chosen: lazy.compute(chosen)))
    chunk = method.chunk_tokens or automatic_chunk(lm)
    title = describe(lm, examples, method, chunk) if progress else None
    with lazy:
        parts = [ScoreSums.from_arrays(entry.arrays) for entry in store.compute_all(tasks, progress=title)]
    return ShardSums(
        np.stack([part.total.ravel() for part in parts]),
        np.array([part.count for part in parts]),
        members,
        ScoreSums.merge(parts),
    )


def _key(lm: LanguageModel, examples: Sequence[TokenizedExample], method: Method) -> str:
    return fingerprint(
        {
            "what": "score sums",
            "code": CODE_VERSION,
            "model": lm.fingerprint,
            "dtype": str(lm.dtype),
            "device": lm.device.type,
            "method": method.settings,
            "examples": [example.content for example in examples],
        }
    )


class _LazyAttributor:
    """Makes the model ready at the first missing shard: a warm run touches no weight."""

    def __init__(self, lm: LanguageModel, method: Method) -> None:
        self._lm, self._method = lm, method
        self._stack = ExitStack()
        self._attributor: Attributor | None = None

    def __enter__(self) -> _LazyAttributor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def compute(
        self, examples: Sequence[TokenizedExample]
    ) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
        if self._attributor is None:
            self._attributor = self._stack.enter_context(Attributor(self._lm, self._method))
        sums = self._attributor.sums(examples)
        return sums.arrays(), {"examples": [example.id for example in examples]}


def resampled(generator: np.random.Generator, shards: np.ndarray) -> np.ndarray:
    """A bootstrap sample of ``shards``: as many, with replacement."""
    return generator.choice(shards, len(shards))


def random_halves(generator: np.random.Generator, shards: int) -> Iterator[np.ndarray]:
    """Two disjoint halves of ``range(shards)``; an odd one out goes to the second."""
    order = generator.permutation(shards)
    yield order[: shards // 2]
    yield order[shards // 2 :]
