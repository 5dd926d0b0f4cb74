"""Section 5.4, Table 3: erasing the located neurons takes the ability away, erasing random ones does not.

Each test is one claim over model x dataset x sigma; its statement, margins and rule stand in
``caploc/papers/capability_localization/erasure.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("table3-base", over_sigmas=True)
def test_untouched_score(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Table 3, first row: the base accuracy on one dataset."""
    from caploc.experiments import erasure

    audit.check(erasure.base(study, cell.cell, audit.claim))


@pytest.mark.claim("table3-base", over_sigmas=True, across=True)
def test_untouched_average(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 3, first row, average: Llama2-7B 19.48, Llama2-13B 26.10."""
    from caploc.experiments import erasure

    audit.check(erasure.base(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table3-erase")
def test_score_without_located_neurons(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Table 3, rows *locate*: the score once the located neurons are erased."""
    from caploc.experiments import erasure

    audit.check(erasure.erase(study, cell.cell, audit.claim))


@pytest.mark.claim("table3-erase", across=True)
def test_average_without_located_neurons(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 3, rows *locate*, average."""
    from caploc.experiments import erasure

    audit.check(erasure.erase(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table3-random", across=True)
def test_erasing_random_neurons_changes_little(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 3, rows *random*: from -1.00 to +1.79 points."""
    from caploc.experiments import erasure

    audit.check(erasure.random(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table3-located-hurts-more", across=True)
def test_erasing_located_neurons_hurts_more_than_random(
    study: Study, model_cell: CellRequest, audit: Auditor
) -> None:
    """Poster: "Compared to random, erasing the neurons we locate will significantly impair the performance"."""
    from caploc.experiments import erasure

    audit.check(erasure.located_hurts_more(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table3-sigma-trend", over_sigmas=True)
def test_a_lower_sigma_costs_more(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Table 3, sigma 12, 6 and 3: the more neurons are erased, the more the model loses."""
    from caploc.experiments import erasure

    audit.check(erasure.sigma_trend(study, cell.cell, audit.claim))
