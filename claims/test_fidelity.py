"""Section 3.1: wordings of one fact lead to different places, so that what is located is not faithful to the fact.

Each test is one claim over model x dataset of facts; its statement, margins and rule stand in
``caploc/papers/capability_localization/fidelity.toml``. The paper rewords facts of COUNTERFACT; the embedded models
know facts of a ParaRel of their own, which has seven wordings of each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("fidelity-kn-overlap", facts="counterfact", embedded_facts="pararel")
def test_kn_wordings_overlap_little(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1, *distributed parameters*: "only 37.3%" between wordings of one fact."""
    from caploc.experiments import fidelity

    audit.check(fidelity.kn_overlap(study, cell.cell, audit.claim))


@pytest.mark.claim("fidelity-kn-mean-located", facts="counterfact", embedded_facts="pararel")
def test_kn_locates_15_neurons(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1: "with an average of 15.3 localized parameters found per sample"."""
    from caploc.experiments import fidelity

    audit.check(fidelity.kn_mean_located(study, cell.cell, audit.claim))
