"""The summary in the terminal: by family, in words, in columns that fit."""

from __future__ import annotations

import pytest

from caploc.audit.results import Status, Tally
from caploc.audit.terminal import LEGEND, WIDEST, family_table, in_words
from caploc.papers import load_paper
from caploc.tests.audit.conftest import ClaimsRun
from caploc.tests.audit.test_report_sections import result

PAPER = load_paper("capability_localization")
MANY = Tally.of(
    [
        *[result("table1-overlap", Status.SUPPORTED, after_holm=place > 2) for place in range(44)],
        *[result("table1-overlap", Status.REFUTED, expected=True) for _ in range(39)],
        *[result("table1-overlap", Status.INCONCLUSIVE) for _ in range(125)],
        *[result("table1-overlap", Status.NOT_RUN) for _ in range(5)],
        *[result("table1-overlap", Status.REFUTED, variant="scope=layer") for _ in range(7)],
        result("table1-overlap", Status.ERROR),
        result("table1-overlap", Status.REFUTED, moved="verdict moved"),
    ]
)


def test_counts_are_words_and_zeros_are_left_out() -> None:
    assert in_words(MANY) == (
        "44 supported (3 of them not after Holm over their family), 39 refuted (as expected here), 125 inconclusive, "
        "1 MOVED, 1 ended in an error, 5 not run, 7 under other readings"
    )
    assert in_words(Tally.of([result("table1-overlap", Status.SUPPORTED)])) == "1 supported"


def test_the_table_at_80_columns() -> None:
    few = Tally.of([result("fidelity-kn-overlap", Status.REFUTED)] * 3)
    assert list(family_table(PAPER, {"A-fidelity": few, "D-table1": MANY}, 80)) == [
        "supported, refuted: the evidence is for, or against, what the paper claims;",
        "inconclusive: it does not decide either way",
        "Fidelity of single facts: do             3 refuted",
        "paraphrases of one fact lead to the",
        "same neurons, layers or circuits?",
        "Commonality neurons: do two halves of    44 supported (3 of them not after Holm",
        "one dataset lead to the same neurons?    over their family), 39 refuted (as",
        "                                         expected here), 125 inconclusive, 1",
        "                                         MOVED, 1 ended in an error, 5 not run,",
        "                                         7 under other readings",
    ]


@pytest.mark.parametrize("width", [20, 60, 80, 100, 250])
def test_no_line_is_wider_than_the_terminal_or_100_columns(width: int) -> None:
    tallies = dict.fromkeys((*PAPER.groups, ""), MANY)
    lines = list(family_table(PAPER, tallies, width))
    assert max(map(len, lines)) <= max(50, min(width, WIDEST))
    assert all(line.isascii() and line == line.rstrip() for line in lines)
    assert " ".join(lines).startswith(LEGEND)


def test_a_run_says_what_was_asked_how_it_came_out_and_where_to_read_on(
    claims_run: ClaimsRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    claims_run.write("""
def share(study, cell, claim):
    return Measurement("share", Count(0.5 if cell.variant == "scope=layer" else 0.001, unit="share"))

@claim("table1-neuron", measured(share))
def test_share(): ...

@claim("table1-overlap", measured(not_run("needs \\u2265 40 samples \\u202e\\x1b[31m")))
def test_overlap(): ...
""")
    run = claims_run("--sensitivity", "--seed=1", "--html=reports/x.html")
    text = "\n".join(run.stdout.lines)
    ours = text[text.index("= audit =") :]
    assert "Commonality neurons: do two halves of    2 supported, 2 not run, " in ours
    assert (
        "2 supported, 0 refuted, 0 inconclusive, 2 not run: needs \\u2265 40 samples \\u202e\\x1b[31m (2)"
        in ours
    )
    assert "2 verdicts would change under another reading of the paper" in ours
    assert "  FLIP test_share[tiny-llama-gsm8k-s6]: SUPPORTED, but REFUTED with scope=layer" in ours
    assert "report: reports/x.html\nledger: reports/x.jsonl" in ours
    assert ours.isascii()
