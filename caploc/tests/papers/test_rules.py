"""Every kind of rule by example, and how it says what decided."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.findings import Outcome
from caploc.papers import decisive_p, judge
from caploc.tests.papers.examples import (
    JUDGED,
    NAN,
    claim_of,
    finding_of,
)

S, R, U = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE

# what differs from a well supported finding, and the verdict
EXAMPLES: list[tuple[str, Outcome, dict[str, Any]]] = [
    ("lower_bound", S, {}),
    ("lower_bound", U, {"interval": (0.80, 0.9)}),
    ("lower_bound", U, {"interval": (0.4, 0.50)}),
    ("lower_bound", R, {"interval": (0.4, 0.49)}),
    ("upper_bound", S, {}),
    ("upper_bound", U, {"estimate": 0.01}),
    ("upper_bound", U, {"estimate": 0.02}),
    ("upper_bound", R, {"estimate": 0.0201}),
    ("interval_below", S, {}),
    ("interval_below", U, {"interval": (0.3, 0.4)}),
    ("interval_below", U, {"interval": (0.5, 0.6)}),
    ("interval_below", R, {"interval": (0.51, 0.6)}),
    ("overlap_below", S, {}),
    ("overlap_below", U, {"baseline_gap:low": 0.0}),
    ("overlap_below", U, {"interval": (0.6, 0.7), "baseline_gap:low": -0.1}),
    ("overlap_below", U, {"interval": (0.3, 0.7)}),
    ("overlap_below", R, {"interval": (0.6, 0.7)}),
    ("within", S, {}),
    ("within", S, {"interval": (10.0, 20.0)}),
    ("within", U, {"interval": (9.0, 12.0)}),
    ("within", U, {"interval": (1.0, 5.0)}),
    ("within", R, {"interval": (1.0, 4.9)}),
    ("within", R, {"interval": (51.0, 60.0)}),
    ("lower_bounds", S, {}),
    ("lower_bounds", U, {"bound:fall": (0.04, 0.2)}),
    ("lower_bounds", U, {"bound:fall": (0.01, 0.02)}),
    ("lower_bounds", R, {"bound:rise": (0.01, 0.02), "bound:fall": (0.01, 0.04)}),
    ("both", S, {}),
    ("both", U, {"iou_low": 0.6}),
    ("both", R, {"iou_low": 0.1, "iou_high": 0.3}),
    ("agreement", S, {}),
    ("agreement", U, {"number:fall": (0.1, 0.21)}),
    ("agreement", U, {"number:rise:low": None, "number:rise:high": None}),
    ("agreement", R, {"number:fall": (0.25, 0.3)}),
    ("readings", S, {"reading:pair": (0.81, 0.89)}),
    ("readings", U, {"reading:pair": (0.1, 0.2)}),
    ("readings", U, {"reading:mean:low": None, "reading:mean:high": None}),
    ("readings", R, {"reading:mean": (0.1, 0.2), "reading:pair": (0.0, 0.7)}),
    ("difference", S, {}),
    ("difference", U, {"interval": (-0.1, 0.2)}),
    ("difference", U, {"permutation": 0.05}),
    ("difference", U, {"random_text_gap_low": -0.1}),
    ("difference", R, {"interval": (-0.2, 0.0)}),
    ("difference", R, {"random_text_gap90_low": -0.04, "random_text_gap90_high": 0.04}),
    ("plain_difference", S, {}),
    ("plain_difference", U, {"interval": (-0.1, 0.2), "gap90_low": -0.08}),
    ("plain_difference", R, {"interval": (-0.2, 0.0), "gap90_low": -0.18, "gap90_high": -0.02}),
    ("plain_difference", R, {"gap90_low": -0.03, "gap90_high": 0.03}),
    ("plain_difference", R, {"interval": (0.01, 0.03), "gap90_low": 0.012, "gap90_high": 0.028}),
    ("comparison", S, {}),
    ("comparison", U, {"effect:three": (0.0, 0.2)}),
    ("comparison", U, {"effect:one": 0.05}),
    ("comparison", R, {"effect:three": (-0.2, 0.0)}),
    ("comparison", R, {"effect:three": (0.01, 0.04)}),
    ("best_of", S, {}),
    ("best_of", S, {"effect:three": (-0.2, 0.0)}),
    ("best_of", U, {"best": 0.05}),
    ("best_of", U, {"effect:two:estimate": 0.0, "effect:three:estimate": -0.01}),
    ("best_of", R, {"effect:three": (-0.2, -0.01)}),
    ("specificity", S, {}),
    ("specificity", U, {"effect:other": (-0.02, 0.01)}),
    ("specificity", U, {"effect:own": 0.06}),
    ("specificity", R, {"effect:other": (0.06, 0.1)}),
    ("specificity", R, {"effect:other": (-0.1, -0.06)}),
    ("specificity", R, {"effect:own": (-0.1, 0.0)}),
    ("equivalence", S, {}),
    ("equivalence", S, {"effect:one": (-0.049, 0.049)}),
    ("equivalence", U, {"effect:one": (-0.04, 0.05)}),
    ("equivalence", U, {"effect:one": (0.05, 0.1)}),
    ("equivalence", R, {"effect:one": (0.05, 0.1), "effect:two": (-0.1, -0.05)}),
    (
        "equivalence",
        R,
        {"effect:one": (0.05, 0.1), "effect:two": (-0.1, -0.05), "effect:three": (-0.04, 0.04)},
    ),
    ("non_inferiority", S, {}),
    ("non_inferiority", U, {"effect:one": (-0.02, 0.01)}),
    ("non_inferiority", R, {"effect:one": (-0.2, -0.021)}),
    ("above_chance", S, {"pair:b": 0.009, "layer:b": 0.04}),
    ("above_chance", U, {"pair:b": 0.01}),
    ("above_chance", U, {"layer:b": 0.05}),
    ("above_chance", R, {"pair:a": 0.05, "pair:b": 0.9}),
    ("partition", S, {}),
    ("partition", U, {"range_random_structured": 0.05}),
    ("partition", R, {"range_random_structured": 0.3, "worst_structured_gap_low": 0.11}),
    ("trend", S, {}),
    ("trend", U, {"trend": 0.05}),
    ("trend", U, {"last_increment90_high": 0.02}),
    ("trend", U, {"rise": 0.02}),
    ("trend", R, {"trend_tau": 0.0}),
    ("trend", R, {"last_increment_low": 0.06, "last_increment90_high": 0.1}),
    ("monotone", S, {}),
    ("monotone", U, {"trend": 0.05}),
    ("monotone", U, {"estimate": 0.0}),
    ("monotone", R, {"reversal": 0.04}),
    ("one_reading", S, {}),
    ("one_reading", S, {"ratio_std": 0.1, "ratio_variance": 0.006}),
    ("one_reading", U, {"ratio_variance": 0.001}),
    ("one_reading", R, {"ratio_std": 0.0004}),
    ("vanishing_error", S, {}),
    ("vanishing_error", U, {"estimate": 0.01}),
    ("vanishing_error", R, {"coarse": 0.005}),
    ("consistent", S, {}),
    ("consistent", U, {"floor": "nothing to compare"}),
    ("consistent", R, {"estimate": 2.0}),
    ("untestable", U, {"estimate": None}),
]


@pytest.mark.parametrize(("kind", "outcome", "numbers"), EXAMPLES)
def test_each_rule_by_example(kind: str, outcome: Outcome, numbers: dict[str, Any]) -> None:
    verdict = judge(claim_of(kind), finding_of(kind, **numbers))
    assert verdict.outcome is outcome, verdict.reason
    assert "\n" not in verdict.reason and len(verdict.reason) < 400


def test_the_examples_reach_every_outcome_of_every_rule() -> None:
    reached = {(kind, outcome) for kind, outcome, _ in EXAMPLES}
    possible = {(kind, outcome) for kind in JUDGED for outcome in (S, R, U)}
    assert reached == possible - {("untestable", S), ("untestable", R)}


@pytest.mark.parametrize(
    ("kind", "numbers", "shown"),
    [
        ("lower_bound", {"interval": (0.80001, 0.9)}, ("0.80001", "above 0.8")),
        (
            "upper_bound",
            {"estimate": 0.2, "chebyshev_bound": 1 / 36},
            ("above 0.02", "impossible under the standard"),
        ),
        ("comparison", {"effect:three": (0.01, 0.04)}, ("1 of 3 effects: three [0.01, 0.04]", "within 0.05")),
        ("comparison", {}, ("one [0.1, 0.2], p 0.01", "two [0.06, 0.3]", "p below 0.05")),
        ("best_of", {}, ("ahead of the best rival in 2 of 3 (0.66 needed), p 0.01", "0.05")),
        ("equivalence", {}, ("of 2 90 % intervals 1 lie within 0.05 of 0 (1 needed)", "one [-0.04, 0.01]")),
        ("non_inferiority", {}, ("above -0.02", "one [-0.01, 0.01]")),
        ("monotone", {}, ("trend p 0.001, below 0.05", "reversal 0.9")),
        ("agreement", {}, ("rise [0.84, 0.86] lies within the printed 85.1% +- 5 points",)),
    ],
)
def test_the_reason_names_the_numbers_and_thresholds(
    kind: str, numbers: dict[str, Any], shown: tuple[str, ...]
) -> None:
    reason = judge(claim_of(kind), finding_of(kind, **numbers)).reason
    assert all(text in reason for text in shown), reason


def test_many_parts_make_no_long_reason() -> None:
    many = {f"effect:{index}": (-0.2, -0.1) for index in range(40)}
    reason = judge(claim_of("comparison"), finding_of("comparison", **many)).reason
    assert "40 of 42 effects" in reason and reason.endswith("and 37 more") and len(reason) < 200


def test_not_run_and_floor_come_first() -> None:
    not_run = finding_of("lower_bound", not_run="needs a GPU", floor="empty", estimate=None)
    assert judge(claim_of("lower_bound"), not_run).outcome is Outcome.NOT_RUN
    verdict = judge(claim_of("lower_bound"), finding_of("lower_bound", floor="3 neurons"))
    assert verdict.outcome is U and verdict.reason == "3 neurons"


@pytest.mark.parametrize(
    ("kind", "numbers", "p"),
    [
        ("difference", {"permutation": 0.2, "against imdb": 0.9}, 0.2),
        ("comparison", {"effect:one": 0.2, "effect:two": 0.3}, 0.3),
        ("best_of", {"best": 0.2, "effect:one": 0.9}, 0.2),
        ("specificity", {"effect:own": 0.2, "effect:other": 0.9}, 0.2),
        ("above_chance", {"pair:a": 0.001, "pair:b": 0.002, "layer:a": 0.03}, 0.03),
        ("trend", {"trend": 0.2}, 0.2),
        ("monotone", {"trend": 0.2, "reversal": 0.9}, 0.2),
        ("lower_bound", {}, None),
        ("equivalence", {}, None),
        ("difference", {"permutation": None}, None),
        ("difference", {"permutation": NAN}, None),
        ("comparison", {"effect:one": 0.2, "effect:two": NAN}, None),
    ],
)
def test_the_decisive_p_value(kind: str, numbers: dict[str, Any], p: float | None) -> None:
    assert decisive_p(claim_of(kind), finding_of(kind, **numbers)) == p
