"""Section 3.1: wordings of one fact lead to different places, so that what is located is not faithful to the fact.

Each test is one claim over model x dataset of facts; its statement, margins and rule stand in
``caploc/papers/capability_localization/fidelity.toml``. The paper rewords facts of COUNTERFACT; the embedded models
know facts of a ParaRel of their own, which has twelve wordings of each.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

fidelity = experiments.fidelity


@claim(
    "fidelity-kn-overlap",
    fidelity.overlap(method="kn"),
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_kn_wordings_overlap_little() -> None:
    """Section 3.1, *distributed parameters*: "only 37.3%" between wordings of one fact."""


@claim(
    "fidelity-kn-mean-located",
    fidelity.kn_mean_located,
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_kn_locates_15_neurons() -> None:
    """Section 3.1: "with an average of 15.3 localized parameters found per sample"."""


@claim(
    "fidelity-rome-overlap",
    fidelity.overlap(method="rome"),
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_traced_layers_of_wordings_overlap_little() -> None:
    """Section 3.1, *parameter layer*: "only 32.7%" of the three layers that causal tracing finds."""


@claim(
    "fidelity-kc-overlap",
    fidelity.circuits_identical,
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_wordings_seldom_lead_to_the_same_circuit() -> None:
    """Section 3.1, *parameter chain*, and the poster: circuits of one fact coincide 7.2%."""


@claim("fidelity-ordering", fidelity.ordering, over="facts", dataset="counterfact", embedded="pararel")
def test_kn_agrees_best_then_rome_then_kc() -> None:
    """Section 3.1 and the poster: "37.3%, 32.7%, and 7.2%"; Section 1 has another order."""


@claim(
    "fidelity-rome-granularity",
    fidelity.rome_granularity,
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_three_layers_are_a_large_share() -> None:
    """Section 3.1: "the parameter layer accounted for a large proportion of the entire model"."""


@claim(
    "fidelity-kc-param-share",
    fidelity.kc_param_share,
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_circuits_hold_1_6_percent() -> None:
    """Section 3.1: a circuit holds on average 1.6% of the parameters."""


@claim(
    "fidelity-kc-granularity",
    fidelity.kc_granularity,
    over="facts",
    dataset="counterfact",
    embedded="pararel",
)
def test_circuits_are_too_large_for_a_fact() -> None:
    """Section 3.1: "the granularity of individual knowledge and parameters does not match"."""
