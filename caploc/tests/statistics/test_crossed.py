"""The crossed bootstrap of prompts, Otsu's threshold, and one mode against two."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from caploc import statistics as stats
from caploc.statistics import StatisticsError


def test_weights_draw_subjects_and_templates_of_each_relation() -> None:
    subject = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    template = np.array([0, 1, 0, 1, 2, 3, 2, 3])
    relation = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    weights = stats.crossed_weights(subject, template, relation, seed=1, draws=4000)
    assert weights.shape == (4000, 8) and abs(weights.mean() - 1) < 0.05
    np.testing.assert_array_equal(weights, stats.crossed_weights(subject, template, relation, 1, 4000))
    for row in weights[:50]:
        table = row.reshape(2, 2, 2)  # relation, subject, template
        for one in table:
            assert np.linalg.matrix_rank(one) <= 1, "one count a subject times one a template"
    # templates of one relation are drawn as often as there are
    first = weights[:, 0] * weights[:, 3] == weights[:, 1] * weights[:, 2]
    assert first.all()


def test_pair_means_are_those_of_a_sample_written_out() -> None:
    generator = np.random.default_rng(0)
    matrix, pairs = generator.random((6, 6)), generator.random((6, 6)) < 0.6
    weights = generator.integers(0, 3, (5, 6)).astype(float)
    matrix[2, 3] = np.nan
    for row, found in zip(weights.astype(int), stats.pair_means(matrix, pairs, weights), strict=True):
        drawn = np.repeat(np.arange(6), row)
        values = [matrix[a, b] for a in drawn for b in drawn if pairs[a, b] and np.isfinite(matrix[a, b])]
        assert found == pytest.approx(np.mean(values)) if values else np.isnan(found)


def test_an_effect_has_the_p_of_its_resamples() -> None:
    weights = np.arange(1.0, 100)[:, None]
    found = stats.crossed_effect(lambda drawn: drawn[:, 0] - 3.0, weights, 7)
    assert (found.estimate, found.items) == (-2.0, 7)
    assert found.p == (1 + 3) / 100
    with pytest.raises(StatisticsError, match=r"^too few resamples"):
        stats.crossed_effect(lambda drawn: np.full(len(drawn), np.nan), weights, 7)


def test_a_ratio_of_sums_keeps_its_resamples_in_step() -> None:
    whole = np.random.default_rng(0).gamma(2, size=40)
    weights = np.random.default_rng(1).integers(0, 3, (500, 40)).astype(float)
    estimate, interval = stats.ratio_of_sums(0.5 * whole, whole, weights)
    assert estimate == pytest.approx(0.5) and interval.low == pytest.approx(interval.high)


@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_the_best_of_all_cuts(seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 12, 40) / 12
    found = stats.otsu(values)
    cuts = (np.unique(values)[1:] + np.unique(values)[:-1]) / 2
    shares = []
    for cut in cuts:
        below, above = values[values < cut], values[values >= cut]
        shares.append(
            len(below) * len(above) / len(values) ** 2 * (above.mean() - below.mean()) ** 2 / values.var()
        )
    assert found.eta2 == pytest.approx(max(shares))
    assert found.threshold == pytest.approx(cuts[int(np.argmax(shares))])


def test_otsu_cuts_a_gaussian_in_two_equal_classes() -> None:
    from scipy.stats import norm

    values = norm.ppf((np.arange(4000) + 0.5) / 4000)
    found = stats.otsu(values)
    assert found.eta2 == pytest.approx(2 / np.pi, abs=1e-3)
    assert found.threshold == pytest.approx(0, abs=0.01)
    for function in (stats.otsu, lambda one: stats.one_mode(one, 0)):
        with pytest.raises(StatisticsError, match=r"^all values are 0\.5"):
            function(np.full(20, 0.5))


def test_the_critical_width_is_where_two_modes_become_one() -> None:
    # two points of unit distance: the density has two modes until the width is half of it
    assert stats.critical_width(np.array([0.0, 1.0])) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("draw", "supported"),
    [
        (lambda generator: generator.standard_normal(120), False),
        (lambda generator: generator.beta(2, 5, 120), False),
        (lambda generator: generator.uniform(size=120), False),
        (lambda generator: generator.standard_normal(120) + 6 * (generator.random(120) < 0.5), True),
    ],
)
def test_classes_are_found_where_there_are_two(draw, supported: bool) -> None:
    """As the rule ``comparison`` with a margin of 0.1 judges the excess."""
    found: Counter[str] = Counter()
    for seed in range(40):
        values = draw(np.random.default_rng(seed))
        excess = stats.one_mode(values, seed, samples=99).excess(stats.otsu(values).eta2, len(values))
        within = excess.interval90.low > -0.1 and excess.interval90.high < 0.1
        above = excess.interval.low > 0 and excess.p < 0.05 and not within
        found["yes" if above else "no" if within or excess.interval.high <= 0 else "open"] += 1
    if supported:
        assert found["yes"] >= 36, found
    else:
        assert found["yes"] <= 2 and found["no"] >= 30, found
