from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caploc.findings import Cell, Finding, Outcome
from caploc.papers import Claim, IncompleteFindingError, judge, load_paper, number_agreement

CLAIMS = load_paper("capability_localization").claims
CELL = Cell("tiny-llama", "gsm8k", 6.0)
NAN = math.nan

# numbers with which each rule says SUPPORTED, REFUTED and INCONCLUSIVE
EXAMPLES: list[tuple[str, str, dict[str, Any]]] = [
    ("table1-overlap", "SUPPORTED", {"interval": (0.81, 0.9)}),
    ("table1-overlap", "INCONCLUSIVE", {"interval": (0.80, 0.9)}),
    ("table1-overlap", "INCONCLUSIVE", {"interval": (0.4, 0.50)}),
    ("table1-overlap", "REFUTED", {"interval": (0.4, 0.49)}),
    ("table1-iou", "SUPPORTED", {"interval": (0.71, 0.8)}),
    ("table1-iou", "INCONCLUSIVE", {"interval": (0.32, 0.71)}),
    ("table1-iou", "REFUTED", {"interval": (0.1, 0.32)}),
    ("abstract-gsm8k-overlap", "SUPPORTED", {"interval": (0.91, 0.95)}),
    ("abstract-gsm8k-overlap", "INCONCLUSIVE", {"interval": (0.89, 0.91)}),
    ("abstract-gsm8k-overlap", "REFUTED", {"interval": (0.85, 0.89)}),
    ("convergence-subset-suffices", "SUPPORTED", {"interval": (0.91, 0.95)}),
    ("convergence-subset-suffices", "INCONCLUSIVE", {"interval": (0.79, 0.95)}),
    ("convergence-subset-suffices", "REFUTED", {"interval": (0.7, 0.79)}),
    ("table1-neuron", "SUPPORTED", {"estimate": 0.0099}),
    ("table1-neuron", "INCONCLUSIVE", {"estimate": 0.01}),
    ("table1-neuron", "REFUTED", {"estimate": 0.0101}),
    ("eq8-literal-variance", "SUPPORTED", {"estimate": 0.002}),
    ("eq8-literal-variance", "REFUTED", {"estimate": 0.97}),
    (
        "table1-both-high",
        "SUPPORTED",
        {"overlap_low": 0.9, "overlap_high": 1.0, "iou_low": 0.8, "iou_high": 0.9},
    ),
    (
        "table1-both-high",
        "INCONCLUSIVE",
        {"overlap_low": 0.9, "overlap_high": 1.0, "iou_low": 0.6, "iou_high": 0.9},
    ),
    (
        "table1-both-high",
        "REFUTED",
        {"overlap_low": 0.9, "overlap_high": 1.0, "iou_low": 0.1, "iou_high": 0.3},
    ),
    ("table1-commonality", "SUPPORTED", {"interval": (0.1, 0.2), "permutation": 0.01}),
    ("table1-commonality", "INCONCLUSIVE", {"interval": (-0.1, 0.2), "permutation": 0.01}),
    ("table1-commonality", "INCONCLUSIVE", {"interval": (0.1, 0.2), "permutation": 0.05}),
    ("table1-commonality", "INCONCLUSIVE", {"random_text_gap_low": -0.1}),
    ("table1-commonality", "REFUTED", {"interval": (-0.2, 0.0)}),
    ("table1-commonality", "REFUTED", {"random_text_gap90_low": -0.04, "random_text_gap90_high": 0.04}),
    (
        "control-untrained-overlap",
        "SUPPORTED",
        {"interval": (0.06, 0.2), "gap90_low": 0.08, "gap90_high": 0.18},
    ),
    (
        "control-untrained-overlap",
        "INCONCLUSIVE",
        {"interval": (-0.1, 0.2), "gap90_low": -0.08, "gap90_high": 0.1},
    ),
    (
        "control-untrained-overlap",
        "REFUTED",
        {"interval": (-0.2, -0.1), "gap90_low": -0.18, "gap90_high": -0.12},
    ),
    (
        "control-untrained-overlap",
        "REFUTED",
        {"interval": (-0.04, 0.04), "gap90_low": -0.03, "gap90_high": 0.03},
    ),
    ("table1-partition-independence", "SUPPORTED", {"range_random_structured": 0.04}),
    ("table1-partition-independence", "INCONCLUSIVE", {"range_random_structured": 0.05}),
    (
        "table1-partition-independence",
        "REFUTED",
        {"range_random_structured": 0.3, "worst_structured_gap_low": 0.11},
    ),
    ("fig4-dataset-overlap", "SUPPORTED", {"pair:a": 0.001, "pair:b": 0.009, "layer:a": 0.04}),
    ("fig4-dataset-overlap", "INCONCLUSIVE", {"pair:a": 0.001, "pair:b": 0.02, "layer:a": 0.04}),
    ("fig4-dataset-overlap", "INCONCLUSIVE", {"pair:a": 0.001, "pair:b": 0.001, "layer:a": 0.06}),
    ("fig4-dataset-overlap", "REFUTED", {"pair:a": 0.05, "pair:b": 0.9, "layer:a": 0.01}),
    ("convergence-llama2-7b", "SUPPORTED", {"trend_tau": 0.8, "trend": 0.01}),
    ("convergence-llama2-13b", "INCONCLUSIVE", {"trend_tau": 0.8, "trend": 0.06}),
    ("convergence-gptj-6b", "INCONCLUSIVE", {"last_increment90_high": 0.02}),
    ("convergence-llama2-7b", "REFUTED", {"trend_tau": 0.0}),
    ("convergence-llama2-7b", "REFUTED", {"last_increment_low": 0.06, "last_increment90_high": 0.1}),
]

