"""Accuracies as shares of whole items (the GRIM test, Brown and Heathers 2017): of how many can they be?"""

from __future__ import annotations

from collections.abc import Sequence

from caploc.consistency.arithmetic import is_share_of, is_truncated_share_of, smallest_count
from caploc.consistency.facts import block_name, cell_name, dataset_name, listed, number, place, whole
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper, PrintedCell

RUNS = 3
"""A mean over three runs is the usual one; it is a share of three times as many items."""
MOST_ITEMS = 10_000
"""Beyond this, every number with two decimals is a share of whole items."""


def gsm8k(paper: Paper, claim: Claim) -> Finding:
    """Every GSM8K accuracy of Tables 2 and 3 is a share of the printed number of samples."""
    return _granularity(paper, claim, "gsm8k")


def emotion(paper: Paper, claim: Claim) -> Finding:
    """Every Emotion accuracy of Tables 2 and 3 is a share of the printed number of samples."""
    return _granularity(paper, claim, "emotion")


def code25k(paper: Paper, claim: Claim) -> Finding:
    """Every Code25K score of Tables 2 and 3 is a share of the printed number of samples."""
    return _granularity(paper, claim, "code25k")


def _granularity(paper: Paper, claim: Claim, dataset: str) -> Finding:
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
    quantities = {"samples": float(count), "zeros": float(sum(cell.value == 0 for cell in scores))}
    quantities |= {"smallest_count": float(smallest)} if smallest else {}
    quantities["fit_if_cut_off"] = float(cut_off)
    # a score with two decimals is one of 10,000 steps
    quantities["pass_by_chance"] = min(1.0, count / MOST_ITEMS)
    return consistent(claim, len(scores), violations, remarks, quantities)


def evaluation_counts(paper: Paper, claim: Claim) -> Finding:
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


CHECKS = {
    "print-gsm8k-granularity": gsm8k,
    "print-emotion-granularity": emotion,
    "print-code25k-granularity": code25k,
    "print-evaluation-counts": evaluation_counts,
}
