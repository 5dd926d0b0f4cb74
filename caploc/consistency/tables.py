"""Tables 2 and 3 against themselves: averages of rows, differences, accuracies as shares of whole items, and marks.

The GRIM test (Brown and Heathers 2017) asks of how many items an accuracy, as printed, can be a share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from caploc.consistency.arithmetic import (
    Explanation,
    explanations,
    is_share_of,
    is_truncated_share_of,
    mean_of,
    rounding,
    smallest_count,
)
from caploc.consistency.printed import (
    DATASETS,
    block_name,
    cell_name,
    check,
    consistent,
    dataset_name,
    listed,
    number,
    place,
    whole,
)
from caploc.findings import Measurement
from caploc.papers import Claim, Paper, PrintedCell

RUNS = 3
"""A mean over three runs is the usual one; it is a share of three times as many items."""
MOST_ITEMS = 10_000
"""Beyond this, every number with two decimals is a share of whole items."""
DOCUMENTS = ("paper", "poster")


@check("print-table2-averages", "print-table3-averages")
def averages(paper: Paper, claim: Claim) -> Measurement:
    """Every average of the table is the mean of its row."""
    table = claim.cells[0].table
    violations, remarks, exact = [], [], 0
    printed = paper.table(table, dataset="average")
    for average in printed:
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
        "explained": len(printed) - exact - len(violations),
        "impossible": len(violations),
    }
    return consistent(
        claim, len(printed), violations, remarks, {name: float(n) for name, n in counts.items()}
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


@check("print-table3-changes")
def table3_changes(paper: Paper, claim: Claim) -> Measurement:
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


@check("print-gsm8k-granularity", "print-emotion-granularity", "print-code25k-granularity")
def granularity(paper: Paper, claim: Claim) -> Measurement:
    """Every score of a dataset in Tables 2 and 3 is a share of the number of samples that is printed for it."""
    dataset = claim.numbers[0].key
    count = whole(number(claim, dataset))
    scores = scores_of(paper, dataset)
    name = dataset_name(dataset)
    violations, remarks, cut_off = [], [], 0
    failing_blocks: dict[str, list[PrintedCell]] = {}
    for block, cells in blocks_of(scores).items():
        failing = [cell.printed for cell in cells if not is_share_of(cell.printed, count)]
        cut_off += sum(is_truncated_share_of(score, count) for score in failing)
        violations += [
            f"{cell.printed} ({cell_name(cell)}) is not k / {count} for any whole number k."
            for cell in cells
            if cell.printed in failing
        ]
        if failing:
            failing_blocks[block] = cells
            remarks.append(f"{block}: {len(failing)} of {len(cells)} {name} scores fail: {listed(failing)}.")
    if len(failing_blocks) == 1:
        [cells] = failing_blocks.values()
        if all(is_share_of(cell.printed, RUNS * count) for cell in cells):
            remarks.append(
                f"All scores of that block are k / {RUNS * count}, as means of {RUNS} runs would be; no "
                "other block needs that, and the text says nothing of it."
            )
    smallest = smallest_count((cell.printed for cell in scores), MOST_ITEMS)
    if violations:
        remarks.append(
            f"The smallest number of items that explains all {len(scores)} {name} scores is {smallest}."
            if smallest
            else f"No number of items up to {MOST_ITEMS} explains all {len(scores)} {name} scores."
        )
    asides = {"samples": float(count), "zeros": float(sum(cell.value == 0 for cell in scores))}
    asides |= {"smallest_count": float(smallest)} if smallest else {}
    asides["fit_if_cut_off"] = float(cut_off)
    # a score with two decimals is one of 10,000 steps
    asides["pass_by_chance"] = min(1.0, count / MOST_ITEMS)
    return consistent(claim, len(scores), violations, remarks, asides)


@check("print-evaluation-counts")
def evaluation_counts(paper: Paper, claim: Claim) -> Measurement:
    """The accuracies do not come from as many items as were located with."""
    violations, remarks = [], []
    datasets = ("gsm8k", "emotion", "code25k")
    for dataset in datasets:
        printed = number(claim, dataset)
        count, name = whole(printed), dataset_name(dataset)
        blocks = blocks_of(scores_of(paper, dataset)).values()
        explained = [block for block in blocks if all(is_share_of(cell.printed, count) for cell in block)]
        scores = [cell.printed for block in explained for cell in block]
        if len(explained) * 2 < len(blocks):
            remarks.append(f"{name}: most blocks are no shares of {count}, so that nothing follows for it.")
        elif smallest_count(scores, count) == count:
            violations.append(
                f"{name}: {count} is the smallest number of items that explains the {len(scores)} scores "
                f"of {len(explained)} of {len(blocks)} blocks, and {count} is how many {place(printed)} "
                "locates with: the same items may have served both."
            )
        for other in (item for item in claim.numbers if item.key == f"{dataset} test set"):
            failing = sum(not is_share_of(score, whole(other)) for score in scores)
            remarks.append(
                f"{name}: {failing} of {len(scores)} scores are no shares of {other.printed}, {other.at}."
            )
    return consistent(claim, len(datasets), violations, remarks)


def scores_of(paper: Paper, dataset: str) -> list[PrintedCell]:
    """The accuracies of a dataset in Tables 2 and 3, in order."""
    return [cell for table in ("table2", "table3") for cell in paper.table(table, dataset=dataset)]


def blocks_of(cells: Sequence[PrintedCell]) -> dict[str, list[PrintedCell]]:
    """Cells by the block of a table they stand in."""
    blocks: dict[str, list[PrintedCell]] = {}
    for cell in cells:
        blocks.setdefault(block_name(cell), []).append(cell)
    return blocks


@check("print-marks-wrong")
def wrong_marks(paper: Paper, claim: Claim) -> Measurement:
    """Every underlined number of Table 2 is the second best of its three."""
    checked, violations = 0, []
    for document in DOCUMENTS:
        for cells in _columns(paper):
            for cell in cells:
                if document in cell.second_in:
                    checked += 1
                    rank = 1 + sum(other.value > cell.value for other in cells)
                    if cell.value != _second(cells).value:
                        rivals = listed(other.printed for other in cells if other is not cell)
                        violations.append(
                            f"The {document} underlines {cell.printed} ({cell_name(cell)}), which is "
                            f"number {rank} of three; the others are {rivals}."
                        )
    return consistent(claim, checked, violations)


@check("print-marks-missing")
def missing_marks(paper: Paper, claim: Claim) -> Measurement:
    """Every second best number of Table 2 is underlined, in both documents."""
    violations, remarks = [], []
    columns = list(_columns(paper))
    for document in DOCUMENTS:
        missing = [cell for cells in columns if document not in (cell := _second(cells)).second_in]
        violations += [
            f"The {document} does not underline {cell.printed} ({cell_name(cell)}), the second best."
            for cell in missing
        ]
        blocks = [block_name(cell) for cell in missing]
        if blocks:
            said = listed(f"{blocks.count(block)} in {block}" for block in dict.fromkeys(blocks))
            remarks.append(
                f"The {document}: {said}; a mark may have been lost when the document was turned into text."
            )
    return consistent(claim, len(DOCUMENTS) * len(columns), violations, remarks)


def _columns(paper: Paper) -> Iterator[list[PrintedCell]]:
    """The three methods' numbers for one model, sigma, epoch and dataset."""
    columns: dict[tuple[object, ...], list[PrintedCell]] = {}
    for cell in paper.table("table2"):
        columns.setdefault((cell.model, cell.sigma, cell.epoch, cell.dataset), []).append(cell)
    yield from columns.values()


def _second(cells: list[PrintedCell]) -> PrintedCell:
    return sorted(cells, key=lambda cell: cell.value, reverse=True)[1]
