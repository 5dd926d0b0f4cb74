"""Every kind of rule by example, and how it says what decided."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.findings import Bound, Chance, Count, Effect, Number, Outcome, Part, Reading
from caploc.rules import RULES, IncompleteFindingError, decisive_p, judge
from caploc.rules.base import at_once
from caploc.tests.papers.examples import (
    JUDGED,
    NAN,
    a_test,
    bound,
    claim_of,
    effect,
    finding_of,
    pair,
    rule_of,
)

S, R, U, M = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.MEASURED

# what differs from a well supported finding (parts, numbers of the value), and the verdict
EXAMPLES: list[tuple[str, Outcome, dict[str, Part | None], dict[str, Any]]] = [
    ("lower_bound", S, {}, {}),
    ("lower_bound", U, {}, {"interval": (0.80, 0.9)}),
    ("lower_bound", U, {}, {"interval": (0.4, 0.50)}),
    ("lower_bound", R, {}, {"interval": (0.4, 0.49)}),
    ("upper_bound", S, {}, {}),
    ("upper_bound", U, {}, {"estimate": 0.01}),
    ("upper_bound", U, {}, {"estimate": 0.02}),
    ("upper_bound", R, {}, {"estimate": 0.0201}),
    ("interval_below", S, {}, {}),
    ("interval_below", U, {}, {"interval": (0.3, 0.4)}),
    ("interval_below", U, {}, {"interval": (0.5, 0.6)}),
    ("interval_below", R, {}, {"interval": (0.51, 0.6)}),
    ("corrected_overlap", S, {}, {}),
    ("corrected_overlap", S, {"corrected overlap": bound(-0.1, 0.79)}, {}),
    ("corrected_overlap", U, {"corrected overlap": bound(0.7, 0.8)}, {}),
    ("corrected_overlap", U, {"corrected overlap": bound(0.8, 0.9)}, {}),
    ("corrected_overlap", R, {"corrected overlap": bound(0.81, 0.9)}, {}),
    ("corrected_overlap", U, {"baseline gap": effect(0.0, 0.2)}, {}),
    ("corrected_overlap", U, {"corrected overlap": bound(0.9, 1), "baseline gap": effect(-0.1, 0.1)}, {}),
    ("identity_below", S, {}, {}),
    ("identity_below", U, {"baseline gap": effect(0.0, 0.2)}, {}),
    ("identity_below", U, {"baseline gap": effect(-0.1, 0.2)}, {"interval": (0.6, 0.9)}),
    ("identity_below", U, {}, {"interval": (0.4, 0.6)}),
    ("identity_below", U, {"corrected overlap": bound(0.7, 0.9)}, {}),
    ("identity_below", R, {"corrected overlap": bound(0.81, 0.9)}, {}),
    ("identity_below", R, {}, {"interval": (0.51, 0.9)}),
    ("recall_below", S, {}, {}),
    ("recall_below", S, {"wrong answers": effect(-0.1, 0.1)}, {}),
    ("recall_below", U, {"wrong answers": effect(-0.2, -0.1)}, {}),
    ("recall_below", U, {}, {"interval": (0.2, 0.6)}),
    ("recall_below", U, {}, {"interval": (0.6, 0.9)}),
    ("recall_below", R, {"an untrained model": effect(0.1, 0.2)}, {"interval": (0.6, 0.9)}),
    ("within", S, {}, {}),
    ("within", S, {}, {"interval": (10.0, 20.0)}),
    ("within", U, {}, {"interval": (9.0, 12.0)}),
    ("within", U, {}, {"interval": (1.0, 5.0)}),
    ("within", R, {}, {"interval": (1.0, 4.9)}),
    ("within", R, {}, {"interval": (51.0, 60.0)}),
    ("lower_bounds", S, {}, {}),
    ("lower_bounds", U, {"fall": bound(0.04, 0.2)}, {}),
    ("lower_bounds", U, {"fall": bound(0.01, 0.02)}, {}),
    ("lower_bounds", R, {"rise": bound(0.01, 0.02), "fall": bound(0.01, 0.04)}, {}),
    ("both", S, {}, {}),
    ("above_twin", S, {}, {}),
    ("above_twin", S, {"beyond twins": effect(-0.1, 0.12)}, {}),
    ("above_twin", U, {"beyond twins": effect(-0.2, 0.1)}, {}),
    ("above_twin", R, {"beyond twins": effect(-0.2, 0.0)}, {}),
    ("above_twin", R, {"beyond twins": Effect(-0.1, (-0.2, 0.01), (-0.19, -0.01))}, {}),
    ("above_twin", R, {"at full size": bound(0.6, 0.7), "beyond twins": effect(-0.2, -0.1)}, {}),
    ("above_twin", U, {"at full size": bound(0.6, 0.95)}, {}),
    ("above_twin", R, {"at full size": bound(0.3, 0.4), "beyond twins": effect(0.1, 0.2)}, {}),
    ("both", U, {"iou at full size": bound(0.6, 0.9)}, {}),
    ("both", U, {"iou beyond twins": effect(-0.2, 0.1)}, {}),
    ("both", U, {"iou beyond twins": effect(-0.2, 0.0)}, {}),  # of two gaps any of which refutes
    ("both", R, {"iou beyond twins": effect(-0.2, -0.08)}, {}),
    ("both", R, {"iou at full size": bound(0.1, 0.3)}, {}),
    ("agreement", S, {}, {}),
    ("agreement", U, {"fall": Number(interval=(0.1, 0.21))}, {}),
    ("agreement", M, {"rise": None}, {}),
    ("agreement", R, {"fall": Number(interval=(0.25, 0.3))}, {}),
    ("agreement", U, {"fall": Number(interval=(0.2, 0.3))}, {}),
    ("agreement", R, {"rise": None, "fall": Number(interval=(0.2, 0.3))}, {}),
    ("readings", S, {"pair": Reading(interval=(0.81, 0.89))}, {}),
    ("readings", S, {"pair": Reading(interval=(0.1, 0.2))}, {}),
    ("readings", U, {"mean": Reading(interval=(0.1, 0.2)), "pair": Reading(interval=(0.81, 0.89))}, {}),
    ("readings", M, {"mean": None, "pair": None}, {}),
    ("no_more", S, {}, {}),
    ("no_more", S, {"more": effect(-0.5, -0.4)}, {}),
    ("no_more", U, {"above chance": effect(-0.01, 0.01)}, {}),
    ("no_more", U, {"more": Effect(0.05, (0.0, 0.12), (0.01, 0.1))}, {}),
    ("no_more", R, {"more": effect(0.3, 0.4)}, {}),
    ("no_more", R, {"more": effect(0.3, 0.4), "above chance": effect(-0.01, 0.01)}, {}),
    ("printed_or_direction", S, {}, {}),
    ("printed_or_direction", R, {"rise": Number(0.4, (0.3, 0.5))}, {}),
    ("printed_or_direction", U, {"rise": Number(0.8, (0.6, 0.9))}, {}),
    ("readings", R, {"mean": Reading(interval=(0.1, 0.2)), "pair": Reading(interval=(0.0, 0.7))}, {}),
    ("difference", S, {}, {}),
    ("difference", U, {}, {"interval": (-0.1, 0.2)}),
    ("difference", U, {"permutation": a_test(0.05)}, {}),
    ("difference", U, {"scrambled gap": Effect(0.2, (-0.1, 0.3), (0.12, 0.28))}, {}),
    ("difference", U, {"beyond twins": effect(-0.3, 0.1)}, {}),
    ("difference", R, {"beyond twins": effect(-0.3, -0.04)}, {}),
    ("difference", R, {}, {"interval": (0.01, 0.05), "interval90": (0.015, 0.045)}),
    ("beyond_twins", S, {}, {}),
    ("beyond_twins", U, {}, {"estimate": -0.1, "interval": (-0.3, 0.1), "interval90": (-0.2, 0.01)}),
    ("beyond_twins", R, {}, {"estimate": -0.1, "interval": (-0.3, 0.1), "interval90": (-0.2, 0.0)}),
    ("difference", R, {}, {"interval": (-0.2, 0.0)}),
    ("difference", R, {"scrambled gap": Effect(0.2, (0.1, 0.3), (-0.04, 0.04))}, {}),
    ("plain_difference", S, {}, {}),
    ("plain_difference", U, {}, {"interval": (-0.1, 0.2), "interval90": (-0.08, 0.2)}),
    ("plain_difference", R, {}, {"interval": (-0.2, 0.0), "interval90": (-0.18, -0.02)}),
    ("plain_difference", R, {}, {"interval90": (-0.03, 0.03)}),
    ("plain_difference", R, {}, {"interval": (0.01, 0.03), "interval90": (0.012, 0.028)}),
    ("comparison", S, {}, {}),
    ("comparison", U, {"three": effect(0.0, 0.2)}, {}),
    ("comparison", U, {"one": effect(0.1, 0.2, p=0.05)}, {}),
    # of several parts any of which refutes, each is given its share of the level
    ("comparison", U, {"three": effect(-0.2, 0.0)}, {}),
    ("comparison", R, {"three": effect(-0.2, -0.05)}, {}),
    ("comparison", R, {"one": None, "two": None, "three": effect(-0.2, 0.0)}, {}),
    ("comparison", U, {"three": effect(0.01, 0.049)}, {}),
    ("comparison", R, {"three": effect(0.01, 0.04)}, {}),
    ("best_of", S, {}, {}),
    ("best_of", S, {"three": effect(-0.2, 0.0)}, {}),
    ("best_of", U, {"best": a_test(0.05)}, {}),
    (
        "best_of",
        U,
        {"two": Effect(0.0, (0.06, 0.3), p=0.01), "three": Effect(-0.01, (-0.1, 0.1), p=0.01)},
        {},
    ),
    ("best_of", U, {"three": effect(-0.2, -0.01)}, {}),
    ("best_of", R, {"three": effect(-0.2, -0.05)}, {}),
    ("specificity", S, {}, {}),
    ("specificity", U, {"other": effect(-0.02, 0.01)}, {}),
    ("specificity", U, {"own": effect(0.1, 0.2, p=0.06)}, {}),
    ("specificity", R, {"other": effect(0.06, 0.1)}, {}),
    ("specificity", R, {"other": effect(-0.1, -0.06)}, {}),
    ("specificity", U, {"own": effect(-0.1, 0.0)}, {}),
    ("specificity", R, {"own": effect(-0.1, -0.02)}, {}),
    ("specificity", U, {"other": effect(0.051, 0.1)}, {}),
    ("equivalence", S, {}, {}),
    ("equivalence", S, {"one": effect(-0.049, 0.049)}, {}),
    ("equivalence", U, {"one": effect(-0.04, 0.05)}, {}),
    ("equivalence", U, {"one": effect(0.05, 0.1)}, {}),
    ("equivalence", R, {"one": effect(0.05, 0.1), "two": effect(-0.1, -0.05)}, {}),
    (
        "equivalence",
        R,
        {"one": effect(0.05, 0.1), "two": effect(-0.1, -0.05), "three": effect(-0.04, 0.04)},
        {},
    ),
    ("non_inferiority", S, {}, {}),
    ("non_inferiority", U, {"one": effect(-0.02, 0.01)}, {}),
    ("non_inferiority", U, {"one": effect(-0.2, -0.021)}, {}),
    ("non_inferiority", R, {"one": effect(-0.2, -0.04)}, {}),
    ("non_inferiority", S, {"a pair": bound(-0.3, 0.1)}, {}),
    ("non_inferiority", U, {"a pair": bound(-0.3, -0.021)}, {}),
    ("non_inferiority", R, {"a pair": bound(-0.3, -0.06)}, {}),
    ("above_chance", S, {"b": pair(0.009, 0.04)}, {}),
    ("above_chance", U, {"b": pair(0.01, 0.01)}, {}),
    ("above_chance", U, {"b": pair(0.001, 0.05)}, {}),
    ("above_chance", R, {"a": pair(0.05, 0.01), "b": pair(0.9, 0.01)}, {}),
    ("partition", S, {}, {}),
    ("partition", U, {}, {"interval90": (-0.05, 0.1)}),
    ("partition", U, {}, {"interval90": (-0.12, 0.05)}),
    ("partition", R, {"by length": effect(0.11, 0.3)}, {}),
    ("trend", S, {}, {}),
    ("trend", U, {"rise": effect(-0.01, 0.3)}, {}),
    ("trend", U, {"last increment": Effect(0.0, (-0.01, 0.03), (-0.005, 0.02))}, {}),
    ("trend", R, {"rise": effect(-0.1, 0.04)}, {}),
    ("trend", S, {"rise": effect(-0.01, 0.04), "smallest": bound(0.94, 0.98)}, {}),
    ("trend", R, {"last increment": Effect(0.08, (0.06, 0.12), (0.07, 0.1))}, {}),
    ("monotone", S, {}, {}),
    ("monotone", U, {"trend": a_test(0.05)}, {}),
    ("monotone", U, {}, {"estimate": 0.0}),
    ("monotone", R, {"reversal": a_test(0.04)}, {}),
    ("one_reading", S, {}, {}),
    ("one_reading", S, {"std": Count(0.1), "variance": Count(0.006)}, {}),
    ("one_reading", U, {"variance": Count(0.001)}, {}),
    ("one_reading", R, {"std": Count(0.0004)}, {}),
    ("vanishing_error", S, {}, {}),
    ("vanishing_error", U, {}, {"estimate": 0.01}),
    ("vanishing_error", R, {"coarse": Count(0.005)}, {}),
    ("consistent", S, {}, {}),
    ("consistent", U, {}, {"floor": "nothing to compare"}),
    ("consistent", R, {}, {"estimate": 2.0}),
    ("untestable", U, {}, {"estimate": None}),
    ("untestable", M, {}, {}),
    ("measured", M, {}, {}),
    ("measured", U, {}, {"floor": "nothing is located"}),
]


@pytest.mark.parametrize(("kind", "outcome", "parts", "numbers"), EXAMPLES)
def test_each_rule_by_example(
    kind: str, outcome: Outcome, parts: dict[str, Part | None], numbers: dict[str, Any]
) -> None:
    verdict = judge(claim_of(kind), finding_of(kind, parts, **numbers))
    assert verdict.outcome is outcome, verdict.reason
    assert "\n" not in verdict.reason and len(verdict.reason) < 400


def test_the_examples_reach_every_outcome_of_every_rule() -> None:
    reached = {(kind, outcome) for kind, outcome, _, _ in EXAMPLES}
    possible = {(kind, outcome) for kind in JUDGED for outcome in (S, R, U)}
    possible |= {(kind, M) for kind in ("agreement", "readings", "measured", "untestable")}
    assert reached == possible - {(kind, one) for kind in ("untestable", "measured") for one in (S, R)}


@pytest.mark.parametrize(
    ("kind", "parts", "numbers", "shown"),
    [
        ("lower_bound", {}, {"interval": (0.80001, 0.9)}, ("0.80001", "above 0.8")),
        (
            "upper_bound",
            {"Chebyshev bound": Count(1 / 36)},
            {"estimate": 0.2},
            ("above 0.02", "impossible under the standard"),
        ),
        (
            "comparison",
            {"three": effect(0.01, 0.04)},
            {},
            (
                "against 1 of 3 effects: three [0.01, 0.04], one-sided p 0.01",
                "within 0.05",
                "in favour 2 of 3 effects: one [0.1, 0.2]",
            ),
        ),
        ("comparison", {}, {}, ("one [0.1, 0.2], one-sided p 0.01", "two [0.06, 0.3]", "p below 0.05")),
        ("comparison", {"two": None}, {}, ("overlap, one [0.1, 0.2], one-sided p 0.01",)),
        ("specificity", {}, {}, ("overlap [0.1, 0.2], one-sided p 0.01", "elsewhere [-0.015, 0.01] (90 %)")),
        (
            "equivalence",
            {"two": None},
            {},
            ("overlap, one [-0.04, 0.01] (simultaneous interval) lies within 0.05",),
        ),
        (
            "above_twin",
            {"beyond twins": effect(-0.2, 0.1)},
            {},
            (
                "overlap at the paper's number of samples: interval [0.9, 0.95] lies above",
                "lead over 95 % of untrained twins -0.05, at most 0.1 (one-sided 95 %): whether random weights",
            ),
        ),
        ("both", {}, {}, ("overlap at the paper's number", "IoU at the paper's number")),
        ("difference", {}, {}, ("overlap: interval [0.1, 0.2] lies above 0; permutation p",)),
        ("best_of", {}, {}, ("ahead of the best rival in 2 of 3 (0.66 needed), p 0.01", "0.05")),
        (
            "equivalence",
            {},
            {},
            ("1 of 2 simultaneous intervals lies within 0.05 of 0 (1 needed)", "one [-0.04, 0.01]"),
        ),
        ("non_inferiority", {}, {}, ("above -0.02", "one [-0.01, 0.01]")),
        ("monotone", {}, {}, ("trend p 0.001, below 0.05", "reversal 0.9")),
        ("agreement", {}, {}, ("rise [0.84, 0.86] lies within the printed 85.1% +- 5 points",)),
    ],
)
def test_the_reason_names_the_numbers_and_thresholds(
    kind: str, parts: dict[str, Part | None], numbers: dict[str, Any], shown: tuple[str, ...]
) -> None:
    reason = judge(claim_of(kind), finding_of(kind, parts, **numbers)).reason
    assert all(text in reason for text in shown), reason


@pytest.mark.parametrize(
    ("one", "expected", "without"),
    [
        (effect(-0.3, 0.0), R, U),  # 8 points are excluded
        (effect(-0.2, 0.07), U, U),  # but not for three parts at once
        (effect(-0.2, 0.08), U, U),
        (effect(0.01, 0.07), S, S),  # shown, though small
        (Effect(0.02, (-0.01, 0.06), (0.0, 0.055), 0.04), R, U),
    ],
)
def test_what_is_not_shown_is_refuted_where_the_least_effect_that_counts_is_excluded(
    one: Effect, expected: Outcome, without: Outcome
) -> None:
    finding = finding_of("comparison", {"three": one})
    rule = rule_of("comparison").model_copy(update={"least_effect": 0.08})
    verdict = judge(claim_of("comparison", rule=rule), finding)
    assert verdict.outcome is expected
    assert ("lies below 0.08" in verdict.reason) is (expected is R)
    assert judge(claim_of("comparison"), finding).outcome is without


def test_no_lead_on_average_is_refuted_where_the_least_is_excluded() -> None:
    claim = claim_of("best_of", rule=rule_of("best_of").model_copy(update={"least_lead": 0.02}))

    def verdict(low: float, high: float) -> Outcome:
        lead = Bound(0.0, (low, 1.0), (low, high))
        return judge(claim, finding_of("best_of", {"mean lead": lead})).outcome

    assert (verdict(-0.1, 0.019), verdict(-0.1, 0.02), verdict(0.001, 0.019)) == (R, S, S)
    with pytest.raises(IncompleteFindingError, match="mean lead"):
        judge(claim, finding_of("best_of"))


def test_many_parts_make_no_long_reason() -> None:
    many = {str(index): effect(-0.2, -0.1) for index in range(40)}
    reason = judge(claim_of("comparison"), finding_of("comparison", many)).reason
    assert "against 40 of 42 effects" in reason and "and 37 more; in favour 2 of 42" in reason
    assert len(reason) < 500


UNTRUE = (
    r"without support|not itself refuted",
    r"too few samples",  # of an interval that lies wholly in the gap more samples make none of it
    r"straddl",
    r"(?<!one-sided) p [\d.]+: ",  # a p value of which the side is not said
    r"\b1 (cells|effects|intervals|pairs|examples|tests|claims)\b",
    r"^\d+ of \d+ effects: ",  # and the others?
    r": not above 0$|: contains 0",
    r"\bat full size|\bbeyond twins|\bown \[|\bother \[",  # names of parts, which say nothing to a reader
    r"[01] of 1\b",
)


@given(st.sampled_from(JUDGED), st.lists(st.floats(-0.5, 1.5), min_size=6, max_size=6), st.floats(0, 1))
def test_no_reason_reads_as_none_would_sign(kind: str, values: list[float], p: float) -> None:
    low, middle, high = sorted(values[:3])
    parts = {"three": effect(*sorted(values[3:5]), p=p)} if kind in ("comparison", "equivalence") else {}
    drawn = finding_of(kind, parts, interval=(low, high), estimate=middle, interval90=(low, high))
    reason = judge(claim_of(kind), drawn).reason
    for form in UNTRUE:
        assert not re.search(form, reason), reason


def test_an_interval_in_the_gap_is_said_to_lie_there() -> None:
    for kind, ends in (("lower_bound", (0.6, 0.7)), ("interval_below", (0.41, 0.49))):
        verdict = judge(claim_of(kind), finding_of(kind, interval=ends))
        assert verdict.outcome is U and "lies wholly between" in verdict.reason
        across = judge(claim_of(kind), finding_of(kind, interval=(0.3, 0.9)))
        assert across.outcome is U and "lies neither below" in across.reason


def test_not_run_and_floor_come_first() -> None:
    not_run = finding_of("lower_bound", not_run="needs a GPU", floor="empty", estimate=None)
    assert judge(claim_of("lower_bound"), not_run).outcome is Outcome.NOT_RUN
    verdict = judge(claim_of("lower_bound"), finding_of("lower_bound", floor="3 neurons"))
    assert verdict.outcome is U and verdict.reason == "3 neurons"


@pytest.mark.parametrize(
    ("kind", "parts", "p"),
    [
        ("difference", {"permutation": a_test(0.2), "against imdb": a_test(0.9)}, 0.2),
        ("comparison", {"one": effect(0, 1, 0.2), "two": effect(0, 1, 0.3)}, 0.3),
        ("best_of", {"best": a_test(0.2), "one": effect(0, 1, 0.9)}, 0.2),
        ("specificity", {"own": effect(0, 1, 0.2), "other": effect(0, 1, 0.9)}, 0.2),
        ("above_chance", {"a": pair(0.001, 0.03), "b": Chance(p=0.002, p_by_layer=0.01)}, 0.03),
        ("monotone", {"trend": a_test(0.2), "reversal": a_test(0.9)}, 0.2),
        ("lower_bound", {}, None),
        ("equivalence", {}, None),
        ("difference", {"permutation": None}, None),
        ("difference", {"permutation": a_test(NAN)}, None),
        ("comparison", {"one": effect(0, 1, 0.2), "two": effect(0, 1, NAN)}, None),
    ],
)
def test_the_decisive_p_value(kind: str, parts: dict[str, Part | None], p: float | None) -> None:
    assert decisive_p(claim_of(kind), finding_of(kind, parts)) == p


@pytest.mark.parametrize(("of", "z", "z90"), [(1, 1.960, 1.645), (2, 2.241, 1.960), (6, 2.638, 2.394)])
def test_an_interval_for_several_parts_at_once_is_bonferronis(of: int, z: float, z90: float) -> None:
    one = Effect(0.3, (0.3 - 1.96, 0.3 + 1.96), (0.3 - 1.645, 0.3 + 1.645))
    finding = finding_of("comparison", {"one": one})
    assert at_once(finding, "one", one, of).ends == pytest.approx((0.3 - z, 0.3 + z), abs=2e-3)
    narrow = at_once(finding, "one", one, of, "interval90")
    assert narrow.ends == pytest.approx((0.3 - z90, 0.3 + z90), abs=2e-3)


@pytest.mark.parametrize("kind", ["comparison", "equivalence"])
def test_a_true_claim_of_several_parts_is_refuted_in_5_percent_of_cases_at_most(kind: str) -> None:
    """Six parts at the margin, which is the smallest effect that counts and the largest that does not: tested each at
    the level, one of them refutes in a quarter of all cases."""
    rng, margin = np.random.default_rng(3), 0.05
    rule = {"rule": RULES[kind](margin=margin, share=1.0)} if kind == "equivalence" else {}
    claim, refuted = claim_of(kind, **rule), 0
    for _ in range(400):
        parts: dict[str, Part | None] = {
            name: Effect(one, (one - 0.0196, one + 0.0196), (one - 0.01645, one + 0.01645), 0.001)
            for name, one in zip(
                ("one", "two", "a", "b", "c", "d"), margin + 0.01 * rng.standard_normal(6), strict=True
            )
        }
        refuted += judge(claim, finding_of(kind, parts)).outcome is R
    assert refuted <= 34  # 5 % of 400 and three standard errors


@pytest.mark.parametrize(("refuted_below", "expected"), [(0.8, U), (0.5, R)])
def test_a_level_counts_among_what_can_refute_where_it_has_one_threshold(
    refuted_below: float, expected: Outcome
) -> None:
    """A level above .8 does not refute below .5, so that twins have the whole level to themselves."""
    claim = claim_of("above_twin", rule=RULES["above_twin"](supported_above=0.8, refuted_below=refuted_below))
    finding = finding_of("above_twin", {"beyond twins": effect(-0.2, -0.001)})
    assert judge(claim, finding).outcome is expected
