"""The report around the table: verdicts and what is missing above it, claims with their plots and provenance below."""

from __future__ import annotations

import base64
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from caploc.audit.html_rows import badge, status_word
from caploc.audit.plots import draw
from caploc.audit.provenance import fingerprints
from caploc.audit.results import Result, Status, Tally
from caploc.audit.session import Books
from caploc.audit.text import escaped, plural
from caploc.papers import Claim, Paper

_MOST_NAMED = 200


def opening(books: Books, paper: Paper) -> str:
    """Counts, alarms, the matrix of verdicts, and what was not run."""
    style = resources.files("caploc.audit").joinpath("report.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            f"<style>{style}</style>",
            f"<p><b>{escaped(paper.title)}</b> ({escaped(paper.reference)}), claim by claim.</p>",
            f'<div class="audit-counts">{_counted(books.results, in_words=True)}</div>',
            f'<p class="audit-sentence">{escaped(books.tally.sentence())}.</p>',
            _alarm("Missing: planned, but never reported", books.of(Status.MISSING)),
            _alarm("Errors of ours: no evidence for or against a claim", books.of(Status.ERROR)),
            _alarm("Moved away from what was reviewed", [r for r in books.results if r.moved is not None]),
            _matrix(books.results),
            _not_run(books.of(Status.NOT_RUN)),
        ]
    )


def closing(books: Books, paper: Paper) -> str:
    """A card a claim, with its plots, and the run's provenance."""
    by_claim: dict[str, list[Result]] = defaultdict(list)
    for result in books.results:
        by_claim[result.planned.claim].append(result)
    cards = [_card(paper.claims[name], results) for name, results in by_claim.items() if name in paper.claims]
    return "\n".join(["<h2>Claims, rules and plots</h2>", *cards, "<h2>Provenance</h2>", _provenance(books)])


def _alarm(title: str, results: list[Result]) -> str:
    if not results:
        return ""
    items = "".join(
        f"<li><code><bdi>{escaped(r.planned.test, 200)}</bdi></code>: <bdi>{escaped(r.moved or r.reason)}</bdi></li>"
        for r in results[:_MOST_NAMED]
    )
    more = (
        f"<p>and {len(results) - _MOST_NAMED} more, in the ledger</p>" if len(results) > _MOST_NAMED else ""
    )
    return f'<div class="audit-alarm"><h3>{title} ({len(results)})</h3><ul>{items}</ul>{more}</div>'


