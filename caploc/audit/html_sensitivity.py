"""Other readings of the paper: where a verdict hangs on how an ambiguous sentence of it is taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from caploc.audit.html_parts import badge, scroll
from caploc.audit.results import Result
from caploc.audit.sensitivity import Flip
from caploc.audit.text import escaped, plural

_MOST_UNFOLDED = 20


def sensitivity(results: Sequence[Result], flips: Sequence[Flip]) -> str:
    """Flips by reading, then cell by cell; empty where the run tried no other reading."""
    varied = [result for result in results if result.planned.cell.variant]
    if not varied:
        return ""
    verdict = (
        f"{plural(len(flips), 'cell')} would get another verdict under another reading."
        if flips
        else "No cell would get another verdict."
    )
    return (
        '<h2 id="sensitivity">Other readings of the paper</h2>'
        f"<p>Where the text can be read in more than one way, the cells were measured under each reading. {verdict}</p>"
        f"{_by_reading(varied, flips)}{_by_cell(flips)}"
    )


def _by_reading(varied: Sequence[Result], flips: Sequence[Flip]) -> str:
    tried = Counter(result.planned.cell.variant for result in varied if result.decided)
    changed = Counter(other.planned.cell.variant for flip in flips for other in flip.others)
    rows = "".join(
        f'<tr><th scope="row">{escaped(variant)}</th><td>{changed[variant]:,} of {count:,}</td></tr>'
        for variant, count in tried.items()
    )
    head = '<tr><th scope="col">Reading</th><th scope="col">Verdicts that change</th></tr>'
    return scroll(f'<table class="audit"><thead>{head}</thead><tbody>{rows}</tbody></table>')


def _by_cell(flips: Sequence[Flip]) -> str:
    if not flips:
        return ""
    rows = "".join(_row(flip) for flip in flips)
    names = ("Claim", "Cell", "As run", "Read otherwise")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = scroll(f'<table class="audit"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>')
    unfolded = " open" if len(flips) <= _MOST_UNFOLDED else ""
    return f"<details{unfolded}><summary>Cell by cell</summary>{table}</details>"


def _row(flip: Flip) -> str:
    claim = escaped(flip.base.planned.claim)
    others = " ".join(
        f"<div>{badge(other.status)} <bdi>{escaped(other.planned.cell.variant)}</bdi></div>"
        for other in flip.others
    )
    return (
        f'<tr><th scope="row"><a href="#claim-{claim}">{claim}</a></th>'
        f"<td><bdi>{escaped(flip.base.planned.cell.label, 120)}</bdi></td><td>{badge(flip.base.status)}</td>"
        f"<td>{others}</td></tr>"
    )
