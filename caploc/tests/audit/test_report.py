"""The HTML report of small runs: what stands in it, and where."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from typing import Any

import html5lib
import pytest

from caploc.audit.text import duration, in_ascii, number, p_value, visible, visible_lines
from caploc.tests.audit.conftest import PAPER, ClaimsRun

SHOWN = """
def measure(study, cell, claim):
    if cell.dataset == "emotion":
        raise RuntimeError("no such tensor")
    plots = [Plot("matrix", "Overlap", {"labels": ["a"], "values": [[1.0]]}), Plot("nonsense", "Odd", {})]
    return overlap(0.85, 0.95, chance=0.003, n=1200, draws=100, plots=plots, asides={"located": 17.0},
                   settings={"model_fingerprint": "f00d"}, notes=["so it is"])

@claim("table1-overlap", measured(measure))
def test_overlap(): ...

@claim("table1-neuron", measured(Measurement("share", Bound(0.02, (0.01, 0.03)))))
def test_neuron(): ...
"""
PLAIN = """
def test_plain():
    print("<b>")
"""


class Page:
    """A report as a tree, as any browser would read it without running a script."""

    def __init__(self, claims_run: ClaimsRun) -> None:
        self.source = (claims_run.pytester.path / "reports" / "x.html").read_text(encoding="utf-8")
        self.tree = html5lib.parse(self.source, namespaceHTMLElements=False)
        self.text = " ".join(self.tree.itertext())

    def find(self, tag: str, **attributes: str) -> Iterator[Any]:
        for element in self.tree.iter(tag):
            if all(
                element.get(name.replace("_", "-").strip("-")) == value for name, value in attributes.items()
            ):
                yield element

    @property
    def cells(self) -> list[Any]:
        (table,) = self.find("table", _class="audit audit-cells")
        return list(table.findall("tbody"))

    @property
    def rows(self) -> list[list[str]]:
        return [["".join(cell.itertext()) for cell in body.find("tr")] for body in self.cells]

    @property
    def own_rows(self) -> list[str]:
        """The tests in pytest-html's own table."""
        blob = next(self.find("div", id="data-container")).get("data-jsonblob")
        return re.findall(r'"testId": "<bdi>(.*?)</bdi>"', blob)


@pytest.fixture
def page(claims_run: ClaimsRun) -> Any:
    def opened(source: str, *arguments: str) -> Page:
        claims_run.write(source)
        claims_run("--seed=1", "--html=reports/x.html", *arguments)
        return Page(claims_run)

    return opened


def test_a_row_says_all_in_a_line_and_more_unfolded(page: Any) -> None:
    shown = page(SHOWN)
    row, body = next(
        (row, body) for row, body in zip(shown.rows, shown.cells, strict=True) if "gsm8k" in row[1]
    )
    assert row[:-1] == [
        "table1-overlap", "tiny-llama-gsm8k-s6", "\u2713 SUPPORTED", "90.00 [85.00, 95.00] %", "0.30 %", "-", "-",
        "-", "1,200", "100",
    ]  # fmt: skip
    assert re.fullmatch(r"\d+ ms|[\d.]+ s", row[-1])
    keys = [cell.get("data-sort") for cell in body.find("tr")][3:10]
    assert keys == ["0.9", "0.003", "", "", "", "1200", "100"]
    summary = body.find(".//details/summary")
    assert "".join(summary.itertext()).endswith(
        "at most 0.58 (one-sided 95 %): more than random weights give"
    )
    unfolded = " ".join(body.itertext())
    for expected in ("located: 17", "model_fingerprint: f00d", "so it is", "test_claims.py::test_overlap"):
        assert expected in unfolded


def test_around_the_table_stand_verdicts_rules_plots_and_provenance(page: Any) -> None:
    shown = page(SHOWN)
    for expected in (
        "Capability Localization",
        "Verdicts by family of claims and model",
        "Do two halves of one dataset lead to the same neurons?",
        "the interval's lower end lies above 80 %",
        "15 cells of Table 1",
        "sha256",
        "f00d",
        "no figure for Odd",
        "--seed=1",
    ):
        assert expected in shown.text
    assert not re.search(r'(src|href)="(?!"|#|data:|https://pypi\.)', shown.source)  # one file
    images = [image for image in shown.tree.iter("img") if image.get("alt")]
    assert [image.get("src")[:22] for image in images] == ["data:image/png;base64,"]
    assert "Overlap (tiny-llama-gsm8k-s6): supported" in images[0].get("alt")


