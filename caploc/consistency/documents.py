"""What one place says against another: paper and poster, limitations and tables, text and tables."""

from __future__ import annotations

import re

from caploc.consistency.facts import cell_name, listed, model_name
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper

LIMITATIONS_MODEL = "gpt2"
"""The only model that Appendix B says was used."""
_SIZE = re.compile(r"(\d+)b\b")


def tables_agree(paper: Paper, claim: Claim) -> Finding:
    """Paper and poster print the same digits in every cell of Tables 1, 2 and 3, and the same differences."""
    poster = {item.key: item for item in claim.numbers}
    violations, checked = [], 0
    for cell in paper.cells:
        for key, printed in ((cell.id, cell.printed), (f"{cell.id} change", cell.change)):
            if printed is None or cell.table == "table4":  # the poster has no Table 4
                continue
            checked += 1
            if key not in poster:
                violations.append(f"{cell_name(cell)}: {printed} is missing from the poster.")
            elif poster[key].printed != printed:
                violations.append(f"{cell_name(cell)}: {printed}, but {poster[key].printed} in the poster.")
    return consistent(claim, checked, violations)


def models_in_tables(paper: Paper, claim: Claim) -> Finding:
    """Every model of Table 1 has results in the other tables."""
    tables = list(dict.fromkeys(cell.table for cell in paper.cells))
    models = [list(dict.fromkeys(cell.model for cell in paper.table(table))) for table in tables]
    pairs = [(table, model) for table in tables[1:] for model in models[0]]
    violations = [
        f"{model_name(model)} is missing from Table {table.removeprefix('table')}."
        for table, model in pairs
        if model not in models[tables.index(table)]
    ]
    return consistent(claim, len(pairs), violations)


def other_datasets(paper: Paper, claim: Claim) -> Finding:
    """Table 4 shows the little effect on other datasets that the poster states."""
    little = claim.margin.value if claim.margin else 0.0
    located = paper.table("table4", method="located")
    violations = [
        f"{cell.printed} points ({cell_name(cell)}) is no little effect, and the text of section 5.4 calls "
        "it a benefit."
        for cell in located
        if abs(cell.value) > 100 * little
    ]
    rest = [cell for cell in paper.table("table4") if cell.method == "all but located"]
    signs = {cell.value > 0 for cell in rest}
    said = listed(f"{cell.printed} ({model_name(cell.model)}, sigma {cell.sigma:g})" for cell in rest)
    remarks = [f"Training all but the located neurons gives {said}: the models share no pattern."]
    return consistent(claim, len(located), violations, remarks if len(signs) > 1 else [])


def limitations(paper: Paper, claim: Claim) -> Finding:
    """The models that the limitations name are those of the tables."""
    largest = claim.numbers[0]
    models = list(dict.fromkeys(cell.model for cell in paper.cells))
    violations = []
    for model in models:
        size = _SIZE.search(model)
        said = ["that no model but GPT2 was tried"] if model != LIMITATIONS_MODEL else []
        if size and int(size[1]) > largest.value:
            said.append(f"that none has more than {largest.printed} billion parameters")
        if said:
            violations.append(
                f"The tables have {model_name(model)}, though the limitations say {listed(said)}."
            )
    remarks = [] if LIMITATIONS_MODEL in models else ["No table has a result of GPT2."]
    return consistent(claim, len(models), violations, remarks)


CHECKS = {
    "print-tables-agree": tables_agree,
    "print-models-in-tables": models_in_tables,
    "print-other-datasets": other_datasets,
    "general-limitations-models": limitations,
}
