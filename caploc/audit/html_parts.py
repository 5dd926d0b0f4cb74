"""What the sections of the report are made of: badges, counts and families of claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from caploc.audit.results import Result, Status, Tally
from caploc.audit.text import escaped, plural
from caploc.findings import PRINTED
from caploc.papers import Claim, Group, Paper

SIGNS = {
    Status.SUPPORTED: "&#10003;",
    Status.REFUTED: "&#10007;",
    Status.INCONCLUSIVE: "?",
    Status.NOT_RUN: "&#8211;",
    Status.ERROR: "!",
    Status.MISSING: "&#8709;",
}
MOVED_BADGE = '<span class="verdict v-moved">&#8800; moved</span>'
UNKNOWN = Group(
    "unknown", "Claims that are not registered", "Which claims did tests name that the paper's files lack?"
)


@dataclass(frozen=True)
class Log:
    """What pytest alone knows of a test: its seconds, and the traceback of an error of ours."""

    seconds: float = 0.0
    trace: str = ""


@dataclass(frozen=True)
class Family:
    """A group of claims: what was audited of it, by claim id in the order of the run, and what was not."""

    group: Group
    audited: Mapping[str, Sequence[Result]]
    left: Sequence[Claim]

    @property
    def results(self) -> list[Result]:
        """All results of the family."""
        return [result for results in self.audited.values() for result in results]


def families(paper: Paper, results: Iterable[Result]) -> list[Family]:
    """The results by family and claim; families in the paper's order, one for unregistered claims last."""
    by_group: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        claim = paper.claims.get(result.planned.claim)
        by_group[claim.group if claim else UNKNOWN.id][result.planned.claim].append(result)
    found = [
        Family(
            group,
            by_group[group.id],
            [c for c in paper.claims.values() if c.group == group.id and c.id not in by_group[group.id]],
        )
        for group in paper.groups.values()
    ]
    stray = by_group.get(UNKNOWN.id)
    return found + ([Family(UNKNOWN, stray, [])] if stray else [])


def badge(status: Status, text: str | None = None, more: str = "") -> str:
    """A verdict as a coloured word with its sign; ``text`` is HTML and stands in the word's place."""
    kind = status.value.lower().replace(" ", "-")
    return f'<span class="verdict v-{kind}{more}">{SIGNS[status]} {text or status_word(status)}</span>'


def status_word(status: Status) -> str:
    """The word shown: an error is named as ours, so that no one takes it for evidence."""
    return "ERROR (ours)" if status is Status.ERROR else status.value


def counted(results: Iterable[Result], in_words: bool = False) -> str:
    """A badge a verdict with its count, as the terminal counts: a moved cell as moved, other readings not at all."""
    tally = Tally.of(results)
    badges = []
    for status in Status:
        count = tally.by_status[status]
        if count:
            words = f"{count} {status_word(status).lower()}"
            shown = badge(status, words if in_words else str(count))
            badges.append(f'<span title="{words}">{shown}</span>')
    if tally.moved:
        badges.append(f'<span class="verdict v-moved">&#8800; {tally.moved} moved</span>')
    return " ".join(badges)


def derived(results: Iterable[Result]) -> str:
    """Counts of verdicts that follow from others: outlined, since no test of their own stands behind them."""
    by_status: dict[Status, list[Result]] = defaultdict(list)
    for result in results:
        by_status[result.status].append(result)
    return " ".join(
        f'<span title="{escaped("; ".join(f"{r.planned.claim}: {r.reason}" for r in found), 300)}">'
        f"{badge(status, str(len(found)), ' derived')}</span>"
        for status, found in sorted(by_status.items(), key=lambda pair: list(Status).index(pair[0]))
    )


def model_name(model: str) -> str:
    """A column's heading, as HTML."""
    return "printed numbers" if model == PRINTED else f"<bdi>{escaped(model, 60)}</bdi>"


def holm_note(result: Result) -> str:
    """The flag of a supported cell that is not supported any more after correction over its family; else empty."""
    return f"not after Holm over {plural(result.tests, 'test')}" if result.after_holm is False else ""


def scroll(table: str) -> str:
    """A table that scrolls by itself in a narrow window, also by keyboard."""
    return f'<div class="audit-scroll" tabindex="0" role="region" aria-label="table">{table}</div>'
