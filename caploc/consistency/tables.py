"""Tables 2 and 3 against themselves: averages of rows, differences, accuracies as shares of whole items, marks; and
whether the differences that the text builds on are larger than sampling error.

The GRIM test (Brown and Heathers 2017) asks of how many items an accuracy, as printed, can be a share. That number is
not printed beside the tables; it is the one that the digits imply. Code25K and the averages have none, so that they are
compared by value alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

from caploc.consistency.arithmetic import (
    Difference,
    Explanation,
    difference,
    explanations,
    from_known,
    is_share_of,
    is_truncated_share_of,
    mean_of,
    rounding,
    significant,
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
    model_name,
    number,
    place,
    share,
    whole,
)
from caploc.findings import Measurement
from caploc.papers import Claim, Paper, PrintedCell

MOST_SHARED = 5_000
"""Two decimals fit a larger number of items by chance more often than not."""
RUNS = 3
"""A mean over three runs is the usual one; it is a share of three times as many items."""
MOST_ITEMS = 10_000
"""Beyond this, every number with two decimals is a share of whole items."""
DOCUMENTS = ("paper", "poster")
COUNTED = ("gsm8k", "emotion")
"""The datasets whose number of items is known."""


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
    """All scores of a dataset in Tables 2 and 3 are shares of one number of items, whichever; where they are not, they
    are held against the only number that is printed for it."""
    dataset = claim.numbers[0].key
    count = whole(number(claim, dataset))
    scores = scores_of(paper, dataset)
    name = dataset_name(dataset)
    smallest = smallest_count((cell.printed for cell in scores), MOST_ITEMS)
    if smallest and smallest <= MOST_SHARED:
        runs, rest = divmod(smallest, count)
        means = (
            f", as means of {runs} runs of {count} would be, of which the text says nothing"
            if runs > 1 and not rest
            else ""
        )
        return consistent(
            claim, len(scores), [], [f"All {len(scores)} are shares of {smallest} items{means}."], {}
        )
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


# ------------------------------------------------------------------------------------------------- sampling error


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
