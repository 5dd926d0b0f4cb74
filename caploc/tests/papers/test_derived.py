"""Verdicts that follow from those of other claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from caploc.findings import Cell, Effect, Finding, Measurement, Outcome, Part
from caploc.papers import Claim, load_paper
from caploc.rules import Derived, derive
from caploc.rules.derived import Judged, beyond_error
from caploc.tests.papers.examples import bound, claim_of, derived_of, effect

S, R, U, N = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.NOT_RUN

M = Outcome.MEASURED
ERROR = "refuted in no more cells than errors of 5 % a cell explain,"


def ended(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, list[Judged]]:
    return {claim: [Judged(one) for one in ones] for claim, ones in outcomes.items()}


@pytest.mark.parametrize(
    ("outcomes", "outcome", "reason"),
    [
        ({"x": [S, S], "y": [S]}, S, "supported: x in 2 of 2 cells, y in 1 of 1 cell"),
        ({"x": [S, R, R], "y": [S]}, R, "it needs all of x, y; refuted: x (2 of 3 cells)"),
        ({"x": [R], "y": [R]}, R, "it needs all of x, y; refuted: x (1 of 1 cell), y (1 of 1 cell)"),
        (
            {"x": [S, R, S], "y": [S]},
            U,
            f"{ERROR} x (1 of 3 cells), and supported: x in 2",
        ),
        (
            {"x": [R] * 2 + [S] * 6, "y": [S]},
            U,
            f"{ERROR} x (2 of 8 cells), and",
        ),
        ({"x": [R] * 3 + [S] * 6, "y": [S]}, R, "it needs all of x, y; refuted: x (3 of 9 cells)"),
        ({"x": [S, R, M, N], "y": [R]}, R, "it needs all of x, y; refuted: y (1 of 1 cell)"),
        ({"x": [S, U], "y": [S]}, U, "not refuted, and supported: x in 1 of 2 cells, y in 1 of 1 cell; all"),
        ({"x": [S, N, M], "y": [S]}, S, "supported: x in 1 of 1 cell, y in 1 of 1 cell"),
        ({"x": [S]}, U, "it needs all of x, y; without a verdict: y"),
        ({"x": [S], "y": []}, U, "it needs all of x, y; without a verdict: y"),
        ({"x": [S], "y": [N, M]}, U, "it needs all of x, y; without a verdict: y"),
        ({"x": [R], "y": [N]}, R, "it needs all of x, y; refuted: x (1 of 1 cell)"),
        ({"x": [N], "y": [N]}, N, "it needs all of x, y; without a verdict: x, y"),
        ({}, N, "it needs all of x, y; without a verdict: x, y"),
        ({"x": [S], "y": [S], "another": [R]}, S, "supported: x in 1 of 1 cell, y in 1 of 1 cell"),
    ],
)
def test_by_example(outcomes: Mapping[str, Sequence[Outcome]], outcome: Outcome, reason: str) -> None:
    verdict = derive(derived_of("x", "y"), ended(outcomes))
    assert verdict.outcome is outcome and verdict.reason.startswith(reason)


def test_what_is_no_better_is_refuted_by_what_fares_better_alone() -> None:
    claim = claim_of("untestable", id="a-derived", rule=Derived(claims=("x", "y"), better=("x",)))
    worse, better = Judged(R), Judged(R, above=True)
    assert derive(claim, {"x": [worse], "y": [Judged(S)]}).outcome is U
    assert derive(claim, {"x": [better], "y": [Judged(S)]}).outcome is R
    assert derive(claim, {"x": [Judged(S)], "y": [worse]}).outcome is R


def test_an_effect_above_0_is_read_from_the_finding() -> None:
    def above(*effects: Part) -> bool:
        found = Measurement("q", parts={str(number): one for number, one in enumerate(effects)})
        return Judged.of(R, Finding("c", Cell("m"), found).to_json()).above

    assert above(effect(-0.2, -0.1), effect(0.1, 0.2))
    assert not above(effect(-0.2, -0.1), effect(-0.1, 0.2))
    assert not above(bound(0.1, 0.2)) and not above(Effect(0.1)) and not Judged.of(R, None).above


def universal() -> Claim:
    rule = Derived(claims=("x", "y"), universal=True, counterexamples=(("a", "b"), ("c", "d")))
    return claim_of("untestable", id="a-derived", rule=rule)


def test_a_universal_negative_is_at_most_without_a_counterexample() -> None:
    verdict = derive(universal(), ended({"x": [S], "y": [S]}))
    assert verdict.outcome is U and verdict.reason.endswith("refuted on this model: none")
    lost = derive(universal(), ended({"x": [R, R], "y": [S], "a": [R], "d": [R]}))
    assert lost.outcome is U and lost.reason.endswith("refuted on this model: x (2 of 2 cells)")
    assert derive(universal(), ended({"x": [N], "y": [M]})).outcome is N


def test_one_method_that_succeeds_refutes_a_universal_negative() -> None:
    verdict = derive(universal(), ended({"x": [R], "y": [S], "c": [R], "d": [R]}))
    assert verdict.outcome is R and "c and d are refuted together" in verdict.reason
    in_one_of_two = ended({"x": [R], "y": [S], "c": [R], "d": [S, R]})
    assert derive(universal(), in_one_of_two).outcome is U


def test_a_method_whose_locations_fare_worse_is_no_counterexample() -> None:
    rule = Derived(claims=("x",), universal=True, counterexamples=(("a", "b"),), better=("b",))
    claim = claim_of("untestable", id="a-derived", rule=rule)
    cells = {"x": [Judged(S)], "a": [Judged(R)], "b": [Judged(R)]}
    assert derive(claim, cells).outcome is U
    assert derive(claim, {**cells, "b": [Judged(R, above=True)]}).outcome is R


cells = st.lists(st.sampled_from(Outcome), max_size=4)


@given(cells, cells)
def test_a_refuted_cell_of_its_own_refutes_and_one_more_never_clears(
    x: list[Outcome], y: list[Outcome]
) -> None:
    claim = derived_of("x", "y")
    before, after = derive(claim, ended({"x": x, "y": y})), derive(claim, ended({"x": x, "y": [*y, R, R]}))
    assert after.outcome is R and "y" in after.reason
    assert before.outcome is not S or R not in x + y
    assert derive(claim, ended({"x": x, "y": [R]})).outcome is R
    assert before.reason and "\n" not in before.reason


@pytest.mark.parametrize("cells", range(1, 40))
def test_errors_alone_seldom_refute_what_rests_on_many_cells(cells: int) -> None:
    fewest = beyond_error(cells, 0.05)
    assert binom.sf(fewest - 1, cells, 0.05) <= 0.05 + 1e-9  # so many or more
    assert fewest == 1 or binom.sf(fewest - 2, cells, 0.05) > 0.05
    assert {1: 1, 2: 2, 7: 2, 8: 3, 16: 3, 17: 4}.get(cells, fewest) == fewest


def test_the_papers_derived_claims_rest_on_claims_that_something_decides() -> None:
    claims = load_paper("capability_localization").claims
    for claim in claims.values():
        for source in claim.rule.claims:
            assert claims[source].empirical and source != claim.id
