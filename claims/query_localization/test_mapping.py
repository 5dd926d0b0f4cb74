"""Query-neuron mapping: whether located neurons go with the query, its last token, or the fact.

Each test is one claim over model x dataset of facts; its statement, margins and rule stand in
``caploc/papers/query_localization/mapping.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

mapping, overlap = experiments.query_mapping, experiments.query_overlap


@claim("ql-storage-query-dependent", overlap.wording_effect, over="facts", dataset="pararel")
def test_located_neurons_depend_on_the_wording() -> None:
    """Abstract: "We summarize these findings as Query Localization (QL) assumption": storage goes with the query."""


@claim("ql-last-token", overlap.last_token, over="facts", dataset="pararel")
def test_wordings_share_neurons_where_they_end_alike() -> None:
    """Ours: without this, a test of the wording is one of its last token."""


@claim("ql-kl-is-simplification", overlap.kl_is_simplification, over="facts", dataset="pararel")
def test_the_query_predicts_at_least_as_well_as_the_fact() -> None:
    """Abstract: "the KL assumption can be viewed as a simplification of the QL assumption"."""


@claim("ql-query-kn-mapping", mapping.query_kn_mapping, over="facts", dataset="pararel")
def test_neurons_of_neighbour_queries_act_much_less() -> None:
    """Fig. 2-1: own neurons, suppressed, act strongly; those of neighbour queries much less."""


@claim("ql-query-kn-gap-by-class", mapping.gap_by_class, over="facts", dataset="pararel")
def test_the_gap_is_larger_for_inconsistent_facts() -> None:
    """Fig. 2-1, consistent beside inconsistent facts: the gap is smaller for the former."""


@claim("ql-exclusive-neighbor-neurons", mapping.exclusive_neurons, over="facts", dataset="pararel")
def test_neurons_of_another_wording_alone_do_nothing() -> None:
    """Ours, the sharp form: neurons that only another wording has do nothing to this one."""
