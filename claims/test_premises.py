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


@pytest.mark.claim("bg-kc-recall-premise", facts="zsre")
def test_circuits_alone_bring_the_answer_among_ten(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 2.3: "They measure the rank of the target entity o among the top 10 predicted tokens"."""
    from caploc.experiments import premises

    audit.check(premises.kc_recall_premise(study, cell.cell, audit.claim))


@pytest.mark.claim("bg-rome-layer-editing", facts="zsre")
def test_rome_changes_facts_in_one_layer(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Section 2.2: "by updating the entire parameter layer, the original knowledge of the model is changed"."""
    from caploc.experiments import premises

    audit.check(premises.rome_layer_editing(study, cell.cell, audit.claim))


@pytest.mark.claim("bg-rome-corruption", facts="zsre")
def test_rome_noise_on_the_subject_loses_the_fact(study: Study, cell: CellRequest, audit: Auditor) -> None:
    """Appendix C: a model that "loses some information about the subject" will likely be wrong."""
    from caploc.experiments import premises

    audit.check(premises.rome_corruption(study, cell.cell, audit.claim))


@pytest.mark.claim("bg-rome-restoration-locates", facts="zsre")
def test_rome_restored_layers_are_those_that_edits_reach(
    study: Study, cell: CellRequest, audit: Auditor
) -> None:
    """Appendix C: "the greater the probability that individual knowledge is stored in this layer"."""
    from caploc.experiments import premises

    audit.check(premises.rome_restoration_locates(study, cell.cell, audit.claim))
