"""Splits and resamples of what a mask is located from: a dataset's shards, or single samples.

Masks are located anew on every subset; the caller says how (`Shards.locate`). Splits of one dataset share its shards:
they are no independent repetitions, and a test over them rejects ever more often the more of them are drawn. An
interval over splits describes the splits; what is independent is the shards, which `exchange_p` deals out anew and
`Bootstrapped` draws anew. (In a bootstrap sample the halves of a split may hold the same shard, as two examples that
are alike: it says how much an overlap varies, but not round which value. A jackknife, which leaves out groups of
shards, has an error of 1.6 times the true one: which neurons pass is no smooth function of the examples.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from caploc.statistics.intervals import Interval, defined_mean
from caploc.statistics.permutation import rank_p
from caploc.statistics.sets import Agreement, agreement
from caploc.streams import Stream, stream

EXCHANGES = 999
"""A family of 22 cells at level .05 needs at least 439, or Holm's correction could not be survived by any effect."""

SMALLEST_HALF = 4
"""Shards in a half of the smallest subsample."""

BOOTSTRAPS = 40
"""Bootstrap samples: a standard error from so many is itself uncertain by a ninth, which Student's t allows for."""

SPLITS_EACH = 10
"""Splits of each bootstrap sample. What single splits do counts as what examples do: of ten, a tenth of the error."""

FEWEST_SHARDS = 16
"""For a bootstrap: as many as the fewest samples that are located with."""

MOST_UNDEFINED = 0.1
"""Share of the bootstrap samples in which a statistic may be undefined, for its error to be told."""

ROOT = -0.5
"""The slope of 1 - overlap that falls with the standard error of scores."""

FITTED_SIZES = 3
"""Sizes, each twice the one before, through which the curve of overlap is drawn. Smaller ones lie off a power law."""

LEAST_DISAGREEMENT = 1e-3
"""An overlap of 1 has no logarithm of what is missing; a neuron in a thousand is less than any mask resolves."""

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


def half_split(shards: Shards, draws: int, seed: int) -> Resplit:
    """The paper's measurement, over many random splits instead of one."""
    first, second = draw_halves(shards.count, draws, seed)
    return resplit(shards, first, shards, second, seed)


def across(a: Shards, b: Shards, draws: int, seed: int) -> Resplit:
    """A random half of ``a`` against a random half of ``b``: what `half_split` must be compared with."""
    first, second = draw_halves(a.count, draws, seed)[0], draw_halves(b.count, draws, seed)[1]
    return resplit(a, first, b, second, seed)


