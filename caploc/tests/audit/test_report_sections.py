"""The report's sections, each from results made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import html5lib
import pytest

from caploc.audit import report, views
from caploc.audit.ledger import RunRecord
from caploc.audit.report import Figure, Figures, page, section
from caploc.audit.results import Planned, Result, Status
from caploc.audit.views import Evidence, RunView
from caploc.findings import PRINTED, Cell
from caploc.power import Rates
from caploc.store import Store
from caploc.tests.audit.thousand import NOTES, PAPER, thousand, view

PLOT = {"kind": "matrix", "title": "Overlap", "data": {"labels": ["a"], "values": [[1.0]]}}


def result(claim: str, status: Status, model: str = "tiny-llama", variant: str = "", **more: Any) -> Result:
    cell = Cell(model, None if model == PRINTED else "gsm8k", variant=variant)
    return Result(
        Planned(f"t.py::t[{cell.label}]", f"t[{cell.label}]", claim, cell), status, "so it is", **more
    )


def tree(fragment: str) -> Any:
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return parser.parseFragment(fragment)


def texts(element: Any, path: str) -> list[str]:
    return [" ".join("".join(found.itertext()).split()) for found in element.findall(path)]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return thousand(tmp_path_factory.mktemp("record"))


def test_the_matrix_counts_families_and_their_claims_by_model(record: RunRecord) -> None:
    shown = tree(section("verdicts", view(record)))
    assert texts(shown, ".//thead//th") == ["Claims", "tiny-llama", "tiny-gptj", "printed numbers"]
    families = [body.find("tr") for body in shown.iter("tbody")]
    names = [texts(row, ".//summary")[0] for row in families]
    assert names[-1] == "The paper against itself" and "Commonality neurons" in names
    commonality = families[names.index("Commonality neurons")]
    assert "Do two halves of one dataset lead to the same neurons?" in "".join(commonality.itertext())
    silent = (Status.ERROR, Status.MISSING)  # other readings are counted only where they erred or are missing
    counted = [
        r
        for r in record.results
        if r.planned.cell.model == "tiny-llama" and (not r.planned.cell.variant or r.status in silent)
    ]
    audited = [r for r in counted if PAPER.claims[r.planned.claim].group == "D-table1"]
    counts = [int(text.split()[1]) for text in texts(commonality, "td[1]//span/span")]
    moved = [int(text.split()[1]) for text in texts(commonality, "td[1]/a/span") if "moved" in text]
    assert sum(counts) + sum(moved) == len(audited) > 60
    assert texts(families[-1], "td") == ["", "", "\u2713 1 \u2717 2"]


def test_the_matrix_outlines_what_follows_and_names_what_was_not_audited() -> None:
    derived = [
        result("fidelity-conclusion", Status.INCONCLUSIVE),
        result("fidelity-answer-a", Status.REFUTED),
    ]
    text = section("verdicts", RunView(PAPER, [result("table1-overlap", Status.SUPPORTED)], derived))
    shown = tree(text)
    badges = [span for span in shown.iter("span") if "derived" in (span.get("class") or "")]
    assert ["".join(badge.itertext()) for badge in badges[:2]] == ["\u2717 1", "? 1"]
    assert 'title="fidelity-answer-a: so it is"' in text
    assert "An outlined verdict is derived from other claims" in text
    assert "Not audited in this run: Reliability of single facts; Decoupling;" in text


def test_an_unregistered_claim_is_shown_as_such() -> None:
    lost = [result("<no>-such", Status.ERROR)]
    text = section("verdicts", RunView(PAPER, lost))
    assert "Unregistered claims" in text and "&lt;no&gt;-such" in text
    assert 'href="#claim-&lt;no&gt;-such"' not in text + section("cells", RunView(PAPER, lost))


def test_a_supported_cell_is_flagged_where_correction_undoes_it() -> None:
    flagged = result(
        "table1-overlap", Status.SUPPORTED, p=0.04, p_holm=0.32, p_by=0.5, tests=8, after_holm=False
    )
    text = section("cells", RunView(PAPER, [flagged, replace(flagged, after_holm=True)]))
    verdicts = texts(tree(text), ".//tbody/tr[1]/td[2]")
    assert verdicts == ["\u2713 SUPPORTED not after Holm over 8 tests", "\u2713 SUPPORTED"]
    assert texts(tree(text), ".//tbody[1]/tr[1]/td")[4:6] == ["0.04", "0.32"]
    assert "corrected over the 8 tests of its family 0.32 (Holm), 0.5 (Benjamini-Yekutieli)" in text


def test_the_parts_that_a_rule_judged_stand_in_a_table_of_the_columns_they_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = {
        "gsm8k": {"kind": "effect", "estimate": 0.1234567, "interval": [0.1, 0.2], "p": 0.04, "n": 1200},
        "<imdb>": {"kind": "bound", "estimate": 0.5, "interval": [None, 0.6], "interval90": None},
    }
    monkeypatch.setattr(
        views, "evidence_of", lambda finding: Evidence(parts, {"located": 17.0}, {"untrained": 0.25})
    )
    shown = tree(section("cells", RunView(PAPER, [result("table1-overlap", Status.SUPPORTED)])))
    (table,) = [table for table in shown.iter("table") if table.get("class") == "audit parts"]
    assert [texts(row, "*") for row in table.iter("tr")] == [
        ["judged", "kind", "estimate", "95 % interval", "p", "n"],
        ["gsm8k", "effect", "0.123457", "[0.1, 0.2]", "0.04", "1,200"],
        ["<imdb>", "bound", "0.5", "[-, 0.6]", "", ""],
    ]
    (listed,) = list(shown.iter("pre"))
    assert "".join(listed.itertext()).split("\n")[:4] == [
        "other quantities", "  located: 17", "controls", "  untrained: 0.25",
    ]  # fmt: skip


def test_a_printed_number_has_its_unit_and_sorts_as_a_number() -> None:
    row = result("table1-overlap", Status.SUPPORTED, finding={"estimate": 0.9, "published": "96.42"})
    (shown,) = tree(section("cells", RunView(PAPER, [row]))).findall(".//tbody/tr[1]/td[7]")
    assert ("".join(shown.itertext()), shown.get("data-sort")) == ("96.42 %", "96.42")


def test_the_paper_against_itself_puts_contradictions_first(record: RunRecord) -> None:
    shown = tree(section("consistency", view(record)))
    assert texts(shown, "details/summary") == ["Table 2: 2 checks \u2717 2", "Table 3: 1 check \u2713 1"]
    rows = [texts(row, "td") for row in shown.findall(".//tbody/tr")]
    assert [row[:2] for row in rows] == [["\u2717 REFUTED", "1 of 27"]] * 2 + [
        ["\u2713 SUPPORTED", "0 of 27"]
    ]
    assert texts(shown, "details[1]//tbody/tr[1]/td[3]/p") == list(NOTES)
    kinds = [[note.get("class") for note in row.findall("td[3]/p")] for row in shown.findall(".//tbody/tr")]
    assert kinds == [[None, "audit-note"]] * 2 + [["audit-note", "audit-note"]]  # violations stand out
    assert "3 checks, none of which needs a model; 2 of them find a contradiction." in texts(shown, "p")[0]
    assert section("consistency", RunView(PAPER, [result("table1-overlap", Status.REFUTED)])) == ""


def test_a_long_list_of_contradictions_is_folded_but_not_the_remarks() -> None:
    finding = {
        "unit": "count",
        "estimate": 12.0,
        "n": 27,
        "notes": [f"sentence {place}" for place in range(13)],
    }
    shown = tree(
        section(
            "consistency",
            RunView(PAPER, [result("print-sigma-labels", Status.REFUTED, PRINTED, finding=finding)]),
        )
    )
    assert texts(shown, ".//td/p") == [f"sentence {place}" for place in (*range(6), 12)]
    assert texts(shown, ".//td/details/summary") == ["and 6 more"]


def test_every_check_of_the_print_stands_under_what_it_touches() -> None:
    checks = [
        result(claim.id, Status.SUPPORTED, PRINTED)
        for claim in PAPER.claims.values()
        if claim.group == "L-consistency"
    ]
    places = RunView(PAPER, checks).checks_by_place
    assert {"Table 1", "Table 2", "Table 3", "Section 3", "Section 5", "Abstract"} <= places.keys()
    assert "the poster of the same work" in places and len(places) < len(checks) / 3
    assert sum(map(len, places.values())) == len(checks)


SVG = "{http://www.w3.org/2000/svg}"
MEASURED = {"estimate": 0.47, "interval": [0.43, 0.51], "unit": "fraction", "chance": 0.02}


RATES = {("fidelity-kn-overlap", "tiny-llama"): Rates(0.9, 0.8, 0.02, 0.0, True, True, 0.373)}
"""What a plan has simulated."""


def headline_rows(*results: Result, derived: Sequence[Result] = ()) -> tuple[Any, str]:
    text = section("headlines", RunView(PAPER, results, derived, rates=RATES))
    return tree(text), text


def test_the_rates_of_a_rule_stand_beside_it() -> None:
    shown = section("claims", RunView(PAPER, [result("fidelity-kn-overlap", Status.REFUTED)], rates=RATES))
    assert "<dt>rates</dt><dd>tiny-llama: power 90 % at 0.373, refuted at the opposite 80 %;" in shown
    assert "<dt>rates</dt>" not in section(
        "claims", RunView(PAPER, [result("fidelity-kn-overlap", Status.REFUTED)])
    )


def test_a_headline_claim_has_a_row_a_model_with_its_number_on_an_axis() -> None:
    shown, _ = headline_rows(
        result("fidelity-kn-overlap", Status.REFUTED, finding=MEASURED),
        result("fidelity-kn-overlap", Status.SUPPORTED, "tiny-gptj", finding={**MEASURED, "estimate": 0.3}),
        result("table1-overlap", Status.SUPPORTED, finding=MEASURED),  # no headline
        result("print-sigma-labels", Status.REFUTED, PRINTED),
    )
    card, against = shown.iter("article")
    assert texts(card, ".//h3") == [PAPER.claims["fidelity-kn-overlap"].headline]
    assert texts(card, "header/p") == [
        PAPER.claims["fidelity-kn-overlap"].statement,
        "printed 37.3 % or 27.5 %; fidelity-kn-overlap",
    ]
    assert [texts(row, "div") for row in card.findall("div")] == [
        [
            "tiny-llama",
            ANY,
            "\u2717 REFUTED 47.00 [43.00, 51.00] %chance 2.00 %; power 90 % at 0.373, refuted at the opposite 80 %; "
            "false SUPPORTED 2 %, false REFUTED 0 %",
        ],
        ["tiny-gptj", ANY, "\u2713 SUPPORTED 30.00 [43.00, 51.00] %chance 2.00 %"],
    ]
    (link,) = card.findall("div[1]//a")
    assert (link.get("href"), link.get("data-filter")) == ("#cells", "fidelity-kn-overlap tiny-llama")
    drawing = card.find(f"div[1]//{SVG}svg")
    assert drawing.get("aria-label") == ("tiny-llama-gsm8k: 47.00 [43.00, 51.00] %, chance 2.00, refuted")
    # printed in two places, not alike; the threshold is one for the overlap corrected for chance
    assert len(list(drawing.iter(f"{SVG}circle"))) == 1 and len(drawing.findall(f"{SVG}path")) == 2
    assert not [one for one in drawing.iter(f"{SVG}line") if one.get("class") == "threshold"]
    assert "1 check of its printed numbers and equations, 1 finds a contradiction" in "".join(
        against.itertext()
    )


def test_many_cells_of_a_headline_share_a_row_and_a_printed_score_is_no_difference() -> None:
    claim = "table3-located-hurts-more"
    found = [
        result(claim, status, finding={**MEASURED, "estimate": 0.1 * place, "interval": None})
        for place, status in enumerate([Status.SUPPORTED, Status.INCONCLUSIVE, Status.SUPPORTED])
    ]
    other = result(claim, Status.REFUTED, variant="scope=layer", finding=MEASURED)
    shown, text = headline_rows(*found, other)
    (said,) = texts(shown, ".//div[@class='said']")
    assert said == "\u2713 SUPPORTED 2 ? INCONCLUSIVE 1 0.00 to 20.00 % in 3 cells"
    assert len(list(shown.iter(f"{SVG}circle"))) == 3
    assert "printed 0" not in text and "chance 2" not in text


def test_a_derived_headline_gives_its_reason_and_no_headline_no_section() -> None:
    shown, text = headline_rows(
        result("table1-iou", Status.SUPPORTED), derived=[result("fidelity-answer-a", Status.REFUTED)]
    )
    assert texts(shown, ".//div[@class='said']/div") == ["so it is"] and "v-refuted derived" in text
    assert section("headlines", RunView(PAPER, [result("table1-iou", Status.SUPPORTED)])) == ""


def test_a_check_that_counts_nothing_says_why_it_is_against_the_paper() -> None:
    finding = {"unit": "fraction", "estimate": 0.1, "notes": ["far apart"]}
    checks = [
        result("print-kn-similar-to-random", Status.REFUTED, PRINTED, finding=finding),
        result("general-limitations-models", Status.NOT_RUN, PRINTED),
    ]
    rows = tree(section("consistency", RunView(PAPER, checks))).findall(".//tbody/tr")
    assert [texts(row, "td")[1:] for row in rows] == [["-", "so it is"], ["-", "far apart"]]
    assert [row.find("td[3]/p").get("class") for row in rows] == ["audit-note", None]


def test_other_readings_are_counted_and_listed() -> None:
    results = [
        result("table1-overlap", Status.SUPPORTED),
        result("table1-overlap", Status.REFUTED, variant="scope=layer"),
        result("table1-overlap", Status.SUPPORTED, variant="quadrature=adaptive"),
    ]
    text = section("readings", RunView(PAPER, results))
    assert "1 cell would get another verdict under another reading." in text
    rows = [texts(row, "*") for row in tree(text).findall(".//tbody/tr")]
    assert rows[:2] == [["scope=layer", "1 of 1"], ["quadrature=adaptive", "0 of 1"]]
    assert rows[2] == ["table1-overlap", "tiny-llama-gsm8k", "\u2713 SUPPORTED", "\u2717 REFUTED scope=layer"]
    assert section("readings", RunView(PAPER, results[:1])) == ""
    assert "No cell would get another verdict." in section("readings", RunView(PAPER, [results[2]]))


def test_a_card_says_where_a_claim_stands_and_what_decides_it() -> None:
    text = section("claims", RunView(PAPER, [result("abstract-gsm8k-overlap", Status.REFUTED)]))
    (card,) = list(tree(text).iter("section"))
    facts = dict(zip(texts(card, ".//dt"), texts(card, ".//dd"), strict=True))
    assert "Abstract: achieves a neuron overlap rate of 96.42% on the GSM8K dataset" in facts["where"]
    assert "3 cells of Table 1, in %: llama2-7b 96.42; llama2-13b 94.26; gptj-6b 95.66" in facts["printed"]
    assert "overlap 96.42 % (paper, Abstract)" in facts["printed"]
    assert facts["supported if"].startswith(
        "at the paper's number of samples the interval's lower end lies above 90 %"
    )
    kind, *thresholds = facts["rule"].split(", ")
    assert (kind, thresholds[-1]) == ("above_twin", "agrees with a printed number within 0.05")
    assert thresholds[:-1] == ["supported above 0.9", "refuted below 0.9"]
    assert facts["test"].endswith("; level 0.05")
    assert "Taken: std; else: variance (--sensitivity varies dispersion)" in facts["ambiguities"]
    assert facts["controls"].startswith("control-half-split-random-text: means over many samples agree")
    assert 'id="claim-table1-overlap"' in text  # those without a cell are named, so that links lead to them


def test_every_claim_has_a_card() -> None:
    everything = [result(claim, Status.SUPPORTED) for claim in PAPER.claims]
    shown = tree(section("claims", RunView(PAPER, everything)))
    assert {part.get("id") for part in shown.iter("section")} == {f"claim-{name}" for name in PAPER.claims}


def test_a_figure_comes_in_light_and_dark() -> None:
    drawn = result("table1-overlap", Status.SUPPORTED, finding={"plots": [PLOT]})
    (picture,) = tree(section("claims", RunView(PAPER, [drawn]))).iter("picture")
    source, image = picture
    assert source.get("media") == "(prefers-color-scheme: dark)"
    assert source.get("srcset").startswith("data:image/png;base64,") and source.get("srcset") != image.get(
        "src"
    )
    assert image.get("alt") == "Overlap (tiny-llama-gsm8k): supported, so it is"
    assert int(image.get("width")) > 300 and int(image.get("height")) > 200


def test_a_plot_that_cannot_be_drawn_costs_a_sentence_and_too_many_are_not_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report, "MOST_FIGURES", 1)
    odd = result(
        "table1-overlap", Status.SUPPORTED, finding={"plots": [{"kind": "pie", "title": "<i>"}, PLOT, PLOT]}
    )
    first, second, third = Figures().of([odd])
    assert str(first).startswith("no figure for <i> (tiny-llama-gsm8k): KeyError")
    assert isinstance(second, Figure)
    assert third == "Overlap (tiny-llama-gsm8k): not drawn, after 1 figures; the ledger has its data"
    text = section("claims", RunView(PAPER, [odd]))
    assert "<p>no figure for &lt;i&gt; (tiny-llama-gsm8k): KeyError" in text and text.count("<figure>") == 1


def test_figures_are_drawn_once_and_kept_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunView(PAPER, [result("table1-overlap", Status.SUPPORTED, finding={"plots": [PLOT]})])
    store = Store(tmp_path)
    first = section("claims", run, store)
    assert first == section("claims", run)
    monkeypatch.setattr(report, "draw", lambda *_: pytest.fail("drawn again"))
    assert section("claims", run, store) == first
    assert store.describe().entries == 1


def test_a_store_that_cannot_be_written_costs_no_figure(tmp_path: Path) -> None:
    run = RunView(PAPER, [result("table1-overlap", Status.SUPPORTED, finding={"plots": [PLOT]})])
    (tmp_path / "file").touch()
    assert section("claims", run, Store(tmp_path / "file")) == section("claims", run)


def test_alarms_stand_above_all_and_long_ones_are_folded(record: RunRecord) -> None:
    text = page(view(record))
    assert (
        text.index("Missing: planned, but never reported")
        < text.index("Errors in the audit")
        < text.index("<nav")
    )
    (missing, errors, moved) = [part for part in tree(text).iter("div") if part.get("class") == "audit-alarm"]
    assert texts(missing, "h2") == [
        f"Missing: planned, but never reported ({len(record.of(Status.MISSING))})"
    ]
    assert len(missing.findall("ul/li")) == 8 and len(moved.findall(".//li")) == record.tally.moved
    assert len(errors.findall(".//li")) == len(record.of(Status.ERROR)) > 8


def test_what_was_audited_comes_first() -> None:
    last = [claim for claim in PAPER.claims.values() if claim.group == list(PAPER.groups)[-1]]
    shown = tree(section("claims", RunView(PAPER, [result(last[0].id, Status.SUPPORTED)])))
    assert texts(shown, ".//h3") == [PAPER.groups[last[0].group].title, "Not audited in this run"]
    folded = texts(shown, "./details/summary")
    assert len(folded) == len(PAPER.groups) - (len(last) == 1)
    assert all(text.endswith(("claim", "claims")) for text in folded)
    ids = {element.get("id") for element in shown.iter() if element.get("id")}
    assert {f"claim-{name}" for name in PAPER.claims} <= ids  # whatever links to a claim finds it


def test_the_tally_stands_once_with_what_qualifies_it() -> None:
    refuted = [result("table1-overlap", Status.REFUTED, expected=True)] * 2
    supported = [result("table1-iou", Status.SUPPORTED, after_holm=False)]
    text = " ".join("".join(tree(page(RunView(PAPER, refuted + supported))).itertext()).split())
    assert text.count("2 refuted (as expected here)") == text.count("2 refuted") == 1
    assert (
        text.count("1 supported (1 of them not after Holm over their family)")
        == text.count("1 supported")
        == 1
    )


@pytest.mark.parametrize(("status", "said"), [("interrupted", 1), ("finished", 0), (None, 0)])
def test_a_run_that_was_interrupted_says_so(status: str | None, said: int) -> None:
    run = RunView(
        PAPER, [result("table1-overlap", Status.SUPPORTED)], head={"status": status} if status else {}
    )
    assert page(run).count("<h2>Interrupted</h2>") == said
