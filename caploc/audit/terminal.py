"""What the audit prints in the terminal: a header line, a word per test, and a summary in plain words at the end."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from caploc.audit.ledger import INTERRUPTED, RunRecord
from caploc.audit.results import STANDINGS, Result, Status, Tally, scores
from caploc.audit.settings import AuditSettings
from caploc.audit.text import in_ascii, plural

if TYPE_CHECKING:
    from caploc.papers import Paper

MOST_LISTED = 20
WIDEST = 100
_NARROWEST = 50
_GAP = 2
LEGEND = (
    "supported, refuted: the evidence is for, or against, what the paper claims; inconclusive: it does not decide"
    " either way; measured: the paper prints no number for this model, so there is nothing to hold it against"
)


def header(settings: AuditSettings, recording: bool) -> str:
    """One line under pytest's own header: the settings, and whether verdicts are compared with the reviewed ones."""
    if recording:
        expectations = "expectations are being recorded"
    elif settings.departures:
        expectations = (
            f"expectations are off, as the run departs from the defaults: {', '.join(settings.departures)}"
        )
    else:
        expectations = "expectations apply to the embedded models"
    return f"caploc: seed {settings.seed}, {settings.draws} draws, {settings.quadrature} quadrature; {expectations}"


def write_summary(
    reporter: Any,
    record: RunRecord,
    papers: Sequence[Paper],
    config: pytest.Config,
    recorded: Mapping[Path, int],
) -> None:
    """The verdicts by family and in total; what moved, erred or is missing; which verdicts depend on a reading of the
    paper or on the number of tests; where the report and the ledger are. Plain ASCII."""
    reporter.write_sep("=", "audit")
    for paper in papers:
        for line in family_table(paper, record.by_group(paper), config.get_terminal_writer().fullwidth):
            reporter.write_line(line)
        reporter.write_line("")
    if record.status == INTERRUPTED:
        reporter.write_line(
            "INTERRUPTED before all cells were judged; what was computed is kept: the same command goes on from there",
            red=True,
        )
    for line in score_lines(record, {paper.key: paper for paper in papers}):
        reporter.write_line(line)
    _totals(reporter, record)
    _list(reporter, "MOVED", ((r, r.moved or "") for r in record.results if r.moved is not None))
    _list(reporter, "ERROR", ((r, r.reason) for r in record.of(Status.ERROR)))
    _list(reporter, "MISSING", ((r, r.reason) for r in record.of(Status.MISSING)))
    _other_readings(reporter, record)
    for path, count in recorded.items():
        reporter.write_line(f"recorded {plural(count, 'expectation')} in {_short(path, config)}; review them")
    html = config.getoption("htmlpath", None)
    if html:
        reporter.write_line(f"report: {html}")
    reporter.write_line(f"ledger: {_short(record.ledger.path, config)}")


def family_table(paper: Paper, tallies: Mapping[str, Tally], width: int) -> Iterator[str]:
    """Two columns, what was asked and how it came out, in lines of ``width`` characters, but 50 to 100 at any width.

    ``tallies`` are by group of claims; "" is the group of claims that are not registered.
    """
    width = max(_NARROWEST, min(width, WIDEST))
    left = (width - _GAP) // 2
    yield from textwrap.wrap(LEGEND, width)
    for name, tally in tallies.items():
        questions = textwrap.wrap(in_ascii(_question(paper, name)), left)
        counts = textwrap.wrap(in_ascii(in_words(tally)), width - _GAP - left)
        for question, count in zip_longest(questions, counts, fillvalue=""):
            yield f"{question:<{left + _GAP}}{count}".rstrip()


def score_lines(record: RunRecord, papers: Mapping[str, Paper]) -> Iterator[str]:
    """A line for the authors' empirical claims, and one for each kind of cell that does not count among them."""
    for name, tally in scores(record.results, record.derived, papers).items():
        yield f"{STANDINGS[name]}: {in_words(tally)}"


def in_words(tally: Tally) -> str:
    """The counts that are not zero: ``44 supported, 39 refuted (as expected here), 125 inconclusive``."""
    counts = tally.by_status
    parts = {
        f"supported{tally.supported_note}": counts[Status.SUPPORTED],
        f"refuted{tally.refuted_note}": counts[Status.REFUTED],
        "inconclusive": counts[Status.INCONCLUSIVE],
        "measured": counts[Status.MEASURED],
        "MOVED": tally.moved,
        "ended in an error": counts[Status.ERROR],
        "MISSING": counts[Status.MISSING],
        "not run": counts[Status.NOT_RUN],
        "under other readings": tally.other_readings.total(),
    }
    return ", ".join(f"{count} {words}" for words, count in parts.items() if count)


def _question(paper: Paper, name: str) -> str:
    group = paper.groups.get(name)
    if group is None:
        return "Claims that the paper's files do not list"
    return f"{group.title}: {group.question[:1].lower()}{group.question[1:]}"


def _totals(reporter: Any, record: RunRecord) -> None:
    tally = record.tally
    sentence = f"all cells: {tally.sentence()}"
    reasons = sorted(tally.not_run.items(), key=lambda pair: (-pair[1], pair[0]))
    if len(reasons) == 1:
        sentence += f": {in_ascii(reasons[0][0], 200)} ({reasons[0][1]})"
    reporter.write_line(sentence)
    if len(reasons) > 1:
        for reason, count in reasons[:MOST_LISTED]:
            reporter.write_line(f"  not run ({count}): {in_ascii(reason, 200)}")
    if tally.not_after_holm:
        reporter.write_line(
            "  Holm: among so many tests in a family some p values are small by chance; the report flags the supported"
            " cells whose p value is not small enough"
        )


def _other_readings(reporter: Any, record: RunRecord) -> None:
    """The verdicts that depend on how the paper is read, if the run tried other readings (--sensitivity)."""
    if not record.tally.other_readings:
        return
    flips = record.flips()
    count = plural(len(flips), "verdict") if flips else "no verdict"
    reporter.write_line(f"{count} would change under another reading of the paper")
    _list(reporter, "FLIP", ((flip.base, flip.sentence) for flip in flips), red=False)


def _list(reporter: Any, word: str, entries: Iterable[tuple[Result, str]], red: bool = True) -> None:
    listed = list(entries)
    for result, reason in listed[:MOST_LISTED]:
        test = in_ascii(result.planned.test, 200)
        reporter.write_line(f"  {word} {test}: {in_ascii(reason, 200)}", red=red)
    if len(listed) > MOST_LISTED:
        reporter.write_line(f"  {word} and {len(listed) - MOST_LISTED} more, listed in the ledger", red=red)


def _short(path: Path, config: pytest.Config) -> str:
    here = config.invocation_params.dir
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
