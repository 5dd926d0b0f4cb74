"""The HTML report: what it shows, and that nothing from data, models or tests reaches it unescaped."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from caploc.audit.text import escaped, number, visible
from caploc.tests.audit.conftest import ClaimsRun

SHOWN = """
@pytest.mark.claim("table1-overlap")
def test_overlap(audit, cell):
    if cell.dataset == "emotion":
        raise RuntimeError("no such tensor")
    plots = [Plot("matrix", "Overlap", {"labels": ["a"], "values": [[1.0]]}), Plot("nonsense", "Odd", {})]
    audit.check(overlap(cell, 0.85, 0.95, chance=0.003, p_values={"random": 0.001}, n=120, published="96.42",
                        settings={"model_fingerprint": "f00d"}, plots=plots))

@pytest.mark.claim("table1-neuron")
def test_neuron(audit, cell):
    audit.check(Finding("table1-neuron", cell.cell, "share", estimate=0.02, interval=(0.01, 0.03)))

def test_plain():
    pass
"""

HOSTILE = """
SCRIPT = "<script>alert(1)</script>"
NASTY = SCRIPT + "\\"'>&\\x00\\x1b[31m\\u202e\\u2066 \\ud800 " + "long" * 260_000
PLACES = [CellRequest(Cell(SCRIPT + "\\u202e", "<img src=x onerror=alert(1)>", 6.0), NASTY, NASTY, NASTY, 6.0)]

@pytest.fixture
def place(request):
    return request.param

@pytest.mark.claim("table1-overlap")
@pytest.mark.parametrize("place", PLACES, ids=[SCRIPT + "\\u202e\\x07"], indirect=True)
@pytest.mark.parametrize("end", ["floor", "not run", "error", "skip", "low", "plot"])
def test_hostile(audit, place, end):
    if end == "not run":
        audit.not_run(NASTY)
    if end == "error":
        raise RuntimeError(NASTY)
    if end == "skip":
        pytest.skip(NASTY)
    more = dict(floor=NASTY) if end == "floor" else {}
    plots = [Plot("splits", NASTY, {"groups": {NASTY: [.5]}}), Plot(NASTY, NASTY, {})] if end == "plot" else []
    audit.check(Finding("table1-overlap", place.cell, NASTY, unit=NASTY, estimate=.1, interval=(.1, .2),
        interval_kind=NASTY, p_values={NASTY: .1}, quantities={NASTY: 1.}, controls={NASTY: 1.}, published=NASTY,
        settings={NASTY: NASTY, "data_fingerprint": {NASTY: NASTY}}, notes=[NASTY], plots=plots, **more))
"""


class Page(HTMLParser):
    """The page, and the table rows and details that its script inserts, as the browser would parse them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        blob = re.search(r'data-jsonblob="([^"]*)"', text)
        assert blob is not None
        self.content: dict[str, Any] = json.loads(html.unescape(blob.group(1)))
        self.rows = [row for rows in self.content["tests"].values() for row in rows]
        for row in self.rows:
            for cell in row["resultsTableRow"]:
                self.feed(cell)
            self.feed(f"<div>{row['log']}</div>")
        for value in self.content["environment"].values():
            self.feed(f"<div>{value}</div>")
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(claims_run: ClaimsRun) -> tuple[str, Page]:
    raw = (claims_run.pytester.path / "reports" / "x.html").read_text(encoding="utf-8")
    return raw, Page(raw)


def test_a_row_says_claim_cell_paper_measured_chance_p_n_verdict(claims_run: ClaimsRun) -> None:
    claims_run.write(SHOWN)
    run = claims_run("--seed=1", "--html=reports/x.html")
    run.stdout.fnmatch_lines(["report: reports/x.html", "ledger: reports/x.jsonl"])
    raw, page = read(claims_run)
    row = next(row for row in page.rows if row["result"] == "Passed" and "tiny-llama" in row["cell"])
    shown = [re.sub("<[^>]*>", "", cell) for cell in row["resultsTableRow"]]
    assert shown[1:-2] == [
        "table1-overlap", "tiny-llama-gsm8k-s6", "96.42 %", "90.00 [85.00, 95.00] %", "0.30 %", "0.001", "120",
        "&#10003; SUPPORTED",
    ]  # fmt: skip
    text = " ".join(page.text)
    for expected in (
        "Capability Localization",
        "Verdicts by claim and model",
        "supported if",
        "the interval's lower end lies above 80 %",
        "83.62 to 98.32 %",
        "sha256",
        "f00d",
        "no figure for Odd",
        "--seed=1",
    ):
        assert expected in text
    assert 'href="assets' not in raw and "http-equiv" not in raw  # one file
    assert [image["src"][:22] for image in page.images if image.get("alt")] == ["data:image/png;base64,"]