DEFAULT_QUANTITIES = {
    "overlap_low": 0.9,
    "overlap_high": 0.95,
    "iou_low": 0.8,
    "iou_high": 0.9,
    "random_text_gap_low": 0.1,
    "random_text_gap_high": 0.3,
    "random_text_gap90_low": 0.12,
    "random_text_gap90_high": 0.28,
    "gap90_low": 0.1,
    "gap90_high": 0.2,
    "range_random_structured": 0.04,
    "worst_structured_gap_low": -0.01,
    "worst_structured_gap_high": 0.03,
    "trend_tau": 0.9,
    "last_increment_low": -0.01,
    "last_increment90_high": 0.01,
}
DEFAULT_P_VALUES = {"permutation": 0.001, "trend": 0.001, "pair:a": 0.001, "layer:a": 0.01}


def finding(claim: str, **numbers: Any) -> Finding:
    """A finding of the claim in which only the named numbers differ from a well supported one."""
    fields = {name: numbers.pop(name) for name in ("estimate", "interval") if name in numbers}
    p_values = {name: numbers.pop(name) for name in list(numbers) if ":" in name or name in DEFAULT_P_VALUES}
    return Finding(
        claim,
        CELL,
        "overlap",
        **({"estimate": 0.5, "interval": (0.1, 0.2)} | fields),
        quantities=DEFAULT_QUANTITIES | numbers,
        p_values=DEFAULT_P_VALUES | p_values,
    )


@pytest.mark.parametrize(("claim", "outcome", "numbers"), EXAMPLES)
def test_each_rule_by_example(claim: str, outcome: str, numbers: dict[str, Any]) -> None:
    verdict = judge(CLAIMS[claim], finding(claim, **numbers))
    assert verdict.outcome == outcome, verdict.reason
    assert "\n" not in verdict.reason


def test_the_examples_reach_every_outcome_of_every_rule() -> None:
    reached = {(CLAIMS[claim].rule.kind, outcome) for claim, outcome, _ in EXAMPLES}
    kinds = {claim.rule.kind for claim in CLAIMS.values()}
    assert reached == {
        (kind, outcome) for kind in kinds for outcome in ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
    }


def test_the_reason_names_the_numbers_and_thresholds() -> None:
    reason = judge(CLAIMS["table1-overlap"], finding("table1-overlap", interval=(0.80001, 0.9))).reason
    assert "0.80001" in reason and "above 0.8" in reason
    reason = judge(
        CLAIMS["table1-neuron"],
        finding("table1-neuron", estimate=0.2, chebyshev_bound=1 / 36),
    ).reason
    assert "above 0.01" in reason and "impossible under the standard deviation" in reason


def test_equivalence_outweighs_a_small_significant_difference() -> None:
    small = {"interval": (0.01, 0.03), "gap90_low": 0.012, "gap90_high": 0.028}
    verdict = judge(CLAIMS["control-untrained-overlap"], finding("control-untrained-overlap", **small))
    assert verdict.outcome == Outcome.REFUTED and "equivalent" in verdict.reason


def test_not_run_and_floor_come_first() -> None:
    claim = CLAIMS["table1-overlap"]
    not_run = Finding("table1-overlap", CELL, "overlap", not_run="needs a GPU", floor="empty")
    assert judge(claim, not_run).outcome == Outcome.NOT_RUN
    floor = Finding("table1-overlap", CELL, "overlap", estimate=0.9, interval=(0.9, 1), floor="3 neurons")
    assert judge(claim, floor) == judge(claim, floor) and judge(claim, floor).outcome == Outcome.INCONCLUSIVE
    assert judge(claim, floor).reason == "3 neurons"


@pytest.mark.parametrize(
    "numbers",
    [
        {"estimate": None},
        {"estimate": NAN},
        {"interval": None},
        {"interval": (NAN, 1.0)},
        {"interval": (0.9, 0.2)},
    ],
)
def test_what_is_undefined_is_inconclusive(numbers: dict[str, Any]) -> None:
    assert (
        judge(CLAIMS["table1-overlap"], finding("table1-overlap", **numbers)).outcome == Outcome.INCONCLUSIVE
    )