def test_an_error_in_the_audit_is_not_shown_as_a_verdict(page: Any) -> None:
    shown = page(SHOWN)
    (row,) = [row for row in shown.rows if "ERROR" in row[2]]
    assert row[1:3] == ["tiny-llama-emotion-s6", "! AUDIT ERROR"]
    (body,) = [body for body in shown.cells if body.get("data-verdict") == "error"]
    assert 'raise RuntimeError("no such tensor")' in " ".join(body.itertext())  # the traceback
    assert "Errors in the audit: no evidence for or against a claim (1)" in shown.text


def test_claims_have_one_row_each_and_pytest_htmls_table_only_the_other_tests(page: Any) -> None:
    shown = page(SHOWN + PLAIN)
    assert len(shown.rows) == 4
    assert shown.own_rows == [f"claims/{PAPER}/test_claims.py::test_plain"]
    assert list(shown.find("h2", id="other-tests"))
    assert [found.get("class") for found in shown.find("div", id="audit")] == [None]


def test_without_other_tests_pytest_htmls_table_is_hidden(page: Any) -> None:
    shown = page(SHOWN)
    assert shown.own_rows == [] and not list(shown.find("h2", id="other-tests"))
    assert [found.get("class") for found in shown.find("div", id="audit")] == ["alone"]
    assert (
        "body:has(#audit.alone) :is(#results-table, p.filter, .controls) { display: none; }" in shown.source
    )


def test_rows_come_in_the_order_of_collection(page: Any) -> None:
    alone = [row[:3] for row in page(SHOWN).rows]
    assert [row[:3] for row in page(SHOWN, "-n2").rows] == alone


def test_other_readings_are_marked_and_flips_listed(page: Any) -> None:
    shown = page(
        """
def share(study, cell, claim):
    return Measurement("share", Count(0.5 if cell.variant == "scope=layer" else 0.001, unit="share"))

@claim("table1-neuron", measured(share))
def test_share(): ...
""",
        "--sensitivity",
    )
    (flipped,) = [row for row in shown.rows if "scope=layer" in row[1] and "gsm8k" in row[1]]
    assert "other reading: scope=layer" in flipped[1] and "REFUTED" in flipped[2]
    assert "2 cells would get another verdict under another reading." in shown.text
    (reading,) = [row for row in shown.tree.iter("tr") if row.findtext("th") == "scope=layer"]
    assert reading.findtext("td") == "2 of 2"


def test_a_module_that_cannot_be_imported_still_gives_a_report(claims_run: ClaimsRun, page: Any) -> None:
    claims_run.pytester.makepyfile(test_broken="import no_such_module_<script>")
    shown = page(SHOWN)
    assert shown.own_rows == ["test_broken.py::collect"]
    assert [row[2] for row in shown.rows] == ["\u2205 MISSING"] * 4


def test_no_template_lets_markup_through_unescaped() -> None:
    templates = list(resources.files("caploc.audit").joinpath("templates").iterdir())
    assert len(templates) > 8
    for file in templates:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), file.name


def test_texts_and_numbers() -> None:
    assert visible("a\nb\x00\u202e\ud800") == "a\\nb\\x00\\u202e\\ud800"
    assert visible("x" * 10, 4) == "xxxx... (10 characters)"
    assert in_ascii("\u00e9\u202e\U0001f600") == "\\xe9\\u202e\\U0001f600"
    assert visible_lines("a\x00\nb\nc\nd", most=2) == "a\\x00\n... 2 lines left out ...\nd"
    assert [number(0.9642), number(None), number(1234, "count"), number(0.00123, "nats"), number(1.5, "nats")] == [
        "96.42", "-", "1,234", "0.0012", "1.500",
    ]  # fmt: skip
    assert [p_value(None), p_value(0.00012), p_value(1.0)] == ["-", "0.00012", "1"]
    assert [duration(t) for t in (None, 0.031, 2.44, 190.2)] == ["-", "31 ms", "2.4 s", "3 min 10 s"]