def test_an_error_of_ours_is_not_shown_as_a_verdict(claims_run: ClaimsRun) -> None:
    claims_run.write(SHOWN)
    claims_run("--seed=1", "--html=reports/x.html")
    raw, page = read(claims_run)
    (error,) = [row for row in page.rows if row["result"] == "Error"]
    assert "ERROR (ours)" in error["verdict"] and "RuntimeError: no such tensor" in " ".join(
        error["resultsTableRow"]
    )
    assert "Errors of ours: no evidence for or against a claim (1)" in raw
    assert re.search(r'"error">1 Errors', raw) and re.search(r'"failed">2 Failed', raw)


def test_rows_come_in_the_order_of_collection(claims_run: ClaimsRun) -> None:
    claims_run.write(SHOWN)
    claims_run("--seed=1", "--html=reports/x.html")
    order = list(read(claims_run)[1].content["tests"])
    claims_run("--seed=1", "--html=reports/x.html", "-n2")
    assert list(read(claims_run)[1].content["tests"]) == order


def test_hostile_strings_are_text(claims_run: ClaimsRun) -> None:
    claims_run.write(HOSTILE)
    run = claims_run("--seed=1", "--html=reports/x.html", "--metadata", "<script>alert(2)</script>", "<b>&")
    run.assert_outcomes(failed=2, xfailed=1, skipped=2, errors=1)
    raw, page = read(claims_run)
    assert page.tags.count("script") == 1  # pytest-html's own
    assert "<script>alert" not in raw and "onerror=alert(1)>" not in raw
    assert not {"onerror", "onload"} & {name for image in page.images for name in image}
    assert len(page.rows) == 6 and all(
        row["result"] in ("Error", "Failed", "XFailed", "Skipped") for row in page.rows
    )
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", raw)
    assert len(raw) < 2_000_000  # megabytes of one string are cut, and said to be
    assert "characters)" in raw
    lines = claims_run.ledger("x.jsonl")
    assert sum(line["type"] == "finding" for line in lines) == 4
    assert max(len(line) for line in run.stdout.lines) < 5_000
    assert not re.search("[\x1b\x00\u202e\u2066]", str(run.stdout))


def test_hostile_strings_reach_the_controller(claims_run: ClaimsRun) -> None:
    claims_run.write(HOSTILE)
    run = claims_run("--seed=1", "--html=reports/x.html", "-n1")
    run.assert_outcomes(failed=2, xfailed=1, skipped=2, errors=1)
    assert claims_run.summary("x.json")["missing"] == {}


def test_a_module_that_cannot_be_imported_still_gives_a_report(claims_run: ClaimsRun) -> None:
    claims_run.write(SHOWN)
    claims_run.pytester.makepyfile(test_broken="import no_such_module_<script>")
    run = claims_run("--seed=1", "--html=reports/x.html")
    assert run.ret == pytest.ExitCode.INTERRUPTED
    page = read(claims_run)[1]
    assert any("test_broken" in row["claim"] for row in page.rows)
    assert len(claims_run.summary("x.json")["missing"]) == 4


def test_visible_and_escaped() -> None:
    assert visible("a\nb\x00\u202e\ud800") == "a\\nb\\x00\\u202e\\ud800"
    assert visible("x" * 10, 4) == "xxxx... (10 characters)"
    assert escaped("<a href='x'>&\"") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;"
    assert [number(0.9642), number(None), number(1234, "count"), number(0.00123, "nats"), number(1.5, "nats")] == [
        "96.42", "-", "1,234", "0.0012", "1.500",
    ]  # fmt: skip
