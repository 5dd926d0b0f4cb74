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


@pytest.mark.claim("fidelity-rome-overlap", facts="counterfact", embedded_facts="pararel")
def test_traced_layers_of_wordings_overlap_little(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1, *parameter layer*: "only 32.7%" of the three layers that causal tracing finds."""
    from caploc.experiments import fidelity

    audit.check(fidelity.rome_overlap(study, cell.cell, audit.claim))


@pytest.mark.claim("fidelity-kc-overlap", facts="counterfact", embedded_facts="pararel")
def test_circuits_of_wordings_overlap_little(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1, *parameter chain*, and the poster: circuits of one fact coincide 7.2%."""
    from caploc.experiments import fidelity

    audit.check(fidelity.kc_overlap(study, cell.cell, audit.claim))


@pytest.mark.claim("fidelity-ordering", facts="counterfact", embedded_facts="pararel")
def test_kn_agrees_best_then_rome_then_kc(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1 and the poster: "37.3%, 32.7%, and 7.2%"; Section 1 has another order."""
    from caploc.experiments import fidelity

    audit.check(fidelity.ordering(study, cell.cell, audit.claim))


@pytest.mark.claim("fidelity-rome-granularity", facts="counterfact", embedded_facts="pararel")
def test_three_layers_are_a_large_share(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1: "the parameter layer accounted for a large proportion of the entire model"."""
    from caploc.experiments import fidelity

    audit.check(fidelity.rome_granularity(study, cell.cell, audit.claim))


@pytest.mark.claim("fidelity-kc-param-share", facts="counterfact", embedded_facts="pararel")
def test_circuits_hold_1_6_percent(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1: a circuit holds on average 1.6% of the parameters."""
    from caploc.experiments import fidelity

    audit.check(fidelity.kc_param_share(study, cell.cell, audit.claim))


@pytest.mark.claim("fidelity-kc-granularity", facts="counterfact", embedded_facts="pararel")
def test_circuits_are_too_large_for_a_fact(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 3.1: "the granularity of individual knowledge and parameters does not match"."""
    from caploc.experiments import fidelity

    audit.check(fidelity.kc_granularity(study, cell.cell, audit.claim))
