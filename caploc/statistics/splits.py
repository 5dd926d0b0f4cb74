"""Splits and resamples of what a mask is located from: a dataset's shards, or single samples.

Masks are located anew on every subset; the caller says how (`Shards.locate`). Splits of one dataset share its shards:
they are no independent repetitions, and a test over them rejects ever more often the more of them are drawn. An
interval over splits describes the splits; what is independent is the shards, which `exchange_p` deals out anew and the
bootstraps draw with replacement. A bootstrap sample holds fewer distinct shards than the whole, so that its masks are
noisier and share less.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from caploc.statistics.permutation import rank_p
from caploc.statistics.sets import Agreement, agreement
from caploc.streams import Stream, stream

EXCHANGES = 999
"""A family of 22 cells at level .05 needs at least 439, or Holm's correction could not be survived by any effect."""

SMALLEST_HALF = 4
"""Shards in a half of the smallest subsample."""

Subsets = Sequence[np.ndarray]
"""The numbers of the shards in each subset; one that is drawn twice counts twice."""


@dataclass(frozen=True)
class Shards:
    """So many shards of a dataset, and how to ``locate`` masks ``[subsets, layers, neurons]`` on subsets of them."""

    count: int
    locate: Callable[[Subsets], np.ndarray]

    def overlap(self, first: Subsets, second: Subsets) -> np.ndarray:
        """``[subsets]`` eq. (9)'s overlap of the masks of ``first[i]`` and ``second[i]``."""
        return agreement(self.locate(first), self.locate(second)).overlap


def resampled(generator: np.random.Generator, shards: np.ndarray) -> np.ndarray:
    """A bootstrap sample of ``shards``: as many, with replacement."""
    return generator.choice(shards, len(shards))


