"""Every check can come out either way: with other digits it finds less, or more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caploc.consistency import CHECKS
from caploc.findings import Outcome
from caploc.papers import load_paper
from caploc.rules import judge
from caploc.tests.consistency.changed import KEY, Change, finding_of, violations, with_claim, with_tables

PRINTED_PAPER = load_paper(KEY)


# claim, violations left, digits of the tables
TABLES: list[tuple[str, float, list[Change]]] = [
    ("print-table2-averages", 0, [("28.95", "29.61")]),
    ("print-table2-averages", 2, [("34.12", "34.14")]),
    ("print-table2-averages", 1, [("39.73", "39.74")]),  # rounded to the nearest instead of cut off
    ("print-table3-averages", 1, [('"12.05"', '"12.15"')]),
    ("print-table3-changes", 1, [("-7.43", "-7.45")]),
    ("print-table3-changes", 0, [("-7.43", "-7.44")]),  # two rounded scores may differ by that
    (
        "print-gsm8k-granularity",
        0,
        [("0.02", "0.00"), ("25.35", "25.38"), ("24.52", "24.50"), ("24.79", "24.81")],
    ),
    ("print-gsm8k-granularity", 5, [('"24.31", "22.38"', '"24.32", "22.38"')]),
    (
        "print-emotion-granularity",
        0,
        [
            ("14.99", "15.00"),
            ("19.06", "19.04"),
            ("39.93", "39.92"),
            ("49.99", "50.00"),
            ("23.57", "23.58"),
            ("44.93", "44.92"),
        ],
    ),
    ("print-emotion-granularity", 7, [('"30.46"', '"30.45"')]),
    ("print-table1-iou", 1, [("93.08", "93.19")]),
    ("print-table1-iou", 1, [("93.08", "92.80")]),
    ("print-table1-chebyshev", 1, [('"0.28"', '"2.79"')]),
    ("print-abstract-overlap", 1, [("96.42", "96.43")]),
    ("print-sigma-labels", 0, [("sigma_in.poster = 3", "sigma_in.poster = 6")]),
    ("print-share-table1", 0, [('"0.28", "0.19", "0.11"', '"0.15", "0.19", "0.11"')]),
    (
        "print-share-both-sigmas",
        0,
        [('"24.31", "22.38"', '"0.02", "14.62"'), ('"23.75", "26.79"', '"5.25", "14.99"')],
    ),
    ("print-sigma-monotone", 0, [('"5.38"', '"1.38"'), ('"21.95"', '"18.00"'), ('"7.81"', '"7.50"')]),
    ("print-located-best-average", 1, [("42.12", "40.12")]),
    ("print-located-significant", 16, [("24.52", "34.52")]),
    ("print-erasure-significant", 1, [('"3.38"', '"17.38"')]),
    ("print-erasure-room", 1, [('base = ["0.00"', 'base = ["10.00"')]),
    ("print-random-noise", 1, [('"33.75"', '"43.75"')]),
    ("print-marks-wrong", 0, [(', "located 10:code25k"]', "]")]),
    (
        "print-marks-wrong",
        2,
        [('second_in.paper = ["random 5:emotion"', 'second_in.paper = ["located 1:emotion"')],
    ),
    (
        "print-marks-missing",
        13,
        [
            (
                '"located 1:gsm8k"]\nsecond_in.poster = ["random 1:code25k", "random 5:code25k"',
                '"located 1:gsm8k", "random 1:code25k"]\n'
                'second_in.poster = ["random 1:code25k", "random 5:code25k"',
            )
        ],
    ),
    ("print-tables-agree", 1, [("96.42", "96.24")]),
    ("print-other-datasets", 0, [("11.18", "4.18"), ("9.43", "-4.43"), ("17.66", "5.00")]),
]
# claim, violations left, digits of its own entry
CLAIMS: list[tuple[str, float, list[Change]]] = [
    ("print-code25k-granularity", 0, [('printed = "1200"', 'printed = "8000"')]),
    ("print-evaluation-counts", 1, [('"gsm8k", printed = "1600"', '"gsm8k", printed = "1500"')]),
    ("print-evaluation-counts", 1, [('"emotion", printed = "2400"', '"emotion", printed = "4800"')]),
    ("print-table1-quoted-pair", 0, [('printed = "95.95"', 'printed = "93.08"')]),
    (
        "print-fidelity-numbers",
        2,
        [('"KN", printed = "27.5"', '"KN", printed = "37.3"')],
    ),
    ("print-fidelity-chance", 0, [('printed = "15.3"', 'printed = "49152"')]),
    ("print-rewrites", 0, [('printed = "5", unit = "rewrites"', 'printed = "4", unit = "rewrites"')]),
    ("print-chain-share", 0, [('printed = "1.6"', 'printed = "2.6"')]),
    ("print-kn-percentages", 0, [('printed = "82.6"', 'printed = "82.4"')]),
    ("print-kn-percentages", 2, [('printed = "85.1"', 'printed = "85.3"')]),
    (
        "print-kn-percentages",
        1,
        [('printed = "85.1"', 'printed = "85.2"')],
    ),  # two rounded shares may add up so
    ("print-kn-direction", 0, [('printed = "72.4"', 'printed = "92.4"')]),
    ("print-kn-ipp", 0, [('printed = "11.4"', 'printed = "12.8"')]),
    ("print-rome-ipp", 1, [('printed = "0.0"', 'printed = "0.1"')]),
    ("print-kc-ipp", 1, [('printed = "10.5"', 'printed = "12.5"')]),
    ("print-cr-same-task", 1, [('printed = "7.3"', 'printed = "100"')]),
    ("print-cr-bound", 0, [('printed = "15.3"', 'printed = "80000"')]),
    ("print-cr-order", 1, [('printed = "7.3"', 'printed = "17.3"')]),
    ("print-eq7-weights", 0, [('printed = "0"', 'printed = "1"')]),
    (
        "print-eq8-unit",
        0,
        [(f'printed = "{spread}"', 'printed = "1"') for spread in ("0.0001", "0.001", "0.01", "0.1")],
    ),
    (
        "print-eq12-zero",
        0,
        [('with the edge", printed = "-1"', 'with the edge", printed = "+1"')],
    ),
    ("print-share-table1", 1, [('printed = "0.15"', 'printed = "0.19"')]),
    ("print-share-rest", 1, [('printed = "99.85"', 'printed = "99.84"')]),
    ("print-gsm8k-guessing", 0, [('printed = "25"', 'printed = "50"')]),
    ("print-located-best-average", 0, []),
    ("general-protocol-counts", 1, [('printed = "19"', 'printed = "20"')]),
    ("general-protocol-counts", 1, [('printed = "1600"', 'printed = "1601"')]),
]


@pytest.mark.parametrize(("claim", "left", "changes"), TABLES)
def test_other_digits_in_the_tables(claim: str, left: float, changes: list[Change]) -> None:
    assert violations(claim, with_tables(*changes)) == left


@pytest.mark.parametrize(("claim", "left", "changes"), CLAIMS)
def test_other_digits_in_the_text(claim: str, left: float, changes: list[Change]) -> None:
    assert violations(claim, with_claim(claim, *changes)) == left


def test_equal_shares_are_equivalent() -> None:
    claim = "print-kn-similar-to-random"
    paper = with_claim(
        claim, ('printed = "85.1"', 'printed = "72.3"'), ('printed = "72.4"', 'printed = "82.6"')
    )
    finding = finding_of(claim, paper)
    assert judge(paper.claim(claim), finding).outcome is Outcome.SUPPORTED
    few = with_claim(claim, ('printed = "1000"', 'printed = "20"'))
    assert judge(few.claim(claim), finding_of(claim, few)).outcome is Outcome.INCONCLUSIVE


def test_a_ratio_that_leaves_no_whole_neuron_is_impossible() -> None:
    cells = [
        replace(cell, printed="0.0001") if cell.quantity == "neuron" and cell.dataset == "emotion" else cell
        for cell in PRINTED_PAPER.cells
    ]
    assert violations("print-table1-repeats", replace(PRINTED_PAPER, cells=tuple(cells))) == 3


def test_models_that_are_in_all_tables_are_not_missed() -> None:
    cells = tuple(cell for cell in PRINTED_PAPER.cells if cell.model == "llama2-7b")
    assert violations("print-models-in-tables", replace(PRINTED_PAPER, cells=cells)) == 0


def test_limitations_would_fit_tables_of_gpt2() -> None:
    cells = tuple(replace(cell, model="gpt2") for cell in PRINTED_PAPER.cells)
    paper = replace(PRINTED_PAPER, cells=cells)
    found = finding_of("general-limitations-models", paper).measurement
    assert (found.value and found.value.estimate, found.n, found.notes) == (0, 1, [])


def test_a_cell_that_the_poster_lacks_is_found() -> None:
    claim = PRINTED_PAPER.claim("print-tables-agree")
    shorter = replace(claim, numbers=claim.numbers[1:])
    paper = replace(PRINTED_PAPER, claims={**PRINTED_PAPER.claims, claim.id: shorter})
    assert "is missing from the poster" in finding_of(claim.id, paper).measurement.notes[0]


def test_every_check_is_changed_somewhere() -> None:
    alone = {
        "print-kn-similar-to-random",
        "print-table1-repeats",
        "print-models-in-tables",
        "general-limitations-models",
    }
    assert {claim for claim, _, _ in TABLES + CLAIMS} | alone == set(CHECKS)
