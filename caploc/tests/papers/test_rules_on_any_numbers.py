"""What a rule does with any numbers at all: undefined, absent, and moved."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.findings import Finding, Outcome
from caploc.papers import Claim, IncompleteFindingError, decisive_p, judge, load_paper, number_agreement
from caploc.papers.kinds import COMPARISONS
from caploc.tests.papers.examples import (
    CELL,
    JUDGED,
    NAN,
    PARTS,
    WELL,
    WELL_P,
    claim_of,
    derived_of,
    finding_of,
)

S, R, U = Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE
CLAIMS = load_paper("capability_localization").claims


@pytest.mark.parametrize("kind", [kind for kind in JUDGED if kind != "untestable"])
@pytest.mark.parametrize("estimate", [None, NAN, float("inf")])
def test_without_an_estimate_nothing_is_decided(kind: str, estimate: float | None) -> None:
    verdict = judge(claim_of(kind), finding_of(kind, estimate=estimate))
    assert verdict.outcome is U and verdict.reason == "no estimate: overlap is undefined here"


@pytest.mark.parametrize("interval", [None, (NAN, 1.0), (0.9, 0.2)])
def test_an_interval_that_is_undefined_is_inconclusive(interval: tuple[float, float] | None) -> None:
    for kind in ("lower_bound", "interval_below", "within", "difference", "plain_difference"):
        assert judge(claim_of(kind), finding_of(kind, interval=interval)).outcome is U


def names_read(kind: str) -> list[str]:
    """The quantities and p values without which the rule does not return."""
    found = []
    every = [*WELL, *WELL_P]
    for part in PARTS.get(kind, {}):
        every += [f"effect:{part}:{end}" for end in ("estimate", "low", "high", "low90", "high90")]
        every += [f"effect:{part}"]
    for name in every:
        try:
            judge(claim_of(kind), finding_of(kind, **{name: None}))
        except IncompleteFindingError:
            found.append(name)
    return found


@pytest.mark.parametrize("kind", JUDGED)
def test_what_a_rule_reads_must_be_there_and_a_number(kind: str) -> None:
    """A quantity that is absent is a defect of the experiment; one that is nan is named."""
    read = names_read(kind)
    assert bool(read) == (
        kind not in ("lower_bound", "upper_bound", "interval_below", "within", "consistent", "untestable")
    )
    for name in read:
        verdict = judge(claim_of(kind), finding_of(kind, **{name: NAN}))
        assert verdict.outcome is U
        assert repr(name) in verdict.reason


def test_a_missing_quantity_is_a_defect_and_not_a_verdict() -> None:
    with pytest.raises(IncompleteFindingError, match="lacks the quantity 'trend_tau'"):
        judge(claim_of("trend"), finding_of("trend", trend_tau=None))
    bare = Finding("a-above_chance", CELL, "overlap", estimate=0.9)
    with pytest.raises(IncompleteFindingError, match=r"no p value 'pair:\.\.\.'"):
        judge(claim_of("above_chance"), bare)
    for kind, prefix in (("comparison", "effect"), ("lower_bounds", "bound"), ("equivalence", "effect")):
        with pytest.raises(IncompleteFindingError, match=rf"no quantity '{prefix}:\.\.\.'"):
            judge(claim_of(kind), Finding(f"a-{kind}", CELL, "overlap", estimate=0.9))
    with pytest.raises(IncompleteFindingError, match="not about 'a-trend'"):
        judge(claim_of("trend"), finding_of("lower_bound"))


def test_a_part_with_a_p_value_alone_is_not_overlooked() -> None:
    ends = ("estimate", "low", "high", "low90", "high90")
    half = finding_of("comparison", **{f"effect:two:{end}": None for end in ends})
    with pytest.raises(IncompleteFindingError, match="lacks the quantity 'effect:two:low'"):
        judge(claim_of("comparison"), half)


def test_a_derived_claim_has_no_finding() -> None:
    with pytest.raises(IncompleteFindingError, match="'a-derived' follows from x, y: derive its verdict"):
        judge(derived_of("x", "y"), Finding("a-derived", CELL, "overlap", estimate=0.9))


anything = st.floats(allow_nan=True, allow_infinity=True)
fraction = st.floats(-1, 1)
OUTCOMES = (S, R, U)


@given(st.data(), st.sampled_from(JUDGED))
def test_a_rule_returns_whatever_the_numbers(data: st.DataObject, kind: str) -> None:
    names = [*WELL, *WELL_P, *(f"effect:{part}" for part in PARTS.get(kind, {}))]
    for part in PARTS.get(kind, {}):
        names += [f"effect:{part}:{end}" for end in ("estimate", "low", "high", "low90", "high90")]
    drawn = finding_of(
        kind,
        estimate=data.draw(st.none() | anything),
        interval=data.draw(st.none() | st.tuples(anything, anything)),
        published=data.draw(st.none() | st.just("96.42")),
        chebyshev_bound=data.draw(anything),
        **{name: data.draw(anything) for name in names},
    )
    verdict = judge(claim_of(kind), drawn)
    assert verdict.outcome in OUTCOMES and verdict.reason
    number_agreement(claim_of(kind), drawn)
    p = decisive_p(claim_of(kind), drawn)
    assert p is None or p == p


def nested(draw: Any) -> dict[str, float]:
    """An interval of 95 % with one of 90 % and the estimate inside it."""
    ends = sorted(draw(st.tuples(*[fraction] * 5)))
    return dict(zip(("low", "low90", "estimate", "high90", "high"), ends, strict=True))


HIGH = (
    "lower_bound",
    "lower_bounds",
    "both",
    "difference",
    "plain_difference",
    "comparison",
    "best_of",
    "non_inferiority",
)
PAIRS = (
    ("overlap_low", "overlap_high"),
    ("iou_low", "iou_high"),
    ("random_text_gap_low", "random_text_gap90_low", "random_text_gap90_high", "random_text_gap_high"),
)


@given(st.data(), st.sampled_from(HIGH), st.floats(0, 1))
def test_moving_up_never_turns_supported_into_refuted(data: st.DataObject, kind: str, shift: float) -> None:
    numbers: dict[str, float] = {}
    for names in PAIRS:
        ends = sorted(data.draw(st.tuples(*[fraction] * len(names))))
        numbers |= dict(zip(names, ends, strict=True))
    whole = nested(data.draw)
    numbers |= {"gap90_low": whole["low90"], "gap90_high": whole["high90"]}
    for part in (*(f"effect:{part}" for part in PARTS.get(kind, {})), "bound:rise", "bound:fall"):
        numbers |= {f"{part}:{end}": value for end, value in nested(data.draw).items()}
    moved = {name: value + shift for name, value in numbers.items()}
    low, high = whole["low"], whole["high"]
    before = judge(claim_of(kind), finding_of(kind, interval=(low, high), **numbers))
    after = judge(claim_of(kind), finding_of(kind, interval=(low + shift, high + shift), **moved))
    assert (before.outcome, after.outcome) != (S, R)


@given(st.data(), st.sampled_from(("interval_below", "overlap_below", "upper_bound")), st.floats(0, 1))
def test_moving_down_never_turns_supported_into_refuted(data: st.DataObject, kind: str, shift: float) -> None:
    whole = nested(data.draw)

    def outcome(by: float) -> Outcome:
        interval = (whole["low"] + by, whole["high"] + by)
        return judge(
            claim_of(kind), finding_of(kind, interval=interval, estimate=whole["estimate"] + by)
        ).outcome

    assert (outcome(0), outcome(-shift)) != (S, R)


@given(st.data(), st.sampled_from(("difference", "comparison", "best_of", "specificity", "above_chance")))
def test_a_larger_p_value_never_helps(data: st.DataObject, kind: str) -> None:
    rank = {R: 0, U: 1, S: 2}
    names = [*WELL_P, *(f"effect:{part}" for part in PARTS.get(kind, {}))]
    small = {name: data.draw(st.floats(0, 1)) for name in names}
    large = {name: data.draw(st.floats(p, 1)) for name, p in small.items()}
    verdicts = [judge(claim_of(kind), finding_of(kind, **numbers)) for numbers in (small, large)]
    assert rank[verdicts[1].outcome] <= rank[verdicts[0].outcome]


@given(st.data(), st.sampled_from([kind for kind in JUDGED if kind != "plain_difference"]))
def test_supported_rests_on_a_p_value_below_the_level_where_there_is_one(
    data: st.DataObject, kind: str
) -> None:
    names = [*WELL_P, *(f"effect:{part}" for part in PARTS.get(kind, {}))]
    drawn = finding_of(kind, **{name: data.draw(st.floats(0, 0.1)) for name in names})
    p, claim = decisive_p(claim_of(kind), drawn), claim_of(kind)
    assert (p is not None) == (kind in COMPARISONS or kind in ("trend", "monotone"))
    if p is not None and judge(claim, drawn).outcome is S:
        assert p < claim.level


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_every_claim_of_the_paper_has_a_rule(claim: Claim) -> None:
    """Judging an empty finding is a defect, or inconclusive; it is never a verdict."""
    bare = Finding(claim.id, CELL, "overlap", estimate=0.5)
    try:
        verdict = judge(claim, bare)
    except IncompleteFindingError:
        return
    assert verdict.outcome is U or claim.rule.kind in ("upper_bound", "consistent")
