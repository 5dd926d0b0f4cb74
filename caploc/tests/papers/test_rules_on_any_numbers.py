"""What a rule does with any numbers at all: undefined, absent, and moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.findings import Count, Finding, Measurement, Outcome, Part
from caploc.papers import Claim, load_paper
from caploc.rules import RULES, IncompleteFindingError, decisive_p, judge, number_agreement
from caploc.tests.papers.examples import (
    CELL,
    COMPARISONS,
    JUDGED,
    NAN,
    WELL,
    Place,
    bound,
    claim_of,
    derived_of,
    effect,
    finding_of,
    places,
    with_numbers,
)

S, R, U, M = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE, Outcome.MEASURED
CLAIMS = load_paper("capability_localization").claims


def bare(claim: str, estimate: float = 0.9) -> Finding:
    return Finding(claim, CELL, Measurement("overlap", Part(estimate)))


def test_every_registered_rule_is_tried_here() -> None:
    embedded = {kind for kind, rule in RULES.items() if rule.__module__.startswith("caploc.rules.")}
    assert embedded == {*JUDGED, "derived"}


@pytest.mark.parametrize("kind", [kind for kind in JUDGED if kind != "untestable"])
@pytest.mark.parametrize("estimate", [None, NAN, float("inf")])
def test_without_an_estimate_nothing_is_decided(kind: str, estimate: float | None) -> None:
    verdict = judge(claim_of(kind), finding_of(kind, estimate=estimate))
    assert verdict.outcome is U and verdict.reason == "no estimate: overlap is undefined here"


@pytest.mark.parametrize("interval", [None, (NAN, 1.0), (0.9, 0.2)])
def test_an_interval_that_is_undefined_is_inconclusive(interval: tuple[float, float] | None) -> None:
    for kind in ("lower_bound", "interval_below", "within", "difference", "plain_difference"):
        assert judge(claim_of(kind), finding_of(kind, interval=interval)).outcome is U


def places_read(kind: str) -> list[Place]:
    """The numbers without which the rule does not return."""
    found, well = [], finding_of(kind)
    for place in places(well):
        try:
            judge(claim_of(kind), with_numbers(well, {place: None}))
        except IncompleteFindingError:
            found.append(place)
    return found


@pytest.mark.parametrize("kind", JUDGED)
def test_what_a_rule_reads_must_be_there_and_a_number(kind: str) -> None:
    """A number that is absent is a defect of the experiment; one that is nan is named."""
    read = places_read(kind)
    levels = ("lower_bound", "upper_bound", "interval_below", "within", "consistent")
    assert bool(read) == (kind not in (*levels, "untestable", "measured"))
    assert {name for name, _, _ in read} - {""} == set(WELL.get(kind, {}))
    for place in read:
        verdict = judge(claim_of(kind), with_numbers(finding_of(kind), {place: NAN}))
        assert verdict.outcome is U
        assert repr(place[0]) in verdict.reason or place == ("", "interval90", place[2])


@pytest.mark.parametrize("kind", JUDGED)
def test_a_part_of_another_kind_is_not_taken(kind: str) -> None:
    for name in WELL.get(kind, {}):
        other = Part(0.9, (0.8, 0.95), (0.8, 0.95), 0.001)
        try:
            verdict = judge(claim_of(kind), finding_of(kind, {name: other}))
        except IncompleteFindingError:
            continue
        # a rule that reads all parts of a kind sees one fewer
        without = judge(claim_of(kind), finding_of(kind, {name: None}))
        assert verdict == without


def test_a_missing_part_is_a_defect_and_not_a_verdict() -> None:
    with pytest.raises(IncompleteFindingError, match=r"lacks the part 'rise' \(Effect\)"):
        judge(claim_of("trend"), finding_of("trend", {"rise": None}))
    with pytest.raises(IncompleteFindingError, match=r"lacks the part 'rise' \(Effect\)"):
        judge(claim_of("trend"), finding_of("trend", {"rise": Count(0.9)}))
    for kind, part in (
        ("above_chance", "Chance"),
        ("comparison", "Effect"),
        ("lower_bounds", "Bound"),
        ("equivalence", "Effect"),
    ):
        claim = claim_of(kind)
        with pytest.raises(IncompleteFindingError, match=rf"no part that is a {part}"):
            judge(claim, bare(claim.id))
    with pytest.raises(IncompleteFindingError, match="not about 'a-trend'"):
        judge(claim_of("trend"), finding_of("lower_bound"))


def test_a_part_with_a_p_value_alone_is_not_overlooked() -> None:
    half = finding_of("comparison", {"two": replace(effect(0, 1), interval=None, interval90=None)})
    with pytest.raises(IncompleteFindingError, match=r"the part 'two' .* has no interval, which"):
        judge(claim_of("comparison"), half)


def test_a_derived_claim_has_no_finding() -> None:
    with pytest.raises(IncompleteFindingError, match="'a-derived' follows from x, y: derive its verdict"):
        judge(derived_of("x", "y"), bare("a-derived"))


anything = st.floats(allow_nan=True, allow_infinity=True)
fraction = st.floats(-1, 1)
OUTCOMES = (S, R, U)


@given(st.data(), st.sampled_from(JUDGED))
def test_a_rule_returns_whatever_the_numbers(data: st.DataObject, kind: str) -> None:
    well = finding_of(
        kind,
        {"Chebyshev bound": Count(data.draw(anything))},
        published=data.draw(st.none() | st.just("96.42")),
    )
    drawn = with_numbers(well, {place: data.draw(anything) for place in places(well)})
    absent = [("", "estimate", None), ("", "interval", None)]
    drawn = with_numbers(drawn, {place: None for place in absent if data.draw(st.booleans())})
    verdict = judge(claim_of(kind), drawn)
    no_verdict = verdict.outcome is M and kind in ("measured", "untestable")
    assert (verdict.outcome in OUTCOMES or no_verdict) and verdict.reason
    number_agreement(claim_of(kind), drawn)
    p = decisive_p(claim_of(kind), drawn)
    assert p is None or p == p


def moved(finding: Finding, data: st.DataObject, shift: float) -> tuple[Finding, Finding]:
    """The finding with other intervals and estimates, 90 % within 95 % ones, and the same all moved up by ``shift``."""
    before: dict[Place, float | None] = {}
    for name in {name for name, _, _ in places(finding)}:
        ends = sorted(data.draw(st.tuples(*[fraction] * 5)))
        nested = zip(
            (("interval", 0), ("interval90", 0), ("estimate", None), ("interval90", 1), ("interval", 1)),
            ends,
            strict=True,
        )
        before |= {(name, *place): value for place, value in nested if (name, *place) in places(finding)}
    after = {place: (value or 0) + shift for place, value in before.items()}
    return with_numbers(finding, before), with_numbers(finding, after)


HIGH = (
    "lower_bound",
    "lower_bounds",
    "above_twin",
    "both",
    "difference",
    "beyond_twins",
    "plain_difference",
    "comparison",
    "best_of",
    "non_inferiority",
)


@given(st.data(), st.sampled_from(HIGH), st.floats(0, 1))
def test_moving_up_never_turns_supported_into_refuted(data: st.DataObject, kind: str, shift: float) -> None:
    more = {"rise": bound(0.1, 0.2), "fall": bound(0.1, 0.2)} if kind == "lower_bounds" else {}
    before, after = (judge(claim_of(kind), finding) for finding in moved(finding_of(kind, more), data, shift))
    assert (before.outcome, after.outcome) != (S, R)


@given(st.data(), st.sampled_from(("interval_below", "upper_bound")), st.floats(0, 1))
def test_moving_down_never_turns_supported_into_refuted(data: st.DataObject, kind: str, shift: float) -> None:
    well = finding_of(kind)
    of_value = [place for place in places(well) if place[0] == ""]
    low, value, high = sorted(data.draw(st.tuples(*[fraction] * 3)))

    def outcome(by: float) -> Outcome:
        numbers: dict[Place, float | None] = {
            ("", "estimate", None): value + by,
            ("", "interval", 0): low + by,
            ("", "interval", 1): high + by,
        }
        assert set(numbers) <= set(of_value)
        return judge(claim_of(kind), with_numbers(well, numbers)).outcome

    assert (outcome(0), outcome(-shift)) != (S, R)


def p_places(kind: str) -> list[Place]:
    return [place for place in places(finding_of(kind)) if place[1] in ("p", "p_by_layer")]


@given(st.data(), st.sampled_from(("difference", "comparison", "best_of", "specificity", "above_chance")))
def test_a_larger_p_value_never_helps(data: st.DataObject, kind: str) -> None:
    rank = {R: 0, U: 1, S: 2}
    small = {place: data.draw(st.floats(0, 1)) for place in p_places(kind)}
    large = {place: data.draw(st.floats(p, 1)) for place, p in small.items()}
    assert small
    verdicts = [judge(claim_of(kind), with_numbers(finding_of(kind), numbers)) for numbers in (small, large)]
    assert rank[verdicts[1].outcome] <= rank[verdicts[0].outcome]


@given(
    st.data(), st.sampled_from([kind for kind in JUDGED if kind not in ("plain_difference", "beyond_twins")])
)
def test_supported_rests_on_a_p_value_below_the_level_where_there_is_one(
    data: st.DataObject, kind: str
) -> None:
    ps = {place: data.draw(st.floats(0, 0.1)) for place in p_places(kind)}
    drawn, claim = with_numbers(finding_of(kind), ps), claim_of(kind)
    p = decisive_p(claim, drawn)
    assert (p is not None) == (kind in COMPARISONS or kind == "monotone")
    if p is not None and judge(claim, drawn).outcome is S:
        assert p < claim.level


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_every_claim_of_the_paper_has_a_rule(claim: Claim) -> None:
    """Judging an empty finding is a defect, inconclusive, or leaves nothing to judge; it is never a verdict."""
    try:
        verdict = judge(claim, bare(claim.id, 0.5))
    except IncompleteFindingError:
        return
    assert verdict.outcome in (U, Outcome.MEASURED) or claim.rule.kind in ("upper_bound", "consistent")
