"""Section 2, appendices A, C and D: what the paper takes over from the methods it builds on.

Each test is one premise over model x dataset of facts, zsRE unless the run names others; its statement, margins and
rule stand in ``caploc/papers/capability_localization/background.toml``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from caploc.audit.auditor import Auditor
    from caploc.audit.requests import CellRequest
    from caploc.experiments.study import Study


@pytest.mark.claim("bg-ig-completeness", facts="zsre")
def test_attributions_add_up(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 2.1, eq. (2): the attribution "accumulates the output probability change"."""
    from caploc.experiments import premises

    audit.check(premises.ig_completeness(study, cell.cell, audit.claim))


@pytest.mark.claim("bg-attr-measures-contribution", facts="zsre")
def test_attribution_measures_contribution(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 2.1: "the attribution score can measure the contribution of the neuron"."""
    from caploc.experiments import premises

    audit.check(premises.attribution_measures_contribution(study, cell.cell, audit.claim))


@pytest.mark.claim("bg-kn-verification", facts="zsre")
def test_knowledge_neurons_carry_the_fact(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 2.1: "(1) suppressing knowledge neurons by setting their activations to 0; (2) amplifying" them."""
    from caploc.experiments import premises

    audit.check(premises.kn_verification(study, cell.cell, audit.claim))
