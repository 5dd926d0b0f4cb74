"""Section 5.4, Table 3: erasing the located neurons takes the ability away, erasing random ones does not.

Each test is one claim over model x dataset x sigma; its statement, margins and rule stand in
``caploc/papers/capability_localization/erasure.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

erasure = experiments.erasure


@claim("table3-base", erasure.base, all_sigmas=True)
def test_untouched_score() -> None:
    """Table 3, first row: the base accuracy on one dataset."""


@claim("table3-base", erasure.base, over="model", all_sigmas=True, across=True)
def test_untouched_average() -> None:
    """Table 3, first row, average: Llama2-7B 19.48, Llama2-13B 26.10."""


@claim("table3-erase", erasure.erase)
def test_score_without_located_neurons() -> None:
    """Table 3, rows *locate*: the score once the located neurons are erased."""


@claim("table3-erase", erasure.erase, over="model", across=True)
def test_average_without_located_neurons() -> None:
    """Table 3, rows *locate*, average."""


@claim("table3-random", erasure.random, across=True)
def test_erasing_random_neurons_changes_little() -> None:
    """Table 3, rows *random*: from -1.00 to +1.79 points."""


@claim("table3-random", erasure.random, over="model", across=True)
def test_erasing_random_neurons_changes_the_average_little() -> None:
    """Table 3, rows *random*, average."""


@claim("table3-located-hurts-more", erasure.located_hurts_more, over="model", across=True)
def test_erasing_located_neurons_hurts_more_than_random() -> None:
    """Poster: "Compared to random, erasing the neurons we locate will significantly impair the performance"."""


@claim("table3-located-hurts-more-each", erasure.located_hurts_more, across=True)
def test_erasing_located_neurons_hurts_more_on_a_dataset() -> None:
    """Section 5.4: "the neurons we located can influence the performance of the model under the current dataset"."""


@claim("table3-spares-general-text", erasure.spares_text, across=True)
def test_erasing_spares_general_text() -> None:
    """Section 5.4: "our method can locate the capability of the model on a single dataset", and not of all text."""


@claim("table3-sigma-trend", erasure.sigma_trend, all_sigmas=True)
def test_a_lower_sigma_costs_more() -> None:
    """Table 3, sigma 12, 6 and 3: the more neurons are erased, the more the model loses."""
