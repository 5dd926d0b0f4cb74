"""Query-neuron mapping: whether located neurons go with the query, its last token, or the fact.

Each test is one claim over model x dataset of facts; its statement, margins and rule stand in
``caploc/papers/query_localization/mapping.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

mapping = experiments.query_mapping


@claim("ql-last-token", mapping.last_token, over="facts", dataset="pararel")
def test_wordings_share_neurons_where_they_end_alike() -> None:
    """Ours: without this, a test of the wording is one of its last token."""
