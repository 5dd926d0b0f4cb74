"""Consistency: whether the wordings of a fact lead to one set of neurons.

Each test is one claim over model x dataset of facts; its statement, margins and rule stand in
``caploc/papers/query_localization/consistency.toml``.
"""

from __future__ import annotations

from caploc.audit.claims import claim, experiments

consistency = experiments.query_consistency


@claim("ql-inconsistent-exists", consistency.inconsistent_exists, over="facts", dataset="pararel")
def test_facts_without_a_fixed_set_are_widespread() -> None:
    """Abstract: localization "may be too rigid regarding knowledge storage"; Table 1-1, static threshold."""


@claim("ql-inconsistent-otsu", consistency.inconsistent_otsu, over="facts", dataset="pararel")
def test_otsu_tells_two_classes_of_facts_apart() -> None:
    """Table 1-1, rows of Otsu's threshold, which cuts anything: are there two classes?"""


@claim("ql-classes-differ", consistency.classes_differ, over="facts", dataset="pararel")
def test_classes_differ_in_what_makes_them() -> None:
    """Table 1-1, the t test between classes that the tested variable makes: true of a Gaussian, too."""


@claim("ql-inconsistent-three-locators", consistency.three_locators, over="facts", dataset="pararel")
def test_facts_are_inconsistent_under_each_of_three_locators() -> None:
    """Table 1-1, intersection over three locators."""


@claim("ql-inconsistent-size", consistency.inconsistent_size, over="models", all_sigmas=True)
def test_larger_models_have_more_inconsistent_facts() -> None:
    """Table 1-1 and its discussion: fewest in GPT-2, more in LLaMA2-7b and LLaMA3-8b."""


@claim("ql-relation-spread", consistency.relation_spread, over="facts", dataset="pararel")
def test_consistency_differs_between_relations() -> None:
    """Figure of violins: consistency by relation."""
