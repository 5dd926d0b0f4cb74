"""The verdicts by family of claims, as two columns of plain ASCII: what was asked, and how it came out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from itertools import zip_longest

from caploc.audit.results import Status, Tally
from caploc.audit.text import in_ascii
from caploc.papers import Paper

WIDEST = 100
_NARROWEST = 50
_GAP = 2
LEGEND = (
    "supported, refuted: the evidence speaks for, or against, what the paper claims; inconclusive: it decides"
    " neither way"
)


def family_table(paper: Paper, tallies: Mapping[str, Tally], width: int) -> Iterator[str]:
    """Lines of at most ``width`` columns, or 100 where there are more.

    ``tallies`` are by group of claims, the one under "" for claims that are not registered.
    """
    width = max(_NARROWEST, min(width, WIDEST))
    left = (width - _GAP) // 2
    yield from textwrap.wrap(LEGEND, width)
    for name, tally in tallies.items():
        questions = textwrap.wrap(in_ascii(_question(paper, name)), left)
        counts = textwrap.wrap(in_ascii(in_words(tally)), width - _GAP - left)
        for question, count in zip_longest(questions, counts, fillvalue=""):
            yield f"{question:<{left + _GAP}}{count}".rstrip()


def in_words(tally: Tally) -> str:
    """The counts that are not zero: ``44 supported, 39 refuted (as expected here), 125 inconclusive``."""
    counts = tally.by_status
    parts = {
        f"supported{tally.supported_note}": counts[Status.SUPPORTED],
        f"refuted{tally.refuted_note}": counts[Status.REFUTED],
        "inconclusive": counts[Status.INCONCLUSIVE],
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
        return "Claims that the paper's files do not have"
    return f"{group.title}: {group.question[:1].lower()}{group.question[1:]}"
