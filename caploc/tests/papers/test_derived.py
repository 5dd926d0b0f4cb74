"""Verdicts that follow from those of other claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.findings import Outcome
from caploc.papers import load_paper
from caploc.rules import derive
from caploc.tests.papers.examples import derived_of

S, R, U, N = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.NOT_RUN


@pytest.mark.parametrize(
    ("verdicts", "outcome", "reason"),
    [
        ({"x": [S, S], "y": [S]}, S, "supported: x (2 of 2 cells), y (1 of 1 cell)"),
        ({"x": [S, R, R], "y": [S]}, R, "refuted: x (2 of 3 cells); supported: y (1 of 1 cell)"),
        ({"x": [R], "y": [R]}, R, "refuted: x (1 of 1 cell), y (1 of 1 cell)"),
        ({"x": [S, U], "y": [S]}, U, "inconclusive: x (1 of 2 cells); supported: y (1 of 1 cell)"),
        ({"x": [S, N], "y": [S]}, S, "supported: x (1 of 1 cell), y (1 of 1 cell)"),
        ({"x": [S]}, U, "no verdict of y"),
        ({"x": [S], "y": []}, U, "no verdict of y"),
        ({"x": [S], "y": [N, N]}, U, "no verdict of y"),
        ({"x": [R], "y": [N]}, R, "refuted: x (1 of 1 cell); no verdict of y"),
        ({"x": [N], "y": [N]}, N, "no verdict of x, y"),
        ({}, N, "no verdict of x, y"),
        ({"x": [S], "y": [S], "another": [R]}, S, "supported: x (1 of 1 cell), y (1 of 1 cell)"),
    ],
)
def test_by_example(verdicts: Mapping[str, Sequence[Outcome]], outcome: Outcome, reason: str) -> None:
    verdict = derive(derived_of("x", "y"), verdicts)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)


def test_a_universal_negative_is_at_most_not_contradicted() -> None:
    verdict = derive(derived_of("x", universal=True), {"x": [S]})
    assert verdict.outcome is U and verdict.reason.startswith("not contradicted by x (1 of 1 cell)")


def test_a_universal_negative_loses_its_support_where_a_premise_is_refuted() -> None:
    verdict = derive(derived_of("x", universal=True), {"x": [S, R]})
    assert verdict.outcome is U and verdict.reason.startswith(
        "not supported, as it rests on x (1 of 2 cells), refuted here"
    )


cells = st.lists(st.sampled_from(Outcome), max_size=4)


@given(cells, cells)
def test_one_more_refuted_cell_refutes(x: list[Outcome], y: list[Outcome]) -> None:
    claim = derived_of("x", "y")
    before, after = derive(claim, {"x": x, "y": y}), derive(claim, {"x": x, "y": [*y, R]})
    assert after.outcome is R and "y" in after.reason
    assert (before.outcome is R) == (R in x + y)
    assert before.reason and "\n" not in before.reason


def test_the_papers_derived_claims_rest_on_claims_that_something_decides() -> None:
    claims = load_paper("capability_localization").claims
    for claim in claims.values():
        for source in claim.rule.claims:
            assert claims[source].empirical and source != claim.id
