"""The report's page, put together: verdicts and alarms first, then the evidence, cell by cell and claim by claim."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import resources

from caploc.audit.html_cards import cards
from caploc.audit.html_consistency import consistency
from caploc.audit.html_matrix import matrix
from caploc.audit.html_parts import counted
from caploc.audit.html_provenance import provenance_table
from caploc.audit.html_rows import table_of_cells
from caploc.audit.html_sensitivity import sensitivity
from caploc.audit.results import Result, Status
from caploc.audit.session import Books
from caploc.audit.text import escaped, plural
from caploc.audit.views import Log
from caploc.papers import Paper

_MOST_NAMED = 200
_MOST_UNFOLDED = 8
_SECTIONS = {
    "verdicts": "Verdicts",
    "consistency": "The paper against itself",
    "sensitivity": "Other readings",
    "not-run": "Not run",
    "cells": "Cells",
    "claims": "Claims, rules and plots",
    "provenance": "Provenance",
    "other-tests": "Other tests",
}


def page(books: Books, paper: Paper, logs: Mapping[str, Log], other_tests: bool) -> str:
    """Everything between the title and pytest-html's own table, which is hidden unless there are ``other_tests``.

    ``logs`` holds, by node id, what pytest alone knows of a claim's test.
    """
    results = books.results
    body = "\n".join(
        part
        for part in (
            matrix(paper, results, books.derived),
            consistency(paper, results),
            sensitivity(results, books.flips()),
            _not_run(books.of(Status.NOT_RUN)),
            table_of_cells(paper, results, logs),
            cards(paper, results, books.derived),
            provenance_table(books),
            _other_tests(other_tests),
        )
        if part
    )
    return "\n".join(
        [
            f'<meta name="viewport" content="width=device-width"><style>{_asset("report.css")}</style>',
            f"<p><b>{escaped(paper.title)}</b> ({escaped(paper.reference)}), claim by claim.</p>",
            f'<div class="audit-counts">{counted(results, in_words=True)}</div>',
            f"<p>{escaped(books.tally.sentence())}.</p>",
            _alarm("Missing: planned, but never reported", books.of(Status.MISSING)),
            _alarm("Errors of ours: no evidence for or against a claim", books.of(Status.ERROR)),
            _alarm("Moved away from what was reviewed", [r for r in results if r.moved is not None]),
            _contents(body),
            body,
            f"<script>{_asset('report.js')}</script>",
        ]
    )


def _asset(name: str) -> str:
    return resources.files("caploc.audit").joinpath(name).read_text(encoding="utf-8")


def _contents(body: str) -> str:
    links = [
        f'<a href="#{name}">{title}</a>' for name, title in _SECTIONS.items() if f'<h2 id="{name}"' in body
    ]
    return f'<nav aria-label="sections">{" ".join(links)}</nav>'


def _alarm(title: str, results: list[Result]) -> str:
    if not results:
        return ""
    items = [
        f"<li><code><bdi>{escaped(r.planned.test, 200)}</bdi></code>: <bdi>{escaped(r.moved or r.reason)}</bdi></li>"
        for r in results[:_MOST_NAMED]
    ]
    rest = len(results) - _MOST_UNFOLDED
    left_out = (
        f"<p>and {len(results) - _MOST_NAMED} more, in the ledger</p>" if len(results) > _MOST_NAMED else ""
    )
    folded = (
        f"<details><summary>and {rest} more</summary><ul>{''.join(items[_MOST_UNFOLDED:])}</ul>{left_out}</details>"
        if rest > 0
        else ""
    )
    shown = f"<ul>{''.join(items[:_MOST_UNFOLDED])}</ul>{folded}"
    return f'<div class="audit-alarm"><h2>{title} ({len(results)})</h2>{shown}</div>'


def _not_run(results: Iterable[Result]) -> str:
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in results:
        reasons[result.reason].append(result.planned.test)
    if not reasons:
        return ""
    items = "".join(
        f"<li><details><summary>{plural(len(tests), 'cell')}: <bdi>{escaped(reason)}</bdi></summary>"
        f"<code>{'<br>'.join(escaped(test, 200) for test in tests[:_MOST_NAMED])}</code></details></li>"
        for reason, tests in sorted(reasons.items(), key=lambda pair: -len(pair[1]))[:_MOST_NAMED]
    )
    count = plural(sum(map(len, reasons.values())), "cell")
    return f'<h2 id="not-run">Not run: {count}</h2><ul>{items}</ul>'


def _other_tests(there_are: bool) -> str:
    """The heading of pytest-html's own table, or what hides it: only tests that decide no claim stand there."""
    if not there_are:
        return "<style>#results-table, p.filter, .controls { display: none }</style>"
    return (
        '<h2 id="other-tests">Tests that decide no claim</h2>'
        "<noscript><p>pytest-html shows this table, and its environment, by script only.</p></noscript>"
    )