def _matrix(results: Iterable[Result]) -> str:
    """Verdicts counted by claim and model."""
    table: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        table[result.planned.claim][result.planned.cell.model].append(result)
    models = list(dict.fromkeys(model for row in table.values() for model in row))
    head = "".join(f"<th><bdi>{escaped(model, 60)}</bdi></th>" for model in models)
    rows = []
    for claim, row in table.items():
        name = f'<th><a href="#claim-{escaped(claim)}">{escaped(claim)}</a></th>'
        rows.append(f"<tr>{name}{''.join(f'<td>{_counted(row[model])}</td>' for model in models)}</tr>")
    return (
        "<h2>Verdicts by claim and model</h2>"
        f'<div class="audit-scroll"><table class="audit"><tr><th>claim</th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _counted(results: Iterable[Result], in_words: bool = False) -> str:
    """A badge a verdict with its count; a moved cell counts as moved, as it does in the terminal."""
    tally = Tally.of(results)
    badges = []
    for status in Status:
        count = tally.by_status[status]
        words = f"{count} {status_word(status).lower()}"
        if count:
            badges.append(f'<span title="{words}">{badge(status, words if in_words else str(count))}</span>')
    if tally.moved:
        words = f"{tally.moved} moved"
        badges.append(f'<span class="verdict v-moved" title="{words}">&#8800; {words}</span>')
    return " ".join(badges)


def _not_run(results: list[Result]) -> str:
    if not results:
        return ""
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in results:
        reasons[result.reason].append(result.planned.test)
    items = "".join(
        f"<li><details><summary>{len(tests)}: <bdi>{escaped(reason)}</bdi></summary>"
        f"<code>{'<br>'.join(escaped(test, 200) for test in tests[:_MOST_NAMED])}</code></details></li>"
        for reason, tests in sorted(reasons.items(), key=lambda pair: -len(pair[1]))
    )
    return f'<div class="audit-skips"><h2>Not run: {plural(len(results), "cell")}</h2><ul>{items}</ul></div>'


def _card(claim: Claim, results: list[Result]) -> str:
    quote = f"<dt>in its words</dt><dd>&#8220;{escaped(claim.quote)}&#8221;</dd>" if claim.quote else ""
    printed = list(claim.published.values())
    span = ""
    if printed:
        low, high = min(printed, key=float), max(printed, key=float)
        shown = low if low == high else f"{low} to {high}"
        span = f"<dt>printed</dt><dd>{escaped(shown)} {escaped(claim.published_unit)}</dd>"
    ambiguities = "".join(f"<li>{escaped(text)}</li>" for text in claim.ambiguities)
    return (
        f'<section class="audit-claim" id="claim-{escaped(claim.id)}">'
        f"<h3>{escaped(claim.id)}</h3><p>{escaped(claim.statement)}</p>"
        f"<p>{_counted(results)}</p>"
        f"<dl><dt>where</dt><dd>{escaped(claim.locus)}</dd>{quote}{span}"
        f"<dt>measured</dt><dd>{escaped(claim.quantity)}: {escaped(claim.formula)}</dd>"
        f"<dt>supported if</dt><dd>{escaped(claim.rule_text.supported)}</dd>"
        f"<dt>refuted if</dt><dd>{escaped(claim.rule_text.refuted)}</dd>"
        f"<dt>inconclusive</dt><dd>{escaped(claim.rule_text.inconclusive)}</dd></dl>"
        f"<details><summary>What the text leaves open, and our choice</summary><ul>{ambiguities}</ul></details>"
        f'<div class="audit-plots">{"".join(_figures(results))}</div></section>'
    )


def _figures(results: Iterable[Result]) -> Iterable[str]:
    for result in results:
        for plot in (result.finding or {}).get("plots") or ():
            cell, caption = result.planned.cell, str(plot.get("title", ""))
            caption += "" if cell.model in caption else f" ({cell.label})"
            try:
                picture = base64.b64encode(draw(plot["kind"], caption, plot["data"])).decode()
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                # a figure that cannot be drawn must not cost the reader the report
                yield f"<p>no figure for {escaped(caption)}: {escaped(type(error).__name__)}: {escaped(error)}</p>"
                continue
            alternative = f"{caption}: {result.status.lower()}, {result.reason}"
            yield f'<figure><img src="data:image/png;base64,{picture}" alt="{escaped(alternative)}"></figure>'


def _provenance(books: Books) -> str:
    head: Mapping[str, Any] = next(iter(books.ledger.read()), {})
    commit = head.get("commit")
    state = "outside a repository" if commit is None else "dirty" if head.get("dirty") else "clean"
    entries: dict[str, Any] = {
        "commit": f"{commit or '-'} ({state})",
        "command": shlex.join(["pytest", *head.get("command", ())]),
        "started": head.get("started"),
        "python": head.get("python"),
        "platform": head.get("platform"),
        "packages": ", ".join(
            f"{name} {version}" for name, version in head.get("packages", {}).items() if version
        ),
    }
    for name, value in head.get("settings", {}).items():
        if name not in ("models", "datasets", "departures") and value is not None:
            entries[f"setting {name}"] = value
    paper = head.get("paper", {})
    entries[f"rules of {paper.get('key')}"] = f"sha256 {paper.get('digest')}"
    entries |= fingerprints(books.results)
    rows = "".join(
        f"<tr><th>{escaped(name)}</th><td><bdi>{escaped(value)}</bdi></td></tr>"
        for name, value in entries.items()
    )
    return f'<div class="audit-scroll"><table class="audit">{rows}</table></div>'
