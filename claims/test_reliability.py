"""Section 3.2: changing what was located matters no more than changing something else.

Each test is one claim over model x dataset of facts, zsRE unless the run names others; its statement, margins and rule
stand in ``caploc/papers/capability_localization/reliability.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("reliability-kn-double", facts="zsre")
def test_kn_doubling(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.2: "85.1% of samples increase their target probabilities"; random 72.3 %."""
    from caploc.experiments import reliability

    audit.check(reliability.kn_double(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kn-zero", facts="zsre")
def test_kn_zeroing(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.2: "27.4% of samples increase their target probabilities, while 72.4% decrease"; random 82.6 %."""
    from caploc.experiments import reliability

    audit.check(reliability.kn_zero(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kn-similar-to-random", facts="zsre")
def test_kn_is_similar_to_random(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.2: "The experimental results are similar to the random activation values"."""
    from caploc.experiments import reliability

    audit.check(reliability.kn_similar_to_random(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kn-not-necessarily", facts="zsre")
def test_kn_does_not_necessarily_enhance_or_weaken(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 1: "increasing or zeroing activation does not necessarily lead to an enhancement or weakening"."""
    from caploc.experiments import reliability

    audit.check(reliability.kn_not_necessarily(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kn-no-strong-correlation", facts="zsre")
def test_kn_attribution_correlates_weakly_with_change(
    study: Study, cell: CellRequest, audit: Auditor
) -> None:
    """Section 1: "there is no strong correlation between the parameters and knowledge"."""
    from caploc.experiments import reliability

    audit.check(reliability.kn_no_strong_correlation(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kn-ipp", facts="zsre")
def test_kn_ipp(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Poster: the IPP of KN is 11.4 %."""
    from caploc.experiments import reliability

    audit.check(reliability.kn_ipp(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kc-recall", facts="zsre")
def test_circuits_alone_recall_few_facts(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.2: "the success rate of recall knowledge was only 12.3%"."""
    from caploc.experiments import reliability

    audit.check(reliability.kc_recall(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kc-param-share", facts="zsre")
def test_recalling_circuits_hold_2_6_percent(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.2: "accounting for an average of 2.6% of the entire model parameters"."""
    from caploc.experiments import reliability

    audit.check(reliability.kc_recalled_param_share(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-kc-ipp", facts="zsre")
def test_ipp_of_circuits(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Poster: the IPP of KC is 10.5 %."""
    from caploc.experiments import reliability

    audit.check(reliability.kc_ipp(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-rome-layers-equal", facts="zsre")
def test_rome_edits_other_layers_as_well(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.2: "editing other layers resulted in similar performance"."""
    from caploc.experiments import reliability

    audit.check(reliability.rome_layers_equal(study, cell.cell, audit.claim))


@pytest.mark.claim("reliability-rome-ipp", facts="zsre")
def test_ipp_of_rome(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Poster: the IPP of ROME is 0.0 %."""
    from caploc.experiments import reliability

    audit.check(reliability.rome_ipp(study, cell.cell, audit.claim))
