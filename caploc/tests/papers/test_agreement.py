"""Measured against printed."""

from __future__ import annotations

from typing import Any

import pytest

from caploc.findings import Cell, Finding, Measurement, Number, Outcome, Part, Reading
from caploc.papers import Margin, PrintedFor, load_paper
from caploc.rules import IncompleteFindingError, judge, number_agreement
from caploc.rules.printed import Agreement, printed_band
from caploc.tests.papers.examples import CELL, claim_of, finding_of

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
    printed = PAPER.claim(claim).published(LLAMA)
    assert printed is not None
    finding = Finding(claim, LLAMA, Measurement("q", Part(interval[0], interval)), published=printed)
    assert note in (number_agreement(PAPER.claim(claim), finding) or "")


def number(low: float, high: float, **at: Any) -> Number:
    return Number((low + high) / 2, (low, high), at=at)


def test_agreement_with_numbers_of_running_text() -> None:
    numbers = {"fall": number(0.3, 0.4), "elsewhere": number(0.1, 0.2)}
    assert number_agreement(claim_of("agreement"), finding_of("agreement", numbers)) == (
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
    finding = finding_of("lower_bound", **numbers)
    assert number_agreement(claim_of("lower_bound", margin=margin), finding) is None


def test_the_rule_reads_the_cells_number_where_no_number_is_named() -> None:
    bare: dict[str, Any] = {"parts": {"rise": None}, "published": "96.42"}
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


def test_numbers_of_a_table_are_found_by_their_coordinates() -> None:
    parts = {"rise": None, "a": number(0.93, 0.97, dataset="gsm8k", quantity="overlap")}
    verdict = judge(claim_of("agreement"), finding_of("agreement", parts))
    assert (
        verdict.outcome is Outcome.SUPPORTED
        and "a [0.93, 0.97] lies within the printed 96.42%" in verdict.reason
    )
    other = {**parts, "b": number(0.1, 0.2, dataset="imdb"), "c": number(0.1, 0.2, quantity="iou")}
    assert judge(claim_of("agreement"), finding_of("agreement", other)) == verdict, (
        "of these it prints nothing"
    )
    elsewhere = claim_of("agreement", printed_for=PrintedFor(("*",), "imdb"))
    with_text = finding_of("agreement", {**parts, "rise": number(0.1, 0.2)})
    assert judge(elsewhere, with_text) == verdict, "the text is about another dataset"


def test_table_2_is_held_against_ours_cell_by_cell() -> None:
    claim = PAPER.claim("table2-numbers")
    at: dict[str, Any] = {"method": "located", "epoch": 10, "dataset": "gsm8k"}
    for model, printed in (("llama2-7b", "25.75"), ("gptj-6b", "27.38"), ("tiny-llama", None)):
        found = claim.printed_number(Cell(model, None, 6.0), "", at)
        assert (found.printed if found else None) == printed
    unprinted = Measurement("q", Part(0.2, (0.1, 0.3)), {"one": number(0.1, 0.2, **at)}, floor="diverged")
    verdict = judge(claim, Finding(claim.id, Cell("tiny-llama", None, 6.0), unprinted))
    assert verdict.outcome is Outcome.MEASURED
    assert verdict.reason == "the paper prints no number for this model"
    verdict = judge(claim, Finding(claim.id, Cell("llama2-7b", None, 6.0), unprinted))
    assert verdict.reason == "diverged"


def test_a_floor_hides_no_comparison_of_a_score_with_its_printed_one() -> None:
    quoted: dict[str, Any] = {"parts": {"rise": None}, "interval": (0.92, 1.0), "floor": "nothing to lose"}
    assert judge(claim_of("agreement"), finding_of("agreement", **quoted)).outcome is Outcome.MEASURED
    verdict = judge(claim_of("agreement"), finding_of("agreement", published="96.42", **quoted))
    assert verdict.outcome is Outcome.SUPPORTED


def test_where_the_paper_prints_nothing_agreement_is_open() -> None:
    for kind, part in (("agreement", "rise"), ("readings", "mean")):
        verdict = judge(claim_of(kind), finding_of(kind, {part: None}))
        assert verdict.outcome is Outcome.MEASURED
        assert verdict.reason == "the paper prints no number for this cell"
        for printed_for in (None, PrintedFor(("llama2-7b",)), PrintedFor(("*",), "imdb")):
            verdict = judge(claim_of(kind, printed_for=printed_for), finding_of(kind, estimate=None))
            assert verdict.outcome is Outcome.MEASURED
            assert verdict.reason == "the paper prints no number for this model"


def test_a_number_that_the_paper_does_not_print_is_a_defect() -> None:
    with pytest.raises(IncompleteFindingError, match="prints no number 'other'"):
        judge(claim_of("agreement"), finding_of("agreement", {"other": number(0.1, 0.2)}))
    with pytest.raises(IncompleteFindingError, match="'a-agreement' has no margin"):
        judge(claim_of("agreement", margin=None), finding_of("agreement"))
    with pytest.raises(IncompleteFindingError, match="no part that is a Reading"):
        judge(claim_of("readings"), finding_of("readings", {"mean": None}, published="85.1"))


@pytest.mark.parametrize(
    ("claim", "cell", "column", "printed"),
    [
        ("table1-overlap", Cell("llama2-7b", "gsm8k", 6.0), None, "96.42"),
        ("table1-overlap", Cell("llama2-7b", "gsm8k", 3.0), None, None),
        ("table1-overlap", Cell("tiny-llama", "gsm8k", 6.0), None, None),
        ("table3-base", Cell("llama2-7b", "emotion"), None, "17.63"),
        ("table3-base", Cell("llama2-7b", "emotion", 6.0), None, "17.63"),
        ("table3-base", Cell("llama2-7b"), "average", "19.48"),
        ("table3-erase", Cell("llama2-13b", "code25k", 12.0), None, "20.48"),
        ("table3-erase", Cell("llama2-13b", None, 3.0), "average", "7.42"),
        ("table3-erase", Cell("llama2-13b", "imdb", 3.0), None, None),
        ("table3-located-hurts-more", Cell("llama2-7b", "emotion", 6.0), None, None),
        ("table2-numbers", Cell("llama2-7b", None, 6.0), None, None),
        ("table2-param-share", Cell("llama2-7b", None, 6.0), None, "0.15"),
        ("table2-param-share", Cell("tiny-llama", None, 6.0), None, None),
        ("cross-significant-improvement", Cell("gptj-6b", None, 6.0), "average", "17.66"),
        ("fidelity-kn-overlap", Cell("gptj-6b", "counterfact"), None, "37.3"),
        ("fidelity-kn-overlap", Cell("gptj-6b", "zsre"), None, None),
        ("fidelity-kn-overlap", Cell("llama2-7b", "counterfact"), None, None),
        ("reliability-rome-layers-equal", Cell("gptj-6b", "zsre"), None, None),
        ("reliability-rome-ipp", Cell("gptj-6b", "zsre"), None, "0.0"),
    ],
)
def test_the_number_that_a_finding_is_quoted_beside(
    claim: str, cell: Cell, column: str | None, printed: str | None
) -> None:
    assert PAPER.claim(claim).published(cell, column) == printed


def test_a_reading_is_held_against_the_first_number() -> None:
    held = finding_of("readings", {"mean": Reading(interval=(0.1, 0.2))})
    assert "85.1%" in judge(claim_of("readings"), held).reason and held.cell == CELL
