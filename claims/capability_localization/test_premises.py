"""Section 2, appendices A, C and D: what the paper takes over from the methods it builds on.

Each test is one premise over model x dataset of facts, zsRE unless the run names others; its statement, margins and
rule stand in ``caploc/papers/capability_localization/background.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

completeness, premises = experiments.completeness, experiments.premises


@claim("bg-ig-completeness", completeness.ig_completeness, over="facts", dataset="zsre")
def test_attributions_add_up() -> None:
    """Section 2.1, eq. (2): the attribution "accumulates the output probability change"."""


@claim(
    "bg-attr-measures-contribution", premises.attribution_measures_contribution, over="facts", dataset="zsre"
)
def test_attribution_measures_contribution() -> None:
    """Section 2.1: "the attribution score can measure the contribution of the neuron"."""


@claim("bg-kn-verification", premises.kn_verification, over="facts", dataset="zsre")
def test_knowledge_neurons_carry_the_fact() -> None:
    """Section 2.1: "(1) suppressing knowledge neurons by setting their activations to 0; (2) amplifying" them."""


@claim("bg-kc-recall-premise", premises.kc_recall_premise, over="facts", dataset="zsre")
def test_circuits_alone_bring_the_answer_among_ten() -> None:
    """Section 2.3: "They measure the rank of the target entity o among the top 10 predicted tokens"."""


@claim("bg-rome-layer-editing", premises.rome_layer_editing, over="facts", dataset="zsre")
def test_rome_changes_facts_in_one_layer() -> None:
    """Section 2.2: "by updating the entire parameter layer, the original knowledge of the model is changed"."""


@claim("bg-rome-corruption", premises.rome_corruption, over="facts", dataset="zsre")
def test_rome_noise_on_the_subject_loses_the_fact() -> None:
    """Appendix C: a model that "loses some information about the subject" will likely be wrong."""


@claim("bg-rome-restoration-locates", premises.rome_restoration_locates, over="facts", dataset="zsre")
def test_rome_restored_layers_are_those_that_edits_reach() -> None:
    """Appendix C: "the greater the probability that individual knowledge is stored in this layer"."""
