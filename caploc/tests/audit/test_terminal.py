"""The summary in the terminal: by family, in words, in columns that fit."""

from __future__ import annotations

import pytest

from caploc.audit.report import page
from caploc.audit.results import STANDINGS, Status, Tally, scores, status_of
from caploc.audit.terminal import LEGEND, WIDEST, family_table, in_words
from caploc.audit.views import RunView
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
        "inconclusive: it does not decide either way; measured: the paper prints no",
        "number for this model, so there is nothing to hold it against",
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
        "all cells: 2 supported, 0 refuted, 0 inconclusive, 2 not run: needs \\u2265 40 samples \\u202e\\x1b[31m (2)"
        in ours
    )
    assert "\nthe authors' empirical claims: 2 supported, 2 not run, " in ours
    assert "2 verdicts would change under another reading of the paper" in ours
    assert "  FLIP test_share[tiny-llama-gsm8k-s6]: SUPPORTED, but REFUTED with scope=layer" in ours
    assert "report: reports/x.html\nledger: reports/x.jsonl" in ours
    assert ours.isascii()


def test_a_score_counts_like_with_like(claims_run: ClaimsRun) -> None:
    claims_run.write("""
@claim("table1-overlap", measured(overlap(.85, .95)))
def test_own(): ...

@claim("table1-neuron", measured(Measurement("share", Count(0.001))))
def test_share(): ...

@claim("control-untrained-overlap", measured(Measurement("gap", Effect(-.2, (-.3, -.1), (-.3, -.1)))))
def test_control(): ...

@claim("general-cnl-outperforms", measured(Measurement("gain", Effect(-.2, (-.3, -.1), (-.3, -.1), .9),
    {"one": Effect(-.2, (-.3, -.1), (-.3, -.1), .9)})))
def test_summary(): ...

@claim("print-sigma-labels", lambda *_: Measurement("labels", Count(2.0, unit="count"), n=3), over="print")
def test_print(): ...

@claim("fidelity-kn-overlap", measured(Measurement("overlap", Bound(.9, (.8, 1.)),
    {"baseline gap": Effect(.3, (.2, .4)), "corrected overlap": Bound(.9, (.85, 1.))})))
def test_fidelity(): ...
""")
    claims_run.expect(
        '[cells."test_print"]\nverdict = "REFUTED"\nlow = 1.0\nhigh = 3.0\nwhy = "as counted"\n'
    )
    text = "\n".join(claims_run("--seed=1").stdout.lines)
    lines = dict(line.split(": ", 1) for line in text[text.index("= audit =") :].splitlines() if ": " in line)
    assert lines["the authors' empirical claims"] == "4 supported, 2 refuted"
    assert lines["claims that follow from others"] == "2 refuted, 1 inconclusive"
    assert lines["arithmetic of the print"] == "1 refuted (as expected here)"
    assert lines["controls of our own"] == "2 refuted"
    assert lines["claims of the machine-written summary alone"] == "2 refuted"
    assert lines["all cells"].startswith("4 supported, 7 refuted (1 as expected here), 0")


def test_a_measured_cell_passes_under_a_word_of_its_own_and_is_never_among_verdicts() -> None:
    report = pytest.TestReport("t", ("t", 1, "t"), {}, "passed", None, "call")
    report.caploc_word = "MEASURED"
    assert status_of(report) == ("measured", "m", "MEASURED")
    found = [result("table1-overlap", Status.MEASURED), result("table1-overlap", Status.SUPPORTED)]
    counts = scores(found, [], {"": PAPER})
    assert {name: in_words(tally) for name, tally in counts.items()} == {
        "empirical": "1 supported",
        "measured": "1 measured",
    }
    assert not found[0].decided
    text = page(RunView(PAPER, found))
    assert "v-measured" in text and STANDINGS["measured"] in text
