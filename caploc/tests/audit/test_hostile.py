"""1,000 hostile strings as text of data, models and exceptions, and as test ids: shown as text, everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import html5lib
import pytest

from caploc.tests.audit.browser import needs_chromium, visit
from caploc.tests.audit.conftest import PAPER, PRELUDE, WITHOUT_MODELS, ClaimsRun
from caploc.tests.audit.hostile import COUNT, LINE, hostile_strings
from caploc.tests.audit.thousand import run

# each string stands in every field that data can reach, in one of six ways for a cell to end, and as a test id
SOURCE = (
    PRELUDE
    + """
from caploc.tests.audit.hostile import hostile_strings

ENDS = ["floor", "not run", "error", "skip", "verdict", "plot"]
TEXTS = hostile_strings()
PLACE = {text: place for place, text in enumerate(TEXTS)}
CELLS = [CellRequest(Cell(f"{text} {place % 3}", text, 6.0, text if place % 7 == 0 else ""), text)
         for place, text in enumerate(TEXTS)]
DRAWN = list(range(12))


def hostile(text, part, **more):
    read = {"at full size": part, "beyond twins": Effect(.5, (.4, .6), (.42, .58))}
    return Measurement(
        text, part, {text: Effect(.1, p=.1, unit=text, method=text), **read}, asides={text: 1.}, controls={text: 1.},
        n=27, notes=[text, text],
        settings={text: text, "data_fingerprint": {text: text}, "model_fingerprint": text}, **more)


