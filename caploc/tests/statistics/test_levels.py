"""Tests of sets, arms and matrices keep their level: each is fed with its own null hypothesis, simulated.

A function takes a generator and gives one p value under the null that its docstring names, as those of the benchmark
"statistics" do, so that it can join them as it is. Rates are compared through their exact binomial intervals of 99.9 %.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from caploc import statistics
from caploc.statistics import sets, splits, trends

LEVEL = 0.05
RUNS = 400

Simulation = Callable[[np.random.Generator], float]


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _shards(scores: np.ndarray) -> statistics.Shards:
    """Shards ``[shards, neurons]`` of which the 8 highest mean scores are located."""

    def locate(chosen: Sequence[np.ndarray]) -> np.ndarray:
        means = np.stack([scores[subset].mean(0) for subset in chosen])
        return (means >= np.sort(means, 1)[:, -8, None])[:, None]

    return statistics.Shards(len(scores), locate)


def shards_of_one_kind(rng: np.random.Generator) -> float:
    """Two datasets of 8 shards, one distribution."""
    scores = rng.normal(size=40) + rng.normal(size=(16, 40))
    return statistics.exchange_p(_shards(scores), 8, _seed(rng))[0]


def shards_of_one_kind_second(rng: np.random.Generator) -> float:
    """Datasets of 6 and 9 shards, one distribution, p of the second."""
    scores = rng.normal(size=40) + rng.normal(size=(15, 40))
    return statistics.exchange_p(_shards(scores), 6, _seed(rng))[1]


def _random_masks(rng: np.random.Generator, counts: Sequence[int], neurons: int) -> np.ndarray:
    return np.stack([rng.permutation(neurons) < count for count in counts])


def masks_placed_at_random(rng: np.random.Generator) -> float:
    """Two masks of unlike counts in 3 layers of 60."""
    a, b = (_random_masks(rng, counts, 60) for counts in ((20, 5, 1), (12, 9, 0)))
    return statistics.layer_matched_p(a, b, _seed(rng))


def halves_placed_at_random(rng: np.random.Generator) -> float:
    """IoU of two masks of one count in every layer."""
    counts = np.array([15, 4, 2])
    a, b = (_random_masks(rng, counts, 50) for _ in range(2))
    null = statistics.matched_overlaps(counts, 50, _seed(rng), "iou")
    return statistics.permutation_p(float((a & b).sum() / (a | b).sum()), null)


def facts_alike(rng: np.random.Generator) -> float:
    """10 facts of 1 to 4 wordings, which agree no more than others."""
    fact = np.repeat(np.arange(10), rng.integers(1, 5, 10))
    places = rng.random((len(fact), 30)) < 0.3
    return statistics.facts_permuted_p((places @ places.T.astype(float)), fact, _seed(rng))


def _similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return -np.abs(first[:, None] - second[None]).sum(-1)


def tasks_alike(rng: np.random.Generator) -> float:
    """14 pairs of prompts that share their pair's places, whatever the task; p of the first task."""
    pair = rng.normal(size=(14, 3))
    first, second = pair + rng.normal(size=(2, 14, 3))
    return statistics.swapped_tasks_p(
        _similarity(first, first), _similarity(first, second), _similarity(second, second), _seed(rng)
    )[0]


def prompts_with_random_places(rng: np.random.Generator) -> float:
    """7 prompts with random places, counts of two layers kept."""
    strata, counts = np.repeat([0, 1], [12, 30]), np.tile([4, 3], (7, 1)) + rng.integers(0, 3, (7, 2))

    def overlap(chosen: Sequence[np.ndarray]) -> float:
        pairs = itertools.combinations([set(one.tolist()) for one in chosen], 2)
        return float(np.mean([len(a & b) * (1 / len(a) + 1 / len(b)) for a, b in pairs]))

    drawn = [
        np.concatenate([rng.permutation(12)[:first], 12 + rng.permutation(30)[:second]])
        for first, second in counts
    ]
    return statistics.random_sets_p(overlap(drawn), counts, strata, overlap, _seed(rng))


def _arm(rng: np.random.Generator, runs: int, items: np.ndarray) -> np.ndarray:
    """Outcomes ``[runs, items]`` of runs that differ in truth, on items that do."""
    return items + rng.normal(0, 0.5, (runs, 1)) + rng.normal(size=(runs, len(items)))


def located_is_one_of_the_sets(rng: np.random.Generator) -> float:
    """2 rows of 2 cells, 5 random sets each, located one of them."""
    pairs = []
    for row in "ab":
        arms = [_arm(rng, 6, rng.normal(size=12)) for _ in range(2)]
        pairs += [
            statistics.Pair(row, column, one[:1], one[1:]) for column, one in zip("cd", arms, strict=True)
        ]
    return statistics.sets_p(pairs, _seed(rng))


