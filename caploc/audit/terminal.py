"""What the audit says in the terminal: a header line, a word a test, and the run in plain words at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from caploc.audit.results import Result, Status
from caploc.audit.session import Books
from caploc.audit.settings import PAPER, AuditSettings
from caploc.audit.terminal import family_table
from caploc.audit.text import in_ascii, plural
from caploc.papers import load_paper

MOST_LISTED = 20


def header(settings: AuditSettings, recording: bool) -> str:
    """One line under pytest's own header: what is compared with what was reviewed."""
    if recording:
        expectations = "expectations are being recorded"
    elif settings.departures:
        expectations = (
            f"expectations are off, since the run departs from the defaults: {', '.join(settings.departures)}"
        )
    else:
        expectations = "expectations apply to the embedded models"
    return f"caploc: seed {settings.seed}, {settings.draws} draws, {settings.quadrature} quadrature; {expectations}"


def status_of(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """pytest's (category, letter, word) for a claim test's report; None for any other."""
    word = getattr(report, "caploc_word", None)
    if word is None or report.when != "call":
        return None
    if hasattr(report, "wasxfail"):
        return "xfailed", "x", word
    if report.failed:
        return ("error", "E", word) if word == Status.ERROR else ("failed", "F", word)
    return ("skipped", "s", word) if report.skipped else ("passed", ".", word)


def write_summary(
    reporter: Any, books: Books, config: pytest.Config, recorded_to: Path | None, recorded: int
) -> None:
    """The verdicts by family and in all, what moved, erred or is missing, what hangs on a reading of the paper or on
    the number of tests, and where the report and the ledger are. Plain ASCII."""
    reporter.write_sep("=", "audit")
    paper = load_paper(PAPER)
    for line in family_table(paper, books.by_group(paper), config.get_terminal_writer().fullwidth):
        reporter.write_line(line)
    reporter.write_line("")
    _totals(reporter, books)
    _list(reporter, "MOVED", ((r, r.moved or "") for r in books.results if r.moved is not None))
    _list(reporter, "ERROR", ((r, r.reason) for r in books.of(Status.ERROR)))
    _list(reporter, "MISSING", ((r, r.reason) for r in books.of(Status.MISSING)))
    _other_readings(reporter, books)
    if recorded_to is not None:
        reporter.write_line(
            f"recorded {plural(recorded, 'expectation')} in {_short(recorded_to, config)}; review them"
        )
    html = config.getoption("htmlpath", None)
    if html:
        reporter.write_line(f"report: {html}")
    reporter.write_line(f"ledger: {_short(books.ledger.path, config)}")


def _totals(reporter: Any, books: Books) -> None:
    tally = books.tally
    sentence = tally.sentence()
    reasons = sorted(tally.not_run.items(), key=lambda pair: (-pair[1], pair[0]))
    if len(reasons) == 1:
        sentence += f": {in_ascii(reasons[0][0], 200)} ({reasons[0][1]})"
    reporter.write_line(sentence)
    if len(reasons) > 1:
        for reason, count in reasons[:MOST_LISTED]:
            reporter.write_line(f"  not run ({count}): {in_ascii(reason, 200)}")
    if tally.not_after_holm:
        reporter.write_line(
            "  Holm: with so many tests in a family some p values are small by luck; the report marks the supported"
            " cells whose own is not small enough"
        )


def _other_readings(reporter: Any, books: Books) -> None:
    """Where a verdict is another one under another reading of the paper, if the run tried any (--sensitivity)."""
    if not books.tally.other_readings:
        return
    flips = books.flips()
    count = plural(len(flips), "verdict") if flips else "no verdict"
    reporter.write_line(f"{count} would be another one under another reading of the paper")
    _list(reporter, "FLIP", ((flip.base, flip.sentence) for flip in flips), red=False)


def _list(reporter: Any, word: str, entries: Iterable[tuple[Result, str]], red: bool = True) -> None:
    listed = list(entries)
    for result, reason in listed[:MOST_LISTED]:
        test = in_ascii(result.planned.test, 200)
        reporter.write_line(f"  {word} {test}: {in_ascii(reason, 200)}", red=red)
    if len(listed) > MOST_LISTED:
        reporter.write_line(f"  {word} and {len(listed) - MOST_LISTED} more, listed in the ledger", red=red)


def _short(path: Path, config: pytest.Config) -> str:
    return str(path.relative_to(config.rootpath)) if path.is_relative_to(config.rootpath) else str(path)