def exchange_p(pooled: Shards, first: int, seed: int) -> tuple[float, float]:
    """Permutation test of "the two datasets' shards are exchangeable", for each of them; statistic: overlap within the
    dataset minus overlap between the two.

    ``pooled`` are the shards of both, those of the ``first`` dataset before the others. They are dealt out again,
    ``EXCHANGES`` times; the observed deal is treated alike, halved at random as well: shards of one group follow each
    other, and halves of different groups would share less than those of any deal. p is nan where the observed statistic
    is undefined; deals without one are left out.
    """
    generator = stream(Stream.EXCHANGED_SHARDS, seed)
    dealt = [generator.permutation(pooled.count) for _ in range(EXCHANGES)]
    own, others = generator.permutation(first), generator.permutation(pooled.count - first)
    deals = [np.concatenate([own, first + others]), *dealt]
    cuts = [0, first // 2, first, first + (pooled.count - first) // 2, pooled.count]
    halves = [pooled.locate([deal[low:high] for deal in deals]) for low, high in itertools.pairwise(cuts)]
    between = agreement(halves[0], halves[2]).overlap
    within = (agreement(*halves[:2]).overlap, agreement(*halves[2:]).overlap)
    one, other = (rank_p(overlap - between) for overlap in within)
    return one, other


@dataclass(frozen=True, eq=False)
class Bootstrapped:
    """A statistic on all shards, and on bootstrap samples of them (Efron 1979), each split anew.

    What is made of samples of the same examples can be subtracted: the interval is then that of the paired difference.
    Of two datasets, the samples of one number are taken together; what their examples do is independent and adds up.

    ``value``; ``again [BOOTSTRAPS]``: nan where the statistic is undefined.
    """

    value: float
    again: np.ndarray

    def __sub__(self, other: Bootstrapped) -> Bootstrapped:
        return Bootstrapped(self.value - other.value, self.again - other.again)

    def mapped(self, function: Callable[[np.ndarray], np.ndarray]) -> Bootstrapped:
        """A function of the statistic."""
        return Bootstrapped(float(function(np.array(self.value))), function(self.again))

    @property
    def error(self) -> float:
        """The standard error over samples of examples; nan where the statistic is undefined in too many of them."""
        defined = self.again[np.isfinite(self.again)]
        if not len(defined) or len(defined) < (1 - MOST_UNDEFINED) * len(self.again):
            return float("nan")
        return float(defined.std(ddof=1))

    def interval(self, level: float = 0.95) -> Interval:
        """Round the value, with Student's t on one degree of freedom fewer than there are bootstrap samples."""
        reach = self.error * float(stats.t.ppf((1 + level) / 2, max(1, len(self.again) - 1)))
        return Interval(self.value - reach, self.value + reach, level, "bootstrap")

    @classmethod
    def mean(cls, parts: Sequence[Bootstrapped]) -> Bootstrapped:
        """The mean of several."""
        return cls(
            float(np.mean([one.value for one in parts])), np.mean([one.again for one in parts], axis=0)
        )


def bootstrap_samples(shards: int, seed: int) -> np.ndarray:
    """``[BOOTSTRAPS, shards]`` the shards in each sample, the same of every dataset of that size; none of fewer than
    `FEWEST_SHARDS`."""
    count = BOOTSTRAPS if shards >= FEWEST_SHARDS else 0
    return stream(Stream.SHARDS_AGAIN, seed).integers(shards, size=(count, shards))


@dataclass(frozen=True, eq=False)
class Resplit:
    """How the masks of pairs of subsets agree: of ``all`` shards, and ``again`` of each bootstrap sample of them."""

    all: Agreement
    again: Sequence[Agreement]

    def mean(self, quantity: str = "overlap", least: float = 0.5) -> Bootstrapped:
        """The mean over the pairs of subsets, nan where fewer than the share ``least`` of them are defined."""
        means = [defined_mean(getattr(one, quantity), least) for one in (self.all, *self.again)]
        return Bootstrapped(means[0], np.array(means[1:]))


def resplit(a: Shards, first: Subsets, b: Shards, second: Subsets, seed: int) -> Resplit:
    """The agreement of masks of ``a`` on ``first[i]`` and of ``b`` on ``second[i]``: places in the list of their
    shards, and in those of bootstrap samples, of which the first `SPLITS_EACH` splits are looked at."""
    samples, others = (bootstrap_samples(one.count, seed) for one in (a, b))
    count = min(len(samples), len(others))
    places, elsewhere = (np.stack(one[:SPLITS_EACH]) for one in (first, second))
    found = agreement(
        a.locate([*first, *samples[:count, places].reshape(-1, places.shape[1])]),
        b.locate([*second, *others[:count, elsewhere].reshape(-1, elsewhere.shape[1])]),
    )
    draws, each = len(first), len(places)
    again = [found.of(slice(begin, begin + each)) for begin in range(draws, draws + count * each, each)]
    return Resplit(found.of(slice(draws)), again)


def split_by(shards: Shards, rank: np.ndarray, seed: int) -> Resplit:
    """The agreement of the shards that come first in an order, ``rank [shards]``, with the others; bootstrap samples
    are ordered anew."""

    def halves(sample: np.ndarray) -> Agreement:
        ordered = sample[np.argsort(rank[sample], kind="stable")]
        first, second = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
        return agreement(shards.locate([first]), shards.locate([second]))

    return Resplit(
        halves(np.arange(shards.count)), [halves(one) for one in bootstrap_samples(shards.count, seed)]
    )


@dataclass(frozen=True, eq=False)
class Curve:
    """Agreement of two halves against the number of examples: ``sizes [S]``, each twice the one before, and what random
    orders give of each."""

    sizes: np.ndarray
    found: Sequence[Resplit]

    def gathered(self, quantity: str = "overlap") -> np.ndarray:
        """``[orders, S]`` of every order."""
        return np.stack([getattr(one.all, quantity) for one in self.found], axis=1)

    def at(self, size: float, quantity: str = "overlap", steepest: float = ROOT) -> Bootstrapped:
        """The mean ``quantity`` at ``size`` examples: measured at the largest of the sizes; beyond it, on the line of
        its distance from 1 through the last `FITTED_SIZES`, on logarithmic axes, at most as steep as ``steepest``.

        Where neurons have scores of their own, the masks of two halves disagree about those within a standard error of
        the threshold, so that the distance falls like a power of the number of examples, in the end its root (`ROOT`);
        before, where few neurons stand out, it may fall faster. Planted scores have their truth between the line that
        is held to the root and the line that is not. Where nothing stands out the line is level; one that would rise
        is held level.
        """
        if size <= self.sizes[-1]:
            return self.found[int(np.argmin(np.abs(self.sizes - size)))].mean(quantity)
        means = [one.mean(quantity) for one in self.found[-FITTED_SIZES:]]
        x = np.log(self.sizes[-FITTED_SIZES:])
        away = 1 - np.stack([[one.value, *one.again] for one in means], axis=1)  # [1 + bootstraps, sizes]
        y = np.log(np.maximum(away, LEAST_DISAGREEMENT))
        slope = (y * (x - x.mean())).sum(1) / max(((x - x.mean()) ** 2).sum(), 1e-12)
        slope = slope.clip(steepest, 0)
        there = 1 - np.exp(y.mean(1) + slope * (np.log(size) - x.mean()))
        return Bootstrapped(float(there[0]), there[1:])


def growing(shards: Shards, orders: int, seed: int) -> tuple[np.ndarray, list[Resplit]]:
    """Halves of nested subsamples that double, in so many random orders: their sizes in shards ``[S]``, and how each
    one's halves agree.

    Shards of odd and even place make the halves, so that a subsample's halves contain the smaller one's.
    """
    generator = stream(Stream.CONVERGENCE, seed)
    ordered = [generator.permutation(shards.count) for _ in range(orders)]
    counts = [shards.count]
    while counts[0] // 2 >= 2 * SMALLEST_HALF:
        counts.insert(0, counts[0] // 2)
    found = []
    for count in counts:
        first, second = ([order[begin:count:2] for order in ordered] for begin in (0, 1))
        found.append(resplit(shards, first, shards, second, seed))
    return np.array(counts), found


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
