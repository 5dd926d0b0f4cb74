"""Section 5.4 and appendix H: neurons located on one dataset carry abilities that others need (Fig. 6, 10).

Each test is one claim over model x sigma, the last over all models together; its statement, margins and rule stand in
``caploc/papers/capability_localization/cross_dataset.toml``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("cross-gsm8k-emotion-overlap", across=True)
def test_gsm8k_and_emotion_overlap_most(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5.4: "the GSM8K and Emotion's neurons have a higher overlap rate"."""
    from caploc.experiments import cross_dataset

    audit.check(cross_dataset.gsm8k_emotion_overlap(study, model_cell.cell, audit.claim))


@pytest.mark.claim("fig6-enhance-cross", across=True)
def test_training_helps_other_datasets(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Fig. 6: "the located neurons have cross-dataset characteristics", enhanced."""
    from caploc.experiments import cross_dataset

    audit.check(cross_dataset.enhance_cross(study, model_cell.cell, audit.claim))


@pytest.mark.claim("fig6-erase-cross", across=True)
def test_erasing_hurts_other_datasets(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Fig. 6: "the located neurons have cross-dataset characteristics", erased."""
    from caploc.experiments import cross_dataset

    audit.check(cross_dataset.erase_cross(study, model_cell.cell, audit.claim))


@pytest.mark.claim("cross-same-type-specificity", across=True)
def test_effects_stay_within_a_type_of_dataset(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Poster: "substantial effects on the same type of dataset, with little impact on other types of datasets"."""
    from caploc.experiments import cross_dataset

    audit.check(cross_dataset.same_type_specificity(study, model_cell.cell, audit.claim))


@pytest.mark.claim("cross-significant-improvement", across=True)
def test_other_datasets_improve_significantly(study: Study, model_cell: CellRequest, audit: Auditor) -> None:
    """Section 5.4: "only by achieving significant performance improvements on other datasets"."""
    from caploc.experiments import cross_dataset

    audit.check(cross_dataset.significant_improvement(study, model_cell.cell, audit.claim))


@pytest.mark.claim("fig10-other-models", across=True)
def test_models_agree_on_which_datasets_depend(
    studies: list[Callable[[], Study]], models_cell: CellRequest, audit: Auditor
) -> None:
    """Fig. 10, Appendix H: "Effects of task neurons on other dataset", in other models."""
    from caploc.experiments import cross_dataset

    audit.check(cross_dataset.other_models(studies, models_cell.cell, audit.claim))