def rank_of_a_further_set(rng: np.random.Generator) -> float:
    """Located one of 40 sets, mean over two datasets."""
    arms = [_arm(rng, 40, rng.normal(size=10)) for _ in range(2)]
    return statistics.rank_among_draws(
        [statistics.Pair(name, name, one[:1], one[1:]) for name, one in zip("ab", arms, strict=True)]
    )


def arms_that_differ_by_item_alone(rng: np.random.Generator) -> float:
    """Two arms of 3 runs on 2 datasets; items' differences symmetric about 0."""
    pairs = []
    for name in "ab":
        difference = rng.standard_t(3, 14)
        first, second = rng.normal(size=(2, 3, 14))
        pairs.append(
            statistics.Pair(name, name, first - first.mean(0) + difference, second - second.mean(0), False)
        )
    return statistics.effect_of(pairs, seed=_seed(rng), resamples=60, flips=99).p


def three_arms_alike(rng: np.random.Generator) -> float:
    """Three arms of 2 columns on 2 datasets, exchangeable on every item."""
    arms = {name: [rng.normal(size=(2, 2, 15)) for _ in range(2)] for name in "abc"}
    return statistics.best_of(arms, _seed(rng), resamples=50, flips=99).p


def types_without_effect(rng: np.random.Generator) -> float:
    """7 datasets of two types, changes that have nothing to do with them."""
    changes, labels = rng.normal(size=(7, 7)), ("math",) * 3 + ("language",) * 4

    def lead(deal: Sequence[str]) -> float:
        alike = np.equal.outer(np.array(deal), np.array(deal))
        others = ~np.eye(7, dtype=bool)
        return float(changes[alike & others].mean() - changes[~alike].mean())

    return statistics.dealt_labels_p(labels, lead, _seed(rng))


def matrices_without_relation(rng: np.random.Generator) -> float:
    """Two models' changes on 5 datasets, datasets unlike in fragility, models unrelated."""
    matrices = []
    for _ in range(2):
        values = rng.normal(size=(5, 5)) + rng.normal(size=5)
        matrices.append({(a, b): values[int(a), int(b)] for a, b in itertools.permutations("01234", 2)})
    return statistics.mantel_p(matrices, _seed(rng))


def edits_apart_by_the_margin(rng: np.random.Generator) -> float:
    """80 facts edited in two layers, shares apart by the margin."""
    both, first, second, _ = rng.multinomial(80, [0.5, 0.25, 0.1, 0.15])
    outcomes = np.repeat(
        [[1, 1], [1, 0], [0, 1], [0, 0]], [both, first, second, 80 - both - first - second], 0
    )
    return statistics.equivalence_p(outcomes[:, 0], outcomes[:, 1], 0.15)


def guesses(rng: np.random.Generator) -> float:
    """60 guesses among 4, one run."""
    return statistics.binomial_p((rng.random((1, 60)) < 0.25).astype(float), 0.25)


def shares_at_chance(rng: np.random.Generator) -> float:
    """80 scores between 0 and 1, mean at chance; p 0 where they are called above it."""
    return float(not statistics.above_chance(rng.beta(2, 4, 80), 1 / 3, _seed(rng)))


SIMULATIONS: Sequence[Simulation] = (
    shards_of_one_kind,
    shards_of_one_kind_second,
    masks_placed_at_random,
    halves_placed_at_random,
    facts_alike,
    tasks_alike,
    prompts_with_random_places,
    located_is_one_of_the_sets,
    rank_of_a_further_set,
    arms_that_differ_by_item_alone,
    three_arms_alike,
    types_without_effect,
    matrices_without_relation,
    edits_apart_by_the_margin,
    guesses,
    shares_at_chance,
)


@pytest.fixture
def _fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for p to be .05 exactly, which is all that a level needs."""
    for module, name, draws in (
        (splits, "EXCHANGES", 39),
        (sets, "PERMUTATIONS", 39),
        (sets, "RANDOM_DRAWS", 39),
        (sets, "LAYER_MATCHED_DRAWS", 999),
        (sets, "RANDOM_SETS", 999),
        (trends, "MANTEL_DEALS", 39),
    ):
        monkeypatch.setattr(module, name, draws)


@pytest.mark.usefixtures("_fewer_draws")
@pytest.mark.parametrize("simulate", SIMULATIONS, ids=lambda simulate: simulate.__name__)
def test_level_is_kept(simulate: Simulation) -> None:
    rng = np.random.default_rng(31)
    rejected = sum(simulate(rng) <= LEVEL for _ in range(RUNS))
    interval = statistics.binomial_interval(rejected, RUNS, 0.999)
    assert interval.low <= LEVEL, rejected
    assert interval.high >= LEVEL / 4, "a test that hardly ever rejects keeps every level"
