"""A simulation of every test's null hypothesis; the library's tests run them as well, more briefly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from caploc import statistics

LEVEL = 0.05

Simulation = Callable[[np.random.Generator], float]
"""One p value under the null hypothesis that its docstring names."""


@dataclass(frozen=True)
class Null:
    """A null hypothesis that `test` is fed with; the docstring of `simulate` says which.

    `size` is how often p is at or below the level, where that is known and not only bounded. `wrong` marks a test that
    is wrong for its null, shown as a warning.
    """

    test: str
    simulate: Simulation
    size: float | None = None
    wrong: bool = False

    @property
    def what(self) -> str:
        return (self.simulate.__doc__ or "").rstrip(".")


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def one_among_draws(rng: np.random.Generator) -> float:
    """One of 40."""
    values = rng.normal(size=40)
    return statistics.permutation_p(values[0], values[1:])


def one_among_draws_two_sided(rng: np.random.Generator) -> float:
    """One of 80, two-sided."""
    values = rng.normal(size=80)
    return statistics.permutation_p(values[0], values[1:], "two-sided")


def one_among_ties(rng: np.random.Generator) -> float:
    """One of 40, ties."""
    values = rng.poisson(5, 40)
    return statistics.permutation_p(values[0], values[1:])


def few_pairs(rng: np.random.Generator) -> float:
    """10 heavy-tailed differences, exact."""
    return statistics.paired_permutation(rng.standard_t(2, 10)).p


def many_pairs(rng: np.random.Generator) -> float:
    """30 differences, 99 random flips."""
    return statistics.paired_permutation(rng.normal(size=30), draws=99, seed=_seed(rng), alternative="less").p


def paraphrases(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Differences of 12 facts of one to five paraphrases that share the fact's effect."""
    facts = np.repeat(np.arange(12), rng.integers(1, 6, 12))
    return rng.normal(size=12)[facts] + 0.3 * rng.normal(size=facts.size), facts


def pairs_in_clusters(rng: np.random.Generator) -> float:
    """12 clusters of 1 to 5 rows."""
    differences, facts = paraphrases(rng)
    return statistics.paired_permutation(differences, clusters=facts).p


def clusters_ignored(rng: np.random.Generator) -> float:
    """12 clusters, taken for single rows."""
    return statistics.paired_permutation(paraphrases(rng)[0], draws=99, seed=_seed(rng)).p


def right_and_wrong_in_clusters(rng: np.random.Generator) -> float:
    """Right and wrong, 30 clusters of 3."""
    items = np.arange(90) // 3
    first, second = rng.random((2, 30))[:, items] + 0.2 * rng.normal(size=(2, 90)) < 0.5
    return statistics.paired_permutation(first, second, clusters=items).p


def unlike_strata(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Skewed values of two strata with means apart, one with more labels than the other."""
    strata = np.repeat([0, 1], [8, 6])
    labels = np.concatenate([rng.permutation(8) < 5, rng.permutation(6) < 1])
    return rng.exponential(size=14) + 3 * strata, labels, strata


def few_in_strata(rng: np.random.Generator) -> float:
    """2 strata, 336 arrangements."""
    return statistics.stratified_permutation(*unlike_strata(rng), alternative="less").p


def strata_ignored(rng: np.random.Generator) -> float:
    """2 strata, taken for one."""
    values, labels, _ = unlike_strata(rng)
    return statistics.stratified_permutation(values, labels, alternative="less").p


def many_in_strata(rng: np.random.Generator) -> float:
    """3 strata, 199 random arrangements."""
    strata = np.repeat([0, 1, 2], [20, 30, 10])
    values = rng.normal(size=60) * (1 + strata) + strata
    return statistics.stratified_permutation(
        values, rng.random(60) < 0.4, strata, draws=199, seed=_seed(rng)
    ).p


def discordant_pairs(rng: np.random.Generator) -> float:
    """60 pairs, 40 % discordant."""
    b, c, _ = rng.multinomial(60, [0.2, 0.2, 0.6])
    return statistics.mcnemar_from_counts(int(b), int(c), 60).p


def difference_at_the_margin(rng: np.random.Generator) -> float:
    """30 differences, mean at the margin."""
    return statistics.tost(rng.normal(0.5, 1, 30), 0.5).p


def curve(rng: np.random.Generator) -> float:
    """6 points, exact."""
    return statistics.mann_kendall(rng.normal(size=6), alternative="greater").p


def short_curve_with_ties(rng: np.random.Generator) -> float:
    """7 points, ties, exact."""
    return statistics.mann_kendall(rng.integers(0, 4, 7), alternative="greater").p


def long_curve_with_ties(rng: np.random.Generator) -> float:
    """14 points, ties, asymptotic."""
    return statistics.mann_kendall(rng.integers(0, 5, 14)).p


def several_curves_with_ties(rng: np.random.Generator) -> float:
    """10 curves of 5, ties."""
    return statistics.page_trend(rng.integers(0, 4, (10, 5))).p


def family_of_five(rng: np.random.Generator) -> float:
    """Any of 5 independent p values."""
    values = rng.normal(size=(5, 100))
    return float(statistics.holm([statistics.permutation_p(row[0], row[1:]) for row in values]).min())


def family_under_dependence(rng: np.random.Generator) -> float:
    """Any of 4 correlated p values."""
    p = stats.norm.sf((rng.normal(size=4) + rng.normal()) / 2**0.5)
    return float(statistics.benjamini_yekutieli(p).min())


def random_sets(rng: np.random.Generator) -> float:
    """Sets of 20 and 30 among 200."""
    located = rng.permutation(200)[:20]
    return statistics.hypergeometric_p(int(np.sum(located < 30)), 20, 30, 200)


def _size_of_mcnemar() -> float:
    items = np.arange(61)
    bound = stats.binom.isf(LEVEL / 2, items, 0.5)
    return float(stats.binom.pmf(items, 60, 0.4) @ (2 * stats.binom.sf(bound, items, 0.5)))


def _size_of_hypergeometric() -> float:
    tails = stats.hypergeom.sf(np.arange(-1, 20), 200, 20, 30)
    return float(tails[tails <= LEVEL].max())


NULLS = (
    Null("permutation_p", one_among_draws, 0.05),
    Null("permutation_p", one_among_draws_two_sided, 0.05),
    Null("permutation_p", one_among_ties),
    Null("paired_permutation", few_pairs, 50 / 1024),
    Null("paired_permutation", many_pairs, 0.05),
    Null("paired_permutation", pairs_in_clusters, 204 / 4096),
    Null("paired_permutation", right_and_wrong_in_clusters),
    Null("paired_permutation", clusters_ignored, wrong=True),
    Null("stratified_permutation", few_in_strata, 16 / 336),
    Null("stratified_permutation", many_in_strata, 0.05),
    Null("stratified_permutation", strata_ignored, wrong=True),
    Null("mcnemar", discordant_pairs, _size_of_mcnemar()),
    Null("tost", difference_at_the_margin, 0.05),
    Null("mann_kendall", curve, 20 / 720),
    Null("mann_kendall", short_curve_with_ties),
    Null("mann_kendall", long_curve_with_ties),
    Null("page_trend", several_curves_with_ties),
    Null("holm", family_of_five, 1 - 0.99**5),
    Null("benjamini_yekutieli", family_under_dependence),
    Null("hypergeometric_p", random_sets, _size_of_hypergeometric()),
)


def rejections(null: Null, runs: int, seed: int = 0) -> int:
    """How many of so many p values are at or below the level."""
    rng = np.random.default_rng(seed)
    return sum(null.simulate(rng) <= LEVEL for _ in range(runs))