def measure(study, cell, claim):
    text = cell.dataset
    end = ENDS[PLACE[text] % 6]
    print(text)
    if end == "not run":
        return not_run(text)
    if end == "error":
        raise RuntimeError(text)
    if end == "skip":
        pytest.skip(text)
    plots = [Plot("splits", text, {"groups": {text: [.5]}}), Plot(text, text, {})] if end == "plot" and DRAWN else []
    del DRAWN[:len(plots) // 2]
    value = Bound(.1, (.1, .2), unit=text, method=text)
    return hostile(text, value, floor=text if end == "floor" else None, plots=plots)


@pytest.mark.claim(ClaimTest("table1-overlap", measured(measure), over="print"))
@pytest.mark.parametrize("cell", CELLS, ids=TEXTS)
def test_cell(audit, cell):
    audit.check()


CHECKED = iter(TEXTS)


def check(paper, claim):
    text = next(CHECKED)
    return Measurement(text, Count(2., unit="count"), n=3, notes=[text, text, text])


@pytest.mark.claim(ClaimTest("print-sigma-labels", check, over="print"))
@pytest.mark.parametrize("text", TEXTS[:100], ids=TEXTS[:100])
def test_check(audit, text):
    audit.check()


@pytest.mark.parametrize("text", TEXTS[::10], ids=TEXTS[::10])
def test_that_decides_no_claim(text):
    print(text)
    raise RuntimeError(text) if len(text) % 2 else AssertionError(text)
"""
)
INSPECT = """
const ours = new Set(["location.reload()"]);  // pytest-html's own button
const odd = [];
document.getElementById("show_all_details").click();
for (const details of document.querySelectorAll("details")) details.open = true;
for (const element of document.querySelectorAll("*"))
  for (const { name, value } of element.attributes) {
    const handler = /^on/i.test(name) && !ours.has(value);
    if (handler || /^\\s*javascript:/i.test(value)) odd.push(element.outerHTML.slice(0, 200));
  }
const count = (selector) => document.querySelectorAll(selector).length;
return {
  odd, pwned: "pwned" in window, cells: count(".audit-cells > tbody"), rows: count("#results-table > tbody"),
  scripts: count("script"), styles: count("style"), forms: count("form"),
  alien: count("iframe, object, embed, svg, math, base, link, plaintext, xmp, textarea, main"),
};
"""
UNSAFE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff]"
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    claims = folder / PAPER
    claims.mkdir()
    (claims / "conftest.py").write_text(WITHOUT_MODELS, encoding="utf-8")
    (claims / "test_hostile.py").write_text(SOURCE, encoding="utf-8")
    options = ("--model=tiny-llama", "--seed=1", "--metadata", "<script>alert(2)</script>", "<b>&\u202e\x07")
    return run(folder, *options).parent


@pytest.fixture(scope="module")
def text(reports: Path) -> str:
    return (reports / "x.html").read_text(encoding="utf-8")


def test_there_are_a_thousand_different_ones() -> None:
    strings = hostile_strings()
    assert len(set(strings)) == len(strings) == COUNT
    assert strings == hostile_strings()
    assert sum(len(text) >= LINE * 0.9 for text in strings) >= 4


def test_the_ledger_is_strict_json_and_complete(reports: Path) -> None:
    lines = [_strict(line) for line in (reports / "x.jsonl").read_bytes().splitlines()]
    ended = [line for line in lines if line["type"] in ("finding", "cell")]
    assert len(ended) == COUNT + 100
    said = {line["finding"]["cell"]["dataset"] for line in ended if line["finding"]} - {None}
    # to the letter, but for two halves of a surrogate pair, which JSON joins
    assert said <= {json.loads(json.dumps(text)) for text in hostile_strings()}
    assert len(said) > COUNT / 2
    summary = _strict((reports / "x.json").read_bytes())
    assert (len(summary["cells"]), summary["missing"]) == (COUNT + 100, {})


def test_the_report_is_valid_html(text: str) -> None:
    parser = html5lib.HTMLParser()
    # pytest-html's own templates are left out: html5lib does not know the element
    parser.parse(re.sub("<!-- TEMPLATES -->.*<!-- END TEMPLATES -->", "", text, flags=re.DOTALL))
    assert parser.errors == []


def test_nothing_that_hides_or_reorders_text_is_left(text: str) -> None:
    found = UNSAFE.search(text)
    assert found is None, text[found.start() - 100 : found.end() + 100]


def test_megabytes_are_cut_and_said_to_be(text: str) -> None:
    assert len(text) < 12_000_000
    assert f"({LINE:,} characters)" in text


def test_our_part_of_the_terminal_is_plain_ascii_in_lines_of_a_length(reports: Path) -> None:
    printed = (reports / "stdout.txt").read_bytes()
    ours = printed[printed.index(b"= audit =") :].split(b"= short test summary")[0]
    assert re.fullmatch(rb"[\x20-\x7e\n]+", ours)
    assert max(map(len, ours.splitlines())) < 600
    assert ours.count(b"\n  ERROR ") == 21  # twenty, and how many more


@needs_chromium
def test_no_script_runs_in_the_browser(reports: Path) -> None:
    opened = visit(reports / "x.html", INSPECT)
    assert opened.mishaps == [] and opened.title == "caploc audit"
    assert opened.said == {
        "odd": [],
        "pwned": False,
        "cells": COUNT + 100,
        "rows": 100,
        "scripts": 2 + 2,  # pytest-html's and ours; the two that watch
        "styles": 2,
        "forms": 1,
        "alien": 0,
    }


def _strict(line: bytes) -> Any:
    line.decode("ascii")
    return json.loads(line, parse_constant=_refuse)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


FEW = """
NASTY = "<script>alert(1)</script>\\"'>&\\x00\\x1b[31m\\u202e\\u2066 \\ud800 " + "long" * 260_000
ENDS = ["floor", "not run", "error", "skip", "low"]
CELLS = [CellRequest(Cell(NASTY, NASTY, float(place)), NASTY) for place in range(len(ENDS))]

def measure(study, cell, claim):
    end = ENDS[int(cell.sigma)]
    if end == "not run":
        return not_run(NASTY)
    if end == "error":
        raise RuntimeError(NASTY)
    if end == "skip":
        pytest.skip(NASTY)
    return overlap(.1, .2, floor=NASTY if end == "floor" else None, notes=[NASTY], settings={NASTY: NASTY})

@pytest.mark.claim(ClaimTest("table1-overlap", measured(measure), over="print"))
@pytest.mark.parametrize("cell", CELLS, ids=[f"<script>\\u202e\\x07{end}" for end in ENDS])
def test_hostile(audit, cell):
    audit.check()
"""


def test_hostile_strings_cross_from_workers_to_the_controller(claims_run: ClaimsRun) -> None:
    claims_run.write(FEW)
    ran = claims_run("--seed=1", "--html=reports/x.html", "-n1")
    ran.assert_outcomes(failed=1, xfailed=1, skipped=2, errors=1)
    assert claims_run.summary("x.json")["missing"] == {}
