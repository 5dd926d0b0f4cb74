"""Tables 2 and 3 against themselves: averages of rows, and differences printed in parentheses."""

from __future__ import annotations

from fractions import Fraction

from caploc.consistency.arithmetic import Explanation, explanations, mean_of, rounding
from caploc.consistency.facts import DATASETS, cell_name, dataset_name, listed
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper, PrintedCell


def table2_averages(paper: Paper, claim: Claim) -> Finding:
    """Every average of Table 2 is the mean of its row."""
    return _averages(paper, claim, "table2")


def table3_averages(paper: Paper, claim: Claim) -> Finding:
    """Every average of Table 3 is the mean of its row."""
    return _averages(paper, claim, "table3")


def _averages(paper: Paper, claim: Claim, table: str) -> Finding:
    violations, remarks, exact = [], [], 0
    averages = paper.table(table, dataset="average")
    for average in averages:
        row = [_same_row(paper, average, dataset) for dataset in DATASETS]
        value, reach = mean_of(cell.printed for cell in row)
        found = explanations(average.printed, value, reach)
        terms = listed(cell.printed for cell in row)
        if Explanation.ROUNDING in found:
            exact += 1
        elif found:
            remarks.append(
                f"{average.printed} ({cell_name(average)}): the mean of {terms} is {float(value):.4f}; {found[0]}"
                + "".join(f", or {other}" for other in found[1:])
                + "."
            )
        else:
            violations.append(
                f"{average.printed} ({cell_name(average)}) cannot be the mean of {terms}, which is {float(value):.2f}."
            )
            remarks += _repairs(average, row)
    counts = {
        "exact": exact,
        "explained": len(averages) - exact - len(violations),
        "impossible": len(violations),
    }
    return consistent(
        claim, len(averages), violations, remarks, {name: float(n) for name, n in counts.items()}
    )


def _repairs(average: PrintedCell, row: list[PrintedCell]) -> list[str]:
    """For an impossible average, the value that each score would need to have, the others as they are."""
    total = len(row) * Fraction(average.printed)
    needed = [
        (cell, total - sum(Fraction(other.printed) for other in row if other is not cell)) for cell in row
    ]
    possible = [
        f"{float(value):.2f} for {dataset_name(cell.dataset)} instead of {cell.printed}"
        for cell, value in needed
        if 0 <= value <= 100
    ]
    return [f"{average.printed} would need {', or '.join(possible)}."] if possible else []


def table3_changes(paper: Paper, claim: Claim) -> Finding:
    """Every difference in parentheses is the score minus the base score."""
    cells = [cell for cell in paper.table("table3") if cell.change is not None]
    violations, remarks = [], []
    for cell in cells:
        change = cell.change or ""
        base = paper.table("table3", model=cell.model, dataset=cell.dataset, method="base")[0]
        value = Fraction(cell.printed) - Fraction(base.printed)
        reach = rounding(cell.printed) - rounding(base.printed)
        if not explanations(change, value, reach):
            violations.append(
                f"{change} ({cell_name(cell)}) is not {cell.printed} minus the base score {base.printed}, "
                f"which is {float(value):+.2f}."
            )
        if "." not in change:
            remarks.append(
                f"{change} ({cell_name(cell)}) is printed without decimals, as nowhere else in the table."
            )
    return consistent(claim, len(cells), violations, remarks)


def _same_row(paper: Paper, average: PrintedCell, dataset: str) -> PrintedCell:
    return paper.table(
        average.table,
        model=average.model,
        sigma=average.sigma,
        method=average.method,
        epoch=average.epoch,
        dataset=dataset,
    )[0]


CHECKS = {
    "print-table2-averages": table2_averages,
    "print-table3-averages": table3_averages,
    "print-table3-changes": table3_changes,
}
