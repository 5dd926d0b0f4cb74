"""The threshold sigma and the share of neurons that it selects, from table to table."""

from __future__ import annotations

from fractions import Fraction

from caploc.consistency.arithmetic import difference, mean_of, rounding, significant
from caploc.consistency.facts import (
    block_name,
    cell_name,
    dataset_name,
    listed,
    model_name,
    number,
    share,
    whole,
)
from caploc.consistency.printed import consistent
from caploc.findings import Finding
from caploc.papers import Claim, Paper, PrintedCell

LABELLED = ("table2", "table3")
"""The tables whose blocks carry a sigma in both documents; the poster has no Table 4."""


def sigma_labels(paper: Paper, claim: Claim) -> Finding:
    """Paper and poster label every block of numbers with the same sigma."""
    blocks: dict[str, PrintedCell] = {}
    for table in LABELLED:
        blocks |= {block_name(cell): cell for cell in paper.table(table) if cell.sigma is not None}
    violations, remarks = [], []
    for block, cell in blocks.items():
        if cell.poster_sigma not in (None, cell.sigma):
            same = paper.table(cell.table, model=cell.model, sigma=cell.sigma)
            violations.append(
                f"{block}: the poster prints the {len(same)} numbers under sigma {cell.poster_sigma:g}."
            )
            others = {
                block_name(other) for other in paper.table("table4", model=cell.model, sigma=cell.sigma)
            }
            remarks += [f"The paper's own {other} has the same label." for other in sorted(others)]
    return consistent(claim, len(blocks), violations, remarks)


def share_of_table1(paper: Paper, claim: Claim) -> Finding:
    """The share of located neurons that section 5.4 states is Table 1's, for each model of Table 2 at that sigma."""
    stated = number(claim, "share located")
    violations, remarks = [], []
    models = list(dict.fromkeys(cell.model for cell in paper.table("table2")))
    for model in models:
        used = {cell.dataset for cell in paper.table("table2", model=model)}
        ratios = paper.table("table1", model=model, quantity="neuron")
        means = {
            f"over the {len(cells)} {which}": mean_of(cell.printed for cell in cells)[0]
            for which, cells in (
                ("datasets of Table 1", ratios),
                ("of them in Table 2", [cell for cell in ratios if cell.dataset in used]),
            )
        }
        said = listed(f"{float(mean):.3f} % {over}" for over, mean in means.items())
        fits = any(rounding(stated.printed).contains(mean) for mean in means.values())
        sentence = f"{model_name(model)}: Table 1's neuron ratio is on average {said}"
        if fits:
            remarks.append(f"{sentence}, which {stated.printed} % fits.")
        else:
            violations.append(f"{sentence}, not {stated.printed} %.")
    return consistent(claim, len(models), violations, remarks)


def share_at_both_sigmas(paper: Paper, claim: Claim) -> Finding:
    """Random neurons, as many in either block by the label, score alike in the two sigma blocks of a model."""
    stated = number(claim, "share located")
    pairs = []
    for cell in paper.table("table2", method="random"):
        others = paper.table(
            "table2", model=cell.model, method="random", epoch=cell.epoch, dataset=cell.dataset
        )
        pairs += [(cell, other) for other in others if (other.sigma or 0) < (cell.sigma or 0)]
    tested = [(a, b) for a, b in pairs if any(item.key == a.dataset for item in claim.numbers)]
    found = [difference(share(b), share(a), whole(number(claim, a.dataset))) for a, b in tested]
    violations = [
        f"{cell_name(a)}: {a.printed}, but {b.printed} at sigma {b.sigma:g}, {100 * gap.value:+.2f} points "
        f"(z = {gap.z:.1f})."
        for (a, b), gap, differs in zip(tested, found, significant(found, claim.level), strict=True)
        if differs
    ]
    remarks = [
        f"Either {stated.printed} % is wrong for one of the two sigmas, whose masks are nested, or one "
        "random draw differs from another by more than most effects in the table."
    ]
    return consistent(claim, len(tested), violations, remarks if violations else [])


def share_and_rest(paper: Paper, claim: Claim) -> Finding:
    """The share of the located neurons and that of all others add up to 100 %."""
    located, rest = number(claim, "share located"), number(claim, "share of the rest")
    total = Fraction(located.printed) + Fraction(rest.printed)
    violations = [f"{located.printed} % and {rest.printed} % add up to {float(total):.2f} %."]
    return consistent(claim, 1, [] if total == 100 else violations)


def monotone_in_sigma(paper: Paper, claim: Claim) -> Finding:
    """Erasing fewer neurons, at a larger sigma, never lowers a score of Table 3 further."""
    located = [cell for cell in paper.table("table3") if cell.method == "located"]
    series: dict[tuple[str, str], list[PrintedCell]] = {}
    for cell in sorted(located, key=lambda cell: cell.sigma or 0):
        series.setdefault((cell.model, cell.dataset), []).append(cell)
    violations, quantities = [], {}
    for (model, dataset), cells in series.items():
        reversals = [
            (more, fewer)
            for index, more in enumerate(cells)
            for fewer in cells[index + 1 :]
            if fewer.value < more.value
        ]
        if reversals:
            more, fewer = max(reversals, key=lambda pair: pair[0].value - pair[1].value)
            tested = ""
            if any(item.key == dataset for item in claim.numbers):
                samples = whole(number(claim, dataset))
                gap = difference(share(more), share(fewer), samples)
                quantities[f"{model}_{dataset}_z"] = gap.z
                tested = f" (z = {gap.z:.1f} at n = {samples})"
            scores = listed(f"{cell.printed} at sigma {cell.sigma:g}" for cell in cells)
            violations.append(
                f"{model_name(model)}, {dataset_name(dataset)}: {scores}; {fewer.printed} is lower than "
                f"{more.printed}, though fewer neurons are erased{tested}."
            )
    return consistent(claim, len(series), violations, (), quantities)


CHECKS = {
    "print-sigma-labels": sigma_labels,
    "print-share-table1": share_of_table1,
    "print-share-both-sigmas": share_at_both_sigmas,
    "print-share-rest": share_and_rest,
    "print-sigma-monotone": monotone_in_sigma,
}