def test_a_missing_quantity_is_a_defect_and_not_a_verdict() -> None:
    bare = Finding("convergence-llama2-7b", CELL, "overlap", estimate=0.9)
    with pytest.raises(IncompleteFindingError, match="lacks the quantity 'trend_tau'"):
        judge(CLAIMS["convergence-llama2-7b"], bare)
    with pytest.raises(IncompleteFindingError, match=r"no p value 'pair:\.\.\.'"):
        judge(CLAIMS["fig4-dataset-overlap"], Finding("fig4-dataset-overlap", CELL, "overlap", estimate=0.9))
    with pytest.raises(IncompleteFindingError, match="not about 'table1-iou'"):
        judge(CLAIMS["table1-iou"], finding("table1-overlap"))


anything = st.floats(allow_nan=True, allow_infinity=True)
fraction = st.floats(-1, 1)


@given(st.data(), st.sampled_from(list(CLAIMS.values())))
def test_a_rule_returns_whatever_the_numbers(data: st.DataObject, claim: Claim) -> None:
    drawn = finding(
        claim.id,
        estimate=data.draw(st.none() | anything),
        interval=data.draw(st.none() | st.tuples(anything, anything)),
        chebyshev_bound=data.draw(anything),
        **{name: data.draw(anything) for name in (*DEFAULT_QUANTITIES, *DEFAULT_P_VALUES)},
    )
    verdict = judge(claim, drawn)
    assert verdict.outcome in (Outcome.SUPPORTED, Outcome.REFUTED, Outcome.INCONCLUSIVE)
    assert verdict.reason
    number_agreement(claim, drawn)


INTERVALS = (
    ("overlap_low", "overlap_high"),
    ("iou_low", "iou_high"),
    ("random_text_gap_low", "random_text_gap90_low", "random_text_gap90_high", "random_text_gap_high"),
    ("gap90_low", "gap90_high"),
)
HIGH_CLAIMS = [
    claim
    for claim in CLAIMS.values()
    if claim.rule.kind in ("lower_bound", "both", "difference", "plain_difference")
]


@given(st.data(), st.sampled_from(HIGH_CLAIMS), st.floats(0, 1))
def test_moving_up_never_turns_supported_into_refuted(
    data: st.DataObject, claim: Claim, shift: float
) -> None:
    numbers: dict[str, float] = {}
    for names in INTERVALS:
        ends = sorted(data.draw(st.tuples(*[fraction] * len(names))))
        numbers |= dict(zip(names, ends, strict=True))
    low, high = sorted(data.draw(st.tuples(fraction, fraction)))
    if claim.rule.kind == "plain_difference":  # there the 90 % interval is one of the same difference
        numbers["gap90_low"], numbers["gap90_high"] = sorted(
            data.draw(st.tuples(st.floats(low, high), st.floats(low, high)))
        )
    moved = {name: value + shift for name, value in numbers.items()}
    before = judge(claim, finding(claim.id, interval=(low, high), **numbers))
    after = judge(claim, finding(claim.id, interval=(low + shift, high + shift), **moved))
    assert (before.outcome, after.outcome) != (Outcome.SUPPORTED, Outcome.REFUTED)


@pytest.mark.parametrize(
    ("claim", "interval", "note"),
    [
        ("table1-overlap", (0.93, 0.97), "within the printed 96.42% +- 5 points"),
        ("table1-overlap", (0.90, 0.97), "partly within"),
        ("table1-overlap", (0.80, 0.91), "outside"),
        ("table1-iou", (0.87, 0.97), "within the printed 93.08% +- 7 points"),
        ("table1-neuron", (0.0008, 0.0027), "within the printed 0.14% within a factor of 2"),
        ("table1-neuron", (0.003, 0.004), "outside"),
    ],
)
def test_agreement_with_the_printed_number(claim: str, interval: tuple[float, float], note: str) -> None:
    cell = Cell("llama2-7b", "gsm8k", 6.0)
    measured = Finding(claim, cell, "q", estimate=interval[0], interval=interval, published="as printed")
    assert note in (number_agreement(CLAIMS[claim], measured) or "")


def test_no_agreement_is_claimed_where_nothing_is_printed() -> None:
    claim = CLAIMS["table1-overlap"]
    tiny = Finding(claim.id, CELL, "q", estimate=0.9, interval=(0.9, 0.95), published="96.42")
    assert number_agreement(claim, tiny) is None
    unquoted = Finding(claim.id, Cell("llama2-7b", "gsm8k"), "q", estimate=0.9, interval=(0.9, 0.95))
    assert number_agreement(claim, unquoted) is None