def random_halves(generator: np.random.Generator, shards: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint halves of ``range(shards)``; an odd one out goes to the second."""
    order = generator.permutation(shards)
    return order[: shards // 2], order[shards // 2 :]


def draw_halves(shards: int, draws: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """``draws`` random splits of so many shards into two disjoint halves."""
    generator = stream(Stream.HALVES, seed)
    split = [random_halves(generator, shards) for _ in range(draws)]
    return [first for first, _ in split], [second for _, second in split]


def half_split(shards: Shards, draws: int, seed: int) -> Agreement:
    """The paper's measurement, over many random splits instead of one."""
    first, second = draw_halves(shards.count, draws, seed)
    return agreement(shards.locate(first), shards.locate(second))


def across(a: Shards, b: Shards, draws: int, seed: int) -> Agreement:
    """A random half of ``a`` against a random half of ``b``: what `half_split` must be compared with."""
    return agreement(
        a.locate(draw_halves(a.count, draws, seed)[0]), b.locate(draw_halves(b.count, draws, seed)[1])
    )


def exchange_p(pooled: Shards, first: int, seed: int) -> tuple[float, float]:
    """Permutation test of "the two datasets' shards are exchangeable", for each of them; statistic: overlap within the
    dataset minus overlap between the two.

    ``pooled`` are the shards of both, those of the ``first`` dataset before the others. They are dealt out again,
    ``EXCHANGES`` times; the observed deal is treated alike. p is nan where the observed statistic is undefined; deals
    without one are left out.
    """
    generator = stream(Stream.EXCHANGED_SHARDS, seed)
    deals = [np.arange(pooled.count)] + [generator.permutation(pooled.count) for _ in range(EXCHANGES)]
    # Each deal's two sets are halved in their order: shards are in a seeded random order already.
    cuts = [0, first // 2, first, first + (pooled.count - first) // 2, pooled.count]
    halves = [pooled.locate([deal[low:high] for deal in deals]) for low, high in itertools.pairwise(cuts)]
    between = agreement(halves[0], halves[2]).overlap
    within = (agreement(*halves[:2]).overlap, agreement(*halves[2:]).overlap)
    one, other = (rank_p(overlap - between) for overlap in within)
    return one, other


def partition_gap(
    shards: Shards, structured: tuple[np.ndarray, np.ndarray], draws: int, seed: int
) -> np.ndarray:
    """``[draws]`` the overlap of random halves minus that of two ``structured`` ones, both bootstrapped within their
    halves, which stay disjoint."""
    generator = stream(Stream.PARTITION_GAP, seed)
    first, second = draw_halves(shards.count, draws, seed + 1)

    def overlaps(firsts: Subsets, seconds: Subsets) -> np.ndarray:
        a = shards.locate([resampled(generator, half) for half in firsts])
        b = shards.locate([resampled(generator, half) for half in seconds])
        return agreement(a, b).overlap

    return overlaps(first, second) - overlaps([structured[0]] * draws, [structured[1]] * draws)


def nested_overlaps(shards: Shards, orders: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Half-split overlap of nested subsamples that double, in so many random orders: their sizes in shards ``[S]``, and
    the overlap of each one's halves ``[orders, S]``.

    Shards of odd and even place make the halves, so that a subsample's halves contain the smaller one's.
    """
    generator = stream(Stream.CONVERGENCE, seed)
    ordered = [generator.permutation(shards.count) for _ in range(orders)]
    counts = [shards.count]
    while counts[0] // 2 >= 2 * SMALLEST_HALF:
        counts.insert(0, counts[0] // 2)
    columns = [
        shards.overlap([order[:count:2] for order in ordered], [order[1:count:2] for order in ordered])
        for count in counts
    ]
    return np.array(counts), np.stack(columns, axis=1)


def subset_overlaps(shards: Shards, share: float, draws: int, seed: int) -> np.ndarray:
    """``[draws]`` overlap of a random ``share`` of the shards with the disjoint rest."""
    generator = stream(Stream.SUBSETS, seed)
    size = max(1, round(share * shards.count))
    orders = [generator.permutation(shards.count) for _ in range(draws)]
    return shards.overlap([order[:size] for order in orders], [order[size:] for order in orders])


def resampled_masks(shards: Shards, draws: int, generator: np.random.Generator) -> np.ndarray:
    """``[1 + draws, layers, neurons]`` the mask of all shards, then of bootstrap samples of them."""
    everything = np.arange(shards.count)
    return shards.locate([everything] + [resampled(generator, everything) for _ in range(draws)])


def resampled_pair_overlaps(
    datasets: Sequence[Shards], resamples: int, seed: int, at_once: int = 100
) -> np.ndarray:
    """``[pairs, resamples]`` overlap of every two of the datasets on bootstrap samples of their shards; masks of
    ``at_once`` resamples are in memory together."""
    generator = stream(Stream.DATASET_PAIRS, seed)
    blocks = []
    for begin in range(0, resamples, at_once):
        count = min(at_once, resamples - begin)
        located = [
            one.locate([resampled(generator, np.arange(one.count)) for _ in range(count)]) for one in datasets
        ]
        blocks.append(pair_overlaps(located))
    return np.concatenate(blocks, 1)


def pair_overlaps(located: Sequence[np.ndarray]) -> np.ndarray:
    """``[pairs, draws]`` overlap of every two of several datasets' masks ``[draws, layers, neurons]``."""
    return np.stack([agreement(a, b).overlap for a, b in itertools.combinations(located, 2)])


def sample_halves(samples: int, draws: int, seed: int) -> Bool[np.ndarray, "draws samples"]:
    """Whether each sample is in the first half, in random splits."""
    return _first_halves(stream(Stream.SAMPLE_HALVES, seed), samples, draws)


def weighted_halves(
    samples: int, draws: int, seed: int
) -> tuple[Float[np.ndarray, "draws samples"], Bool[np.ndarray, "draws samples"]]:
    """The weights of samples in resamples of a Bayesian bootstrap (Rubin 1981), up to a factor a row, and one random
    split of each, so that no sample stands in both halves, as one drawn twice in the ordinary bootstrap would."""
    generator = stream(Stream.SAMPLE_WEIGHTS, seed)
    weights = generator.standard_exponential((draws, samples))
    return weights, _first_halves(generator, samples, draws)


def random_sides(facts: int, draws: int, seed: int) -> np.ndarray:
    """``[draws, facts]`` 0 or 1, as many of each as can be."""
    generator = stream(Stream.FACT_HALVES, seed)
    return np.stack([generator.permutation(facts) % 2 for _ in range(draws)])


def subset_curve(
    count: int, sizes: Sequence[int], statistic: Callable[[np.ndarray], float], draws: int, seed: int
) -> dict[str, list[float]]:
    """``statistic`` of random choices, bool ``[count]``, of each of so many: ``x`` the sizes, ``mean``, and ``low`` and
    ``high``, which hold the central 95 % of choices."""
    generator = stream(Stream.CHOSEN_PROMPTS, seed)
    curve: dict[str, list[float]] = {"x": [float(size) for size in sizes], "mean": [], "low": [], "high": []}
    for size in sizes:
        found = []
        for _ in range(draws if size < count else 1):
            chosen = np.zeros(count, bool)
            chosen[generator.permutation(count)[:size]] = True
            found.append(statistic(chosen))
        low, high = np.quantile(found, [0.025, 0.975])
        for name, value in (("mean", np.mean(found)), ("low", low), ("high", high)):
            curve[name].append(float(value))
    return curve


def _first_halves(generator: np.random.Generator, samples: int, draws: int) -> np.ndarray:
    first = np.zeros((draws, samples), dtype=bool)
    for row in first:
        row[random_halves(generator, samples)[0]] = True
    return first
