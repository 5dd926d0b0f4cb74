"""The matrix of verdicts: families of claims against models, each family unfolding into its claims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from caploc.audit.html_parts import Family, counted, derived, families, model_name, scroll
from caploc.audit.results import Result
from caploc.audit.text import escaped
from caploc.findings import PRINTED
from caploc.papers import Paper


def matrix(paper: Paper, results: Sequence[Result], following: Sequence[Result]) -> str:
    """Verdicts counted by family and model, as the terminal counts them; ``following`` are derived verdicts."""
    models = list(dict.fromkeys(result.planned.cell.model for result in [*results, *following]))
    models.sort(key=lambda model: model == PRINTED)
    head = "".join(f'<th scope="col">{model_name(model)}</th>' for model in models)
    inferred = {id(result) for result in following}
    found = families(paper, [*results, *following])
    bodies = "".join(_family(family, models, inferred, paper) for family in found if family.audited)
    table = f'<table class="audit matrix"><thead><tr><th scope="col">Claims</th>{head}</tr></thead>{bodies}</table>'
    left = "; ".join(escaped(family.group.title) for family in found if not family.audited)
    notes = ["A number leads to its cells."]
    notes += ["An outlined verdict follows from other claims and is no test of its own."] if following else []
    notes += [f"Not audited in this run: {left}."] if left else []
    return (
        f'<h2 id="verdicts">Verdicts by family of claims and model</h2>{scroll(table)}'
        f'<p class="audit-note">{" ".join(notes)}</p>'
    )


def _family(family: Family, models: Sequence[str], inferred: set[int], paper: Paper) -> str:
    covered = f"{len(family.audited)} of {len(family.audited) + len(family.left)} claims audited in this run"
    heading = (
        f'<th scope="row"><details><summary><b>{escaped(family.group.title)}</b></summary>'
        f'<span class="audit-note">{covered}</span></details>'
        f'<div class="audit-note">{escaped(family.group.question)}</div></th>'
    )
    rows = [f"<tr>{heading}{_cells(family.results, models, inferred, family.group.id)}</tr>"]
    for claim, results in family.audited.items():
        known = paper.claims.get(claim)
        text = f'<div class="audit-note">{escaped(known.statement)}</div>' if known else ""
        name = f'<a href="#claim-{escaped(claim)}">{escaped(claim)}</a>' if known else escaped(claim)
        cells = _cells(results, models, inferred, claim)
        rows.append(f'<tr class="claim"><th scope="row">{name}{text}</th>{cells}</tr>')
    return f"<tbody>{''.join(rows)}</tbody>"


def _cells(results: Iterable[Result], models: Sequence[str], inferred: set[int], name: str) -> str:
    """One cell a model; ``name`` is what the table of cells is filtered by when its number is chosen."""
    by_model: dict[str, list[Result]] = {model: [] for model in models}
    for result in results:
        by_model[result.planned.cell.model].append(result)
    return "".join(
        f"<td>{_cell(found, inferred, f'{name} {model}')}</td>" for model, found in by_model.items()
    )


def _cell(results: Sequence[Result], inferred: set[int], words: str) -> str:
    shown = counted(result for result in results if id(result) not in inferred)
    if shown:
        shown = f'<a class="count" href="#cells" data-filter="{escaped(words)}">{shown}</a>'
    return f"{shown} {derived(result for result in results if id(result) in inferred)}".strip()
