"""Measured against printed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from caploc.findings import Cell, Finding, Outcome
from caploc.papers import IncompleteFindingError, Margin, judge, load_paper, number_agreement
from caploc.papers.agreement import Agreement, printed_band
from caploc.tests.papers.examples import claim_of, finding_of

PAPER = load_paper("capability_localization")
LLAMA = Cell("llama2-7b", "gsm8k", 6.0)


@pytest.mark.parametrize(
    ("printed", "unit", "margin", "low", "high", "text"),
    [
        ("96.42", "%", Margin("absolute", 0.05), 0.9142, 1.0142, "96.42% +- 5 points"),
        ("0.10", "%", Margin("factor", 2), 0.0005, 0.002, "0.10% within a factor of 2"),
        ("-3.31", "points", Margin("absolute", 0.05), -0.0831, 0.0169, "-3.31 points +- 5 points"),
        ("-3.31", "points", Margin("factor", 2), -0.0662, -0.01655, "-3.31 points within a factor of 2"),
        ("15.3", "neurons", Margin("absolute", 5), 10.3, 20.3, "15.3 neurons +- 5"),
    ],
)
def test_the_band_round_a_printed_number(
    printed: str, unit: str, margin: Margin, low: float, high: float, text: str
) -> None:
    band = printed_band(printed, unit, margin)
    assert (band.low, band.high) == (pytest.approx(low), pytest.approx(high)) and band.text == text
    assert band.holds(low + 1e-9, high - 1e-9) is Agreement.WITHIN
    assert band.holds(low - 1e-9, high) is Agreement.PARTLY
    assert band.holds(low - 1, low - 1e-9) is band.holds(high + 1e-9, high + 1) is Agreement.OUTSIDE


@pytest.mark.parametrize(
    ("claim", "interval", "note"),
    [
        ("table1-overlap", (0.93, 0.97), "our interval lies within the printed 96.42% +- 5 points"),
        ("table1-overlap", (0.90, 0.97), "our interval lies partly within the printed"),
        ("table1-overlap", (0.80, 0.91), "our interval lies outside the printed"),
        ("table1-iou", (0.87, 0.97), "our interval lies within the printed 93.08% +- 7 points"),
        ("table1-neuron", (0.0008, 0.0027), "within the printed 0.14% within a factor of 2"),
        ("table1-neuron", (0.003, 0.004), "outside"),
    ],
)
def test_agreement_with_the_number_of_a_cell(claim: str, interval: tuple[float, float], note: str) -> None:
    printed = PAPER.published(claim, "llama2-7b", "gsm8k", sigma=6)
    assert printed is not None
    finding = Finding(claim, LLAMA, "q", estimate=interval[0], interval=interval, published=printed.printed)
    assert note in (number_agreement(PAPER.claim(claim), finding) or "")


def test_agreement_with_numbers_of_running_text() -> None:
    numbers: dict[str, Any] = {"number:fall": (0.3, 0.4), "number:elsewhere": (0.1, 0.2)}
    assert number_agreement(claim_of("agreement"), finding_of("agreement", **numbers)) == (
        "our interval of rise lies within the printed 85.1% +- 5 points; "
        "our interval of fall lies outside the printed 14.9% +- 5 points"
    )


@pytest.mark.parametrize(
    ("margin", "numbers"),
    [
        (Margin("absolute", 0.05), {}),
        (Margin("absolute", 0.05), {"interval": None, "published": "96.42"}),
        (Margin("absolute", 0.05), {"interval": (float("nan"), 1.0), "published": "96.42"}),
        (None, {"published": "96.42"}),
    ],
)
def test_no_agreement_is_claimed_where_there_is_nothing_to_compare(
    margin: Margin | None, numbers: dict[str, Any]
) -> None:
    finding = dataclasses.replace(finding_of("lower_bound", **numbers), quantities={})
    assert number_agreement(claim_of("lower_bound", margin=margin), finding) is None


def test_the_rule_reads_the_cells_number_where_no_number_is_named() -> None:
    bare: dict[str, Any] = {"number:rise:low": None, "number:rise:high": None, "published": "96.42"}
    for interval, outcome in (
        ((0.92, 1.0), Outcome.SUPPORTED),
        ((0.90, 1.0), Outcome.INCONCLUSIVE),
        ((0.80, 0.91), Outcome.REFUTED),
    ):
        verdict = judge(claim_of("agreement"), finding_of("agreement", interval=interval, **bare))
        assert verdict.outcome is outcome and "96.42% +- 5 points" in verdict.reason
    text_only = claim_of("agreement", cells=())
    verdict = judge(text_only, finding_of("agreement", interval=(0.82, 0.85), **bare))
    assert verdict.outcome is Outcome.SUPPORTED and "85.1%" in verdict.reason, "its first printed number"


def test_where_the_paper_prints_nothing_agreement_is_open() -> None:
    for kind, part in (("agreement", "number:rise"), ("readings", "reading:mean")):
        silent: dict[str, Any] = {f"{part}:low": None, f"{part}:high": None}
        verdict = judge(claim_of(kind), finding_of(kind, **silent))
        assert verdict.outcome is Outcome.INCONCLUSIVE
        assert verdict.reason == "the paper prints no number for this cell"


def test_a_number_that_the_paper_does_not_print_is_a_defect() -> None:
    with pytest.raises(IncompleteFindingError, match="prints no number 'other'"):
        judge(claim_of("agreement"), finding_of("agreement", **{"number:other": (0.1, 0.2)}))
    with pytest.raises(IncompleteFindingError, match="'a-agreement' has no margin"):
        judge(claim_of("agreement", margin=None), finding_of("agreement"))
    quoted: dict[str, Any] = {"published": "85.1", "reading:mean:low": None, "reading:mean:high": None}
    with pytest.raises(IncompleteFindingError, match=r"no quantity 'reading:\.\.\.'"):
        judge(claim_of("readings"), finding_of("readings", **quoted))
