"""A card a claim: what it says and where, what decides it, what the text leaves open, its verdicts and its plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caploc.audit.html_parts import Family, counted, derived, families
from caploc.audit.report import Figures
from caploc.audit.results import Result
from caploc.audit.text import escaped, plural
from caploc.papers import Ambiguity, Claim, Paper, PrintedCell

_COORDINATES = ("model", "dataset", "quantity", "sigma", "method", "epoch")


def cards(paper: Paper, results: Sequence[Result], following: Sequence[Result]) -> str:
    """The claims by family; those without a cell in this run are only named."""
    inferred = {id(result) for result in following}
    figures = Figures()
    sections = [
        _family(family, paper, inferred, figures) for family in families(paper, [*results, *following])
    ]
    return "\n".join(['<h2 id="claims">Claims, rules and plots</h2>', *sections])


def _family(family: Family, paper: Paper, inferred: set[int], figures: Figures) -> str:
    parts = [f"<h3>{escaped(family.group.title)}</h3><p>{escaped(family.group.question)}</p>"]
    parts += [
        _card(paper.claims[name], results, paper, inferred, figures)
        for name, results in family.audited.items()
        if name in paper.claims
    ]
    if family.left:
        items = "".join(
            f'<li id="claim-{escaped(claim.id)}"><code>{escaped(claim.id)}</code>: {escaped(claim.statement)}</li>'
            for claim in family.left
        )
        count = plural(len(family.left), "claim")
        parts.append(
            f"<details><summary>Not audited in this run: {count}</summary><ul>{items}</ul></details>"
        )
    return "\n".join(parts)


def _card(claim: Claim, results: Sequence[Result], paper: Paper, inferred: set[int], figures: Figures) -> str:
    tested = [result for result in results if id(result) not in inferred]
    verdicts = f"{counted(tested)} {derived(r for r in results if id(r) in inferred)}"
    facts = "".join(f"<dt>{name}</dt><dd>{content}</dd>" for name, content in _facts(claim, paper) if content)
    return (
        f'<section class="audit-claim" id="claim-{escaped(claim.id)}">'
        f"<h4>{escaped(claim.id)}</h4><p>{escaped(claim.statement)}</p><p>{verdicts}</p>"
        "<details><summary>Where it stands, what decides it, and what the text leaves open</summary>"
        f"<dl>{facts}</dl></details>"
        f'<div class="audit-plots">{"".join(figures.of(results))}</div></section>'
    )


def _facts(claim: Claim, paper: Paper) -> Iterable[tuple[str, str]]:
    """The entries of a card; their contents are HTML, empty where there is nothing to say."""
    yield "where", _sources(claim, paper)
    yield "printed", _printed(claim)
    yield "quantity", f"{escaped(claim.quantity)}<br><code>{escaped(claim.formula)}</code>"
    yield "predicted", escaped(claim.direction)
    yield "supported if", escaped(claim.rule_text.supported)
    yield "refuted if", escaped(claim.rule_text.refuted)
    yield "inconclusive", escaped(claim.rule_text.inconclusive)
    yield "rule", _rule(claim)
    yield "test", f"{escaped(claim.test)}; level {claim.level:g}"
    yield "open in the text", _listed(_ambiguity(paper.ambiguities[name]) for name in claim.ambiguities)
    yield (
        "controls",
        _listed(
            f"<code>{escaped(name)}</code>: {escaped(paper.controls[name].why)}"
            if name in paper.controls
            else f"<code>{escaped(name)}</code>"
            for name in claim.controls
        ),
    )


def _sources(claim: Claim, paper: Paper) -> str:
    return _listed(
        f"{escaped(paper.documents[source.document])}, {escaped(source.at)}"
        + (f": <q>{escaped(source.quote)}</q>" if source.quote else "")
        for source in claim.sources
    )


def _printed(claim: Claim) -> str:
    numbers = [
        f"{escaped(f'{item.key} {item.printed} {item.unit}')} ({escaped(f'{item.document}, {item.at}')})"
        for item in claim.numbers
    ]
    return _listed([*([_cells(claim.cells)] if claim.cells else []), *numbers])


def _cells(cells: Sequence[PrintedCell]) -> str:
    """Printed cells on a line; coordinates that all of them share are left out."""
    varying = [name for name in _COORDINATES if len({getattr(cell, name) for cell in cells}) > 1]
    tables = ", ".join(dict.fromkeys(cell.table.replace("table", "Table ") for cell in cells))
    shown = "; ".join(
        f"{' '.join(_coordinate(name, getattr(cell, name)) for name in varying)} {escaped(cell.printed)}".strip()
        for cell in cells
    )
    return f"{plural(len(cells), 'cell')} of {tables}, in {escaped(cells[0].unit)}: {shown}"


def _coordinate(name: str, value: object) -> str:
    if value is None:
        return ""
    return f"{name} {value:g}" if isinstance(value, (int, float)) else escaped(value)


def _rule(claim: Claim) -> str:
    parts = [f"<code>{escaped(claim.rule.kind)}</code>"]
    parts += [f"{escaped(name.replace('_', ' '))} {value:g}" for name, value in claim.rule.parameters.items()]
    if claim.margin is not None:
        within = "a factor of " if claim.margin.kind == "factor" else ""
        parts.append(f"agrees with a printed number within {within}{claim.margin.value:g}")
    if claim.rule.detectable is not None:
        parts.append(f"meant to detect an effect of {claim.rule.detectable:g}")
    if claim.rule.claims:
        links = (f'<a href="#claim-{escaped(name)}">{escaped(name)}</a>' for name in claim.rule.claims)
        parts.append(f"follows from {', '.join(links)}")
    return ", ".join(parts)


def _ambiguity(ambiguity: Ambiguity) -> str:
    """The question, the reading taken and the others, which ``--sensitivity`` may vary."""
    others = ", ".join(escaped(alternative) for alternative in ambiguity.alternatives)
    varied = f" (<code>--sensitivity</code> varies {escaped(ambiguity.setting)})" if ambiguity.setting else ""
    return f"{escaped(ambiguity.question)} Taken: <b>{escaped(ambiguity.default)}</b>; else: {others}{varied}"


def _listed(items: Iterable[str]) -> str:
    known = list(items)
    return (
        known[0]
        if len(known) == 1
        else f"<ul>{''.join(f'<li>{i}</li>' for i in known)}</ul>"
        if known
        else ""
    )
