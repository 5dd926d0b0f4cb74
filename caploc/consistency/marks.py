"""Table 2's underlines, which mark the second best of three. Bold, for the best, is lost in the texts."""

from __future__ import annotations

from collections.abc import Iterator

from caploc.consistency.facts import block_name, cell_name, listed
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper, PrintedCell

DOCUMENTS = ("paper", "poster")


def wrong_marks(paper: Paper, claim: Claim) -> Finding:
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


def missing_marks(paper: Paper, claim: Claim) -> Finding:
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


CHECKS = {"print-marks-wrong": wrong_marks, "print-marks-missing": missing_marks}
