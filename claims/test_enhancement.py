"""Section 5.4: training the located neurons (Tables 2 and 4, Fig. 9, appendices F and G).

Each test is one claim over model x sigma, over all datasets; its statement, margins and rule stand in
``caploc/papers/capability_localization/enhancement.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("table2-numbers", across=True)
def test_enhanced_scores(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 2: scores after 1, 5 and 10 epochs, such as 44.65 on average for the located neurons."""
    from caploc.experiments import enhancement

    audit.check(enhancement.table2_numbers(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table2-located-beats-random", across=True)
def test_located_beats_random(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5.4: "we only need to update a small portion of parameters to effectively improve the performance"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.located_beats_random(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table2-located-beats-wo-located", across=True)
def test_located_beats_all_others(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 2: 0.15 % of the neurons, located, against "set their parameter to 0 and fine-tune all other neurons"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.located_beats_others(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table2-located-best-average", across=True)
def test_located_has_the_best_average(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 2, columns "Avg.": "The best results are in bold"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.located_best_average(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table2-small-portion-suffices", across=True)
def test_a_small_portion_suffices(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5: "we can significantly enhance the corresponding capabilities of the model"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.small_portion_suffices(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table2-param-share", across=True)
def test_share_of_trained_neurons(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5.4: "the proportion of occupying the overall parameters of the neurons is 0.15%"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.param_share(study, model_cell.cell, audit.claim))


@pytest.mark.claim("fig9-enhancement-loss", across=True)
def test_loss_ends_lower_for_located(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Fig. 9: "Enhancement loss with different sets of neurons"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.enhancement_loss(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table4-numbers", across=True)
def test_changes_on_other_datasets(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Table 4: changes on datasets not trained on, such as 11.18 points for the located neurons."""
    from caploc.experiments import enhancement

    audit.check(enhancement.table4_numbers(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table4-located-best", across=True)
def test_located_improves_other_datasets_most(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5.4: "enhancing common neurons [...] also is beneficial for other types of tasks"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.table4_located_best(study, model_cell.cell, audit.claim))


@pytest.mark.claim("table4-harmless-updating", across=True)
def test_updating_is_harmless(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5.4: "This holds promise for harmless updating of LLM"."""
    from caploc.experiments import enhancement

    audit.check(enhancement.harmless_updating(study, model_cell.cell, audit.claim))
