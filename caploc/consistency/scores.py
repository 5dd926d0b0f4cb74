"""Tables 2 and 3: are the differences that the text builds on larger than sampling error?

The number of items is not printed beside the tables; it is the one that the digits imply (see
`caploc.consistency.tables`). Code25K and the averages have none, so that they are compared by value alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction

from caploc.consistency.arithmetic import Difference, difference, from_known, significant
from caploc.consistency.printed import (
    cell_name,
    check,
    consistent,
    dataset_name,
    listed,
    model_name,
    number,
    share,
    whole,
)
from caploc.consistency.tables import scores_of
from caploc.findings import Measurement
from caploc.papers import Claim, Paper, PrintedCell

COUNTED = ("gsm8k", "emotion")


@check("print-gsm8k-guessing")
def guessing(paper: Paper, claim: Claim) -> Measurement:
    """No GSM8K score of a tuned model looks like guessing among four options."""
    chance, floor = number(claim, "guessing"), number(claim, "tuned scores exceed")
    samples = whole(number(claim, "gsm8k"))
    scores = [cell for cell in scores_of(paper, "gsm8k") if cell.value > floor.value]
    found = [from_known(share(cell), share(chance), samples) for cell in scores]
    alike = [cell for cell, gap in zip(scores, found, strict=True) if gap.p >= claim.level]
    violations = [
        f"{cell.printed} ({cell_name(cell)}) does not differ from {chance.printed} % at n = {samples}."
        for cell in alike
    ]
    others = [
        f"{cell.printed} ({cell_name(cell)}, p = {gap.p:.2g})"
        for cell, gap in zip(scores, found, strict=True)
        if cell not in alike
    ]
    base = paper.table("table3", method="base", dataset="gsm8k")
    remarks = [
        f"Of {len(scores)} scores above {floor.printed} %, {len(alike)} do not differ from guessing"
        + (f"; {listed(others)} do." if others else "."),
        "The untuned models score "
        f"{listed(f'{cell.printed} ({model_name(cell.model)})' for cell in base)}. The text says that the "
        "task needs multiple choice, but not among how many options: with four, tuning may have taught "
        "the format of an answer rather than mathematics.",
    ]
    return consistent(claim, len(scores), violations, remarks)


@check("print-located-best-average")
def located_best(paper: Paper, claim: Claim) -> Measurement:
    """In Table 2 the located neurons have the best average in every column."""
    averages = paper.table("table2", method="located", dataset="average")
    violations = [
        f"{cell.printed} ({cell_name(cell)}) is not above {rival.printed} ({rival.method})."
        for cell in averages
        for rival in _rivals(paper, cell)
        if rival.value >= cell.value
    ]
    wins = {}
    for dataset in dict.fromkeys(cell.dataset for cell in paper.table("table2") if cell.dataset != "average"):
        located = paper.table("table2", method="located", dataset=dataset)
        best = sum(all(cell.value > rival.value for rival in _rivals(paper, cell)) for cell in located)
        wins[dataset] = f"{best} of {len(located)} on {dataset_name(dataset)}"
    return consistent(
        claim, len(averages), violations, [f"By dataset they are best in {listed(wins.values())}."]
    )


@check("print-located-significant")
def located_significant(paper: Paper, claim: Claim) -> Measurement:
    """Tuning the located neurons beats both alternatives in every cell of Table 2 where sampling error is known."""
    pairs = [
        (cell, rival)
        for dataset in COUNTED
        for cell in paper.table("table2", method="located", dataset=dataset)
        for rival in _rivals(paper, cell)
    ]
    gaps = [difference(share(a), share(b), whole(number(claim, a.dataset))) for a, b in pairs]
    rows = list(zip(pairs, gaps, significant(gaps, claim.level), strict=True))
    violations = []
    for (cell, rival), gap, differs in rows:
        outcome = _outcome(gap, differs)
        if outcome != "higher":
            how = f"significantly {outcome} than" if differs else f"{outcome} from"
            violations.append(
                f"{cell.printed} ({cell_name(cell)}) is {how} {rival.printed} ({rival.method}): "
                f"{100 * gap.value:+.2f} points, z = {gap.z:.1f}."
            )
    remarks = []
    for dataset in COUNTED:
        for method in dict.fromkeys(rival.method for _, rival in pairs):
            kind = [row for row in rows if (row[0][0].dataset, row[0][1].method) == (dataset, method)]
            corrected = _counted(_outcome(gap, differs) for _, gap, differs in kind)
            uncorrected = _counted(_outcome(gap, gap.p < claim.level) for _, gap, _ in kind)
            also = f" (before Holm's correction {uncorrected})" if uncorrected != corrected else ""
            remarks.append(f"{dataset_name(dataset)}, located against {method}: {corrected}{also}.")
    beaten = [
        rival
        for (cell, rival), gap, differs in rows
        if (cell.dataset, rival.method, _outcome(gap, differs)) == ("gsm8k", "random", "higher")
    ]
    if beaten:
        remarks.append(
            f"On GSM8K located beats random in {len(beaten)} cells, in all of which random is at most "
            f"{max(beaten, key=lambda cell: cell.value).printed} %: there it has not learned to answer in "
            "the form that is scored."
        )
    return consistent(claim, len(pairs), violations, remarks + _code_gains(paper))


def _outcome(gap: Difference, differs: bool) -> str:
    return ("higher" if gap.value > 0 else "lower") if differs else "no different"


def _counted(outcomes: Iterable[str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in Counter(outcomes).items())


def _code_gains(paper: Paper) -> list[str]:
    """How much of the gain on Code25K random neurons reach, where a base score is printed for the model."""
    found = []
    for located in paper.table("table2", method="located", dataset="code25k", epoch=1):
        bases = paper.table("table3", model=located.model, method="base", dataset="code25k")
        random = next(cell for cell in _rivals(paper, located) if cell.method == "random")
        found += [
            f"No number of items is known for Code25K. {cell_name(random)} gains "
            f"{float(random.value - base.value):.2f} of the {float(located.value - base.value):.2f} points "
            "that located gains over the untuned model."
            for base in bases
        ]
    return found


@check("print-erasure-significant")
def erasure_significant(paper: Paper, claim: Claim) -> Measurement:
    """Erasing located neurons lowers Emotion further than erasing random ones, in every block of Table 3."""
    located = paper.table("table3", method="located", dataset="emotion")
    pairs = [(cell, _same_block(paper, cell, "random")) for cell in located]
    found = [difference(share(a), share(b), whole(number(claim, "emotion"))) for a, b in pairs]
    violations = [
        f"{a.printed} ({cell_name(a)}) is not significantly below {b.printed} (random): z = {gap.z:.1f}."
        for (a, b), gap, differs in zip(pairs, found, significant(found, claim.level), strict=True)
        if not (differs and gap.value < 0)
    ]
    scores = sorted((gap.z for gap in found), reverse=True)
    remarks = [f"z lies between {scores[0]:.1f} and {scores[-1]:.1f}."]
    remarks += [
        f"{a.printed} ({cell_name(a)}) is below guessing among any number of labels: the output is broken, "
        "not one skill lost."
        for a, _ in pairs
        if a.value == 0
    ]
    return consistent(claim, len(pairs), violations, remarks, {"z_least": scores[0], "z_most": scores[-1]})


@check("print-erasure-room")
def erasure_room(paper: Paper, claim: Claim) -> Measurement:
    """Every base score of Table 3 can fall by as much as an effect must have to count."""
    least = claim.margin.value if claim.margin else 0.0
    bases = [cell for cell in paper.table("table3", method="base") if cell.dataset != "average"]
    samples = number(claim, "gsm8k")
    violations = []
    for cell in bases:
        if share(cell) < Fraction(str(least)):
            items = round(share(cell) * whole(samples)) if cell.dataset == "gsm8k" else None
            said = f", {items} of {samples.printed} items" if items is not None else ""
            violations.append(
                f"{cell.printed} ({cell_name(cell)}{said}) cannot fall by {100 * least:g} points, and yet "
                "enters the average with the same weight as the others."
            )
    return consistent(claim, len(bases), violations)


@check("print-random-noise")
def random_noise(paper: Paper, claim: Claim) -> Measurement:
    """Erasing random neurons changes no score of Table 3 by more than sampling error."""
    cells = [cell for dataset in COUNTED for cell in paper.table("table3", method="random", dataset=dataset)]
    bases = [paper.table("table3", model=c.model, method="base", dataset=c.dataset)[0] for c in cells]
    found = [
        difference(share(a), share(b), whole(number(claim, a.dataset)))
        for a, b in zip(cells, bases, strict=True)
    ]
    violations = [
        f"{cell.printed} ({cell_name(cell)}) differs from the base score by {cell.change} points, z = {gap.z:.1f}."
        for cell, gap, differs in zip(cells, found, significant(found, claim.level), strict=True)
        if differs
    ]
    largest: list[tuple[PrintedCell, Difference]] = []
    for dataset in COUNTED:
        rows = [(cell, gap) for cell, gap in zip(cells, found, strict=True) if cell.dataset == dataset]
        largest.append(max(rows, key=lambda row: abs(row[1].value)))
    said = listed(f"{cell.change} points ({cell_name(cell)}, z = {gap.z:.1f})" for cell, gap in largest)
    return consistent(
        claim, len(cells), violations, [f"The largest changes are {said}: the scale of noise in this table."]
    )


def _rivals(paper: Paper, cell: PrintedCell) -> list[PrintedCell]:
    """The same cell under the other methods."""
    found = paper.table(
        cell.table, model=cell.model, sigma=cell.sigma, epoch=cell.epoch, dataset=cell.dataset
    )
    return [other for other in found if other.method != cell.method]


def _same_block(paper: Paper, cell: PrintedCell, method: str) -> PrintedCell:
    return next(other for other in _rivals(paper, cell) if other.method == method)
