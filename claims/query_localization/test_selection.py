"""Query localization, third part: facts are edited better at neurons that all wordings share.

Each test is one claim over model x dataset of facts in many wordings, ParaRel unless the run names others; its
statement, margins and rule stand in ``caploc/papers/query_localization/selection.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

selection = experiments.selection


@claim("ql-cas-erase", selection.erase, over="facts", dataset="pararel")
def test_consistent_neurons_erase_better() -> None:
    """Abstract: the method "improves the performance of knowledge modification": erasure."""


@claim("ql-cas-update", selection.update, over="facts", dataset="pararel")
def test_consistent_neurons_update_better() -> None:
    """Abstract: the method "improves the performance of knowledge modification": update."""


@claim("ql-cas-locality", selection.locality, over="facts", dataset="pararel")
def test_consistent_neurons_disturb_less() -> None:
    """Other facts and perplexity suffer less."""


@claim("ql-cas-average-gain", selection.average_gain, over="facts", dataset="pararel")
def test_consistent_neurons_gain_on_average() -> None:
    """8 and 9 % over the two baselines, second-hand."""


@claim("ql-cas-on-consistent", selection.on_consistent, over="facts", dataset="pararel")
def test_the_gain_is_on_inconsistent_facts() -> None:
    """Reviews: the gap is minimal, especially on consistent facts."""


@claim("ql-edit-generalizes-less", selection.generalizes_less, over="facts", dataset="pararel")
def test_edits_of_inconsistent_facts_do_not_generalize() -> None:
    """Modifying one query's neurons leaves the other queries of an inconsistent fact as they were."""


@claim("ql-union-costs", selection.union_costs, over="facts", dataset="pararel")
def test_all_queries_neurons_cost_locality_and_perplexity() -> None:
    """Modifying the neurons of all queries generalizes, at a cost."""
